"""Every exception a user of aioproc may have to catch.

The classes that are both a stdlib ``queue`` and an ``asyncio`` exception are made on first use, because
a lean child must not pay for the import of asyncio just to know that a queue is empty.
"""

from __future__ import annotations

import queue
import sys
from typing import TYPE_CHECKING, Any

__all__ = [
    "NotOwner",
    "ProcessDied",
    "QueueEmpty",
    "QueueFull",
    "QueueShutDown",
    "RemoteError",
    "RemoteTraceback",
    "TasksLost",
    "WorkerDied",
    "queue_error",
]


class RemoteTraceback(Exception):
    """The traceback of another process, as text: the ``__cause__`` of an exception that came home."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text

    def __str__(self) -> str:
        return f"\n{self.text.rstrip()}"


class RemoteError(Exception):
    """An exception of another process whose text came instead of itself.

    It could not be pickled; or it is no Exception, but a cancellation, say, or a KeyboardInterrupt, which
    would be taken for one of the task that waits.
    """


class NotOwner(AssertionError, RuntimeError):
    """A lock, or a condition's lock, is not this task's to release, wait on or notify under.

    multiprocessing raises an AssertionError there, threading and asyncio a RuntimeError: this is both.
    """


class ProcessDied(RuntimeError):
    """A process ended without a result and without an exception: killed, or it called ``exit``.

    Attributes:
        pid: Its process id.
        exitcode: Its exit code; ``-N`` when signal N killed it, None when nobody knows.
    """

    def __init__(self, message: str, pid: int | None = None, exitcode: int | None = None) -> None:
        super().__init__(message, pid, exitcode)
        self.pid = pid
        self.exitcode = exitcode

    def __str__(self) -> str:
        return str(self.args[0])


class TasksLost(RuntimeError):
    """Every task still open in a ``JoinableQueue`` was in the hands of processes that have died.

    Attributes:
        count: How many were lost.
    """

    def __init__(self, count: int) -> None:
        super().__init__(count)
        self.count = count

    def __str__(self) -> str:
        return f"{self.count} task(s) taken from the queue by processes that died before task_done()"


if TYPE_CHECKING:
    import asyncio
    from concurrent.futures.process import BrokenProcessPool

    class QueueEmpty(queue.Empty, asyncio.QueueEmpty):
        """Nothing to get, now or within the timeout."""

    class QueueFull(queue.Full, asyncio.QueueFull):
        """No room to put, now or within the timeout."""

    class QueueShutDown(Exception):
        """The queue was shut down."""

    class WorkerDied(ProcessDied, BrokenProcessPool):
        """The worker that ran this one task died; the pool goes on."""


def _queue_bases(name: str, asyncio_name: str) -> tuple[type[Exception], ...]:
    import asyncio

    found = (getattr(queue, name, None), getattr(asyncio, asyncio_name, None))
    return tuple(base for base in found if base is not None) or (Exception,)


def _worker_bases() -> tuple[type[Exception], ...]:
    from concurrent.futures.process import BrokenProcessPool

    return ProcessDied, BrokenProcessPool


_made_on_first_use: dict[str, tuple[Any, str]] = {
    "QueueEmpty": (lambda: _queue_bases("Empty", "QueueEmpty"), "Nothing to get, now or within the timeout."),
    "QueueFull": (lambda: _queue_bases("Full", "QueueFull"), "No room to put, now or within the timeout."),
    "QueueShutDown": (lambda: _queue_bases("ShutDown", "QueueShutDown"), "The queue was shut down."),
    "WorkerDied": (_worker_bases, "The worker that ran this one task died; the pool goes on."),
}


def __getattr__(name: str) -> type[Exception]:
    try:
        bases, doc = _made_on_first_use[name]
    except KeyError:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None
    made = type(name, bases(), {"__doc__": doc, "__module__": __name__})
    return globals().setdefault(name, made)  # type: ignore[no-any-return]


def queue_error(name: str, lean: bool = True) -> type[Exception]:
    """The class to raise for "Empty", "Full", "ShutDown".

    Args:
        lean: Plain ``queue.X`` will do while asyncio is not imported.
    """
    plain: type[Exception] | None = getattr(queue, name, None)
    if lean and plain is not None and not _imported("asyncio"):
        return plain
    made = f"Queue{name}"
    return globals()[made] if made in globals() else __getattr__(made)


def _imported(name: str) -> bool:
    """Whether a module is there and whole: in a forked child, what a thread was importing never will be."""
    spec = getattr(sys.modules.get(name), "__spec__", None)
    return spec is not None and not getattr(spec, "_initializing", False)
