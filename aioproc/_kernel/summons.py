"""A signal when a hub dies, for members without a loop: it wakes the main thread, whatever that waits for.

SIGURG, because a process that has no handler for it ignores it.

Source: fcntl(2) (F_SETOWN, F_SETSIG, O_ASYNC), signal(7).
"""

from __future__ import annotations

import fcntl
import os
import signal
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, Final

from aioproc._kernel.handle import Handle

_SIGNAL: Final = signal.SIGURG

_answers: weakref.WeakSet[Any] = weakref.WeakSet()
_before: Any = signal.SIG_DFL
_held = 0  # how often `held_back` was entered
_missed = False


class Summons:
    """Calls ``answer`` in the main thread when a descriptor that it was told of has news."""

    def __init__(self, answer: Callable[[], None]) -> None:
        self.answer = answer
        global _before
        if signal.getsignal(_SIGNAL) is not _summoned:
            _before = signal.signal(_SIGNAL, _summoned)
        _answers.add(self)

    def listen(self, handle: Handle) -> None:
        """From now on, news of this descriptor; what was there before is not told."""
        fd = handle.fileno()
        fcntl.fcntl(fd, fcntl.F_SETOWN, os.getpid())
        fcntl.fcntl(fd, fcntl.F_SETSIG, _SIGNAL)
        fcntl.fcntl(fd, fcntl.F_SETFL, fcntl.fcntl(fd, fcntl.F_GETFL) | os.O_ASYNC)

    def end(self) -> None:
        """No more; the last one puts back the handler that was there before."""
        _answers.discard(self)
        if not _answers and possible() and signal.getsignal(_SIGNAL) is _summoned:
            signal.signal(_SIGNAL, _before)


def possible() -> bool:
    """Whether this thread may set a handler."""
    return threading.current_thread() is threading.main_thread()


@contextmanager
def held_back() -> Iterator[None]:
    """While inside, nobody answers, if this is the main thread; afterwards all do who were called.

    For who holds a lock that an answer would wait for, in the very thread that it interrupts.
    """
    global _held, _missed
    if not possible():
        yield
        return
    _held += 1
    try:
        yield
    finally:
        _held -= 1
        if _missed and not _held:
            _missed = False
            _answer()


def _answer() -> None:
    for summons in list(_answers):
        summons.answer()


def _summoned(number: int, frame: FrameType | None) -> None:
    global _missed
    if _held:
        _missed = True
    else:
        _answer()
    if callable(_before):
        _before(number, frame)


def _forget_in_forked_child() -> None:
    global _held, _missed
    _answers.clear()
    _held, _missed = 0, False


os.register_at_fork(after_in_child=_forget_in_forked_child)
