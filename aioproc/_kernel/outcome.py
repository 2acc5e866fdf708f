"""What comes home from another process: a value, or an exception with its traceback as text."""

from __future__ import annotations

import pickle
import signal
import traceback
from types import TracebackType
from typing import Any, Final

from aioproc._kernel.parcel import Packed, pack, pickled
from aioproc.errors import RemoteError, RemoteTraceback

_VALUE: Final = 0
_FAILURE: Final = 1


def returned(value: object) -> Packed:
    """A value on its way home; PicklingError when it cannot travel."""
    return pack((_VALUE, value))


def raised(error: BaseException) -> Packed:
    """An exception on its way home: its text, and itself where it can travel and do no harm there."""
    itself = None
    try:
        # A KeyboardInterrupt or a cancellation is not meant for who waits, nor what opens as one.
        if isinstance(error, Exception):
            apart = pickled(error)  # for who has not its class, and is left with the text
            itself = apart if isinstance(pickle.loads(apart), Exception) else None
    except BaseException:  # its pickling and unpickling are the user's code
        pass
    return pack((_FAILURE, itself, summary(error), described(error)))


def opened(message: tuple[Any, ...]) -> Any:
    """The value that came home.

    Raises:
        BaseException: The exception that came home, with a RemoteTraceback as its cause.
    """
    if message[0] == _VALUE:
        return message[1]
    _, itself, words, text = message
    raise _reopened(itself, words) from RemoteTraceback(text)


def _reopened(itself: bytes | None, words: str) -> BaseException:
    if itself is not None:
        try:
            error = pickle.loads(itself)
            if isinstance(error, Exception):
                return error
        except Exception:  # a module that only the other process could import
            pass
    return RemoteError(words)


def described(error: BaseException) -> str:
    """The traceback as Python prints it, without the frames of aioproc that called the user's code."""
    return "".join(traceback.format_exception(type(error), error, theirs(error.__traceback__)))


def ending(code: int) -> str:
    """An exit code in words."""
    if code >= 0:
        return f"exit code {code}"
    known = -code in set(signal.Signals)  # a real-time signal has no name in Python
    return f"killed by {signal.Signals(-code).name if known else f'signal {-code}'}"


def theirs(trace: TracebackType | None) -> TracebackType | None:
    """The part of a traceback that begins in the user's code (all of it when none of it is theirs)."""
    rest = trace
    while rest is not None and _is_ours(rest):
        rest = rest.tb_next
    return rest or trace


def _is_ours(trace: TracebackType) -> bool:
    return str(trace.tb_frame.f_globals.get("__name__", "")).partition(".")[0] in _CALLERS


def summary(error: BaseException) -> str:
    """Its class and message, as the end of a traceback says it."""
    if isinstance(error, RemoteError):  # its text is one
        return str(error)
    return "".join(traceback.format_exception_only(type(error), error)).strip()


_CALLERS: Final = {"aioproc", "anyio", "asyncio", "trio"}
