"""Whether an interrupt may have left something half done that only the end of its process undoes.

A KeyboardInterrupt is raised wherever the main thread is, also between a system call that took a lock's token
or a place in a queue and the line that notes it. What is lost there stays taken while the process lives.

Source: signal(7); the reference of Python's signal module, "Note on Signal Handlers and Exceptions".
"""

from __future__ import annotations

from types import FrameType
from typing import Final

from aioproc._kernel.waiting import found_in, sleep_until_ready

_WORKER: Final = "aioproc._kernel.worker"
_CALL_USERS_CODE: Final = {"aioproc._kernel.chunks", "aioproc.context"}  # and hold nothing meanwhile


def in_our_midst(frame: FrameType | None) -> bool:
    """Whether a task was interrupted in the midst of our own code, and not merely asleep there."""
    if frame is not None and frame.f_code is sleep_until_ready.__code__:
        return False  # nothing was in hand, and what is further out tidies up
    while frame is not None:
        module = str(frame.f_globals.get("__name__"))
        if module == _WORKER:
            return False
        if module.startswith("aioproc.") and module not in _CALL_USERS_CODE:
            return True
        frame = frame.f_back
    return False


def tokens_held() -> int:
    """How many tokens of locks and semaphores this process holds."""
    here = found_in("aioproc._kernel.token", "_here")  # without it there are none
    return sum(tokens.held for tokens in list(here.values())) if here else 0
