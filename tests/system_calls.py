"""Which system calls an operation makes, in order: exact, the same on every run, and without a tracer.

The interpreter tells of each C function that Python code calls. Each function of a module that speaks to the
kernel counts as a system call unless it is known to make none, so a new one is never overlooked. What C code
calls by itself is not seen: a constructor (``select.epoll()``), a finalizer, libuv's loop. Nor is
getrlimit(2), which goes by the clock: once a millisecond at most.
"""

from __future__ import annotations

import _socket
import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, ModuleType
from typing import Any, Final

MODULES: Final = {"posix", "select", "fcntl", "mmap", "time", "_signal", "_io", "io"}
WITHOUT: Final = {  # what only looks at memory, or is answered without the kernel
    *("fileno", "detach", "gettimeout", "CMSG_SPACE", "CMSG_LEN", "fspath", "waitstatus_to_exitcode"),
    *("monotonic", "perf_counter", "perf_counter_ns", "monotonic_ns", "time", "time_ns", "text_encoding"),
}
EPOLL: Final = {
    "poll": "epoll_wait",
    "register": "epoll_add",
    "modify": "epoll_change",
    "unregister": "epoll_del",
}


def name_of(function: Any, frame: FrameType) -> str | None:
    """What a C function is called if it makes a system call; the loop's own are ``yield`` and ``sleep``."""
    owner, name = getattr(function, "__self__", None), str(function.__name__)
    if isinstance(owner, _socket.socket):
        return None if name in WITHOUT else name
    of_module = owner is None or isinstance(owner, ModuleType)
    module = function.__module__ if of_module else type(owner).__module__
    if name in WITHOUT or (module not in MODULES and (module, name) != ("_socket", "socketpair")):
        return None
    if module == "select" and (of_module or (type(owner).__name__ == "poll" and name != "poll")):
        return None  # poll(2) has nothing to make and to register
    if frame.f_globals.get("__name__") == "selectors" and name == "poll":
        return "yield" if frame.f_locals["timeout"] == 0 else "sleep"
    return EPOLL.get(name, name) if type(owner).__name__ == "epoll" else name


def note_in(found: list[str]) -> None:
    """From now on, this thread's system calls are added to the list."""

    def note(frame: FrameType, event: str, function: Any) -> None:
        if event == "c_call":
            name = name_of(function, frame)
            if name is not None:
                found.append(name)

    sys.setprofile(note)


@contextmanager
def system_calls() -> Iterator[list[str]]:
    """Inside, the list grows by each call of this thread; no garbage is collected meanwhile."""
    found: list[str] = []
    gc.collect()
    gc.disable()
    note_in(found)
    try:
        yield found
    finally:
        sys.setprofile(None)
        gc.enable()


_in_this_process: list[str] = []


def begin_here() -> None:
    """For a pool's worker: note its system calls from now on."""
    note_in(_in_this_process)


def noted_here() -> list[str]:
    """For a pool's worker: what has been noted."""
    sys.setprofile(None)
    return _in_this_process
