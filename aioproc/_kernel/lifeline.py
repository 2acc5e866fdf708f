"""The death of a parent, which the kernel itself answers with SIGKILL to the child.

A lifeline is a pipe: only the parent holds the writing end, the child holds the reading end and has told the
kernel to send SIGKILL to it when that end hangs up. No thread watches, and a child that is busy in C code
with the interpreter's lock held dies all the same. PR_SET_PDEATHSIG would follow the thread that started the
child, and under forkserver the parent would be the server.

Source: fcntl(2) (F_SETOWN, F_SETSIG, O_ASYNC), pipe(7).
"""

from __future__ import annotations

import fcntl
import os
import signal

from aioproc._kernel.forks import no_fork
from aioproc._kernel.handle import Handle
from aioproc._kernel.watch import hung_up


def lifeline() -> tuple[Handle, Handle]:
    """A new lifeline: the end that the parent keeps, and the end that hangs up in the child."""
    with no_fork:  # a child that another thread forks in between would keep the parent's end open
        reading, writing = os.pipe()
        return Handle(writing, forks=False), Handle(reading)


def die_with(parent: Handle) -> None:
    """From now on this process is killed when nobody holds the parent's end of the lifeline any more."""
    fd = parent.fileno()
    if hasattr(fcntl, "F_SETSIG"):
        fcntl.fcntl(fd, fcntl.F_SETOWN, os.getpid())
        fcntl.fcntl(fd, fcntl.F_SETSIG, signal.SIGKILL)
        fcntl.fcntl(fd, fcntl.F_SETFL, fcntl.fcntl(fd, fcntl.F_GETFL) | os.O_ASYNC)
        if hung_up(fd):  # it died before the kernel was told
            os.kill(os.getpid(), signal.SIGKILL)
    else:
        _watch_in_a_thread(fd)


def _watch_in_a_thread(fd: int) -> None:
    import threading

    def watch() -> None:
        os.read(fd, 1)
        os._exit(1)

    threading.Thread(target=watch, name="aioproc lifeline", daemon=True).start()
