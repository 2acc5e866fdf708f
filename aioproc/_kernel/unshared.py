"""Signals that this process handles in a way of its own, and what is forked here does not.

A worker leaves SIGTERM and SIGINT to its pool, and a child unwinds by them. A process that is forked there,
by whatever means, must end by them as any other does: the stdlib's `terminate` is a SIGTERM.

Source: os.register_at_fork, pthread_sigmask(3), signal.set_wakeup_fd.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any, Final

_ours: Final[dict[int, Any]] = {}
_forking = threading.local()


def handle_only_here(number: int, handler: Callable[[int, FrameType | None], object]) -> None:
    """Handle a signal; in a forked child it does again what it does in a new program."""
    if not _ours:  # else this process, or the one that it was forked from, has done it
        os.register_at_fork(before=_hold_back, after_in_parent=_let_come, after_in_child=_unhandle)
    _ours[number] = handler
    signal.signal(number, handler)


def keep_here(*numbers: int) -> None:
    """The same for signals of this process that something else handles now, as a loop does."""
    _ours.update({number: signal.getsignal(number) for number in numbers})


def _hold_back() -> None:
    """What comes to the child before it is ready must not be lost in our handler."""
    _forking.mask = signal.pthread_sigmask(signal.SIG_BLOCK, _ours)


def _let_come() -> None:
    signal.pthread_sigmask(signal.SIG_SETMASK, _forking.mask)


def _unhandle() -> None:
    signal.set_wakeup_fd(-1)  # by which a signal to us would be one to our parent's loop
    for number, handler in _ours.items():
        if signal.getsignal(number) is handler:  # else a task has set its own
            normal = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
            signal.signal(number, normal)
    _let_come()
