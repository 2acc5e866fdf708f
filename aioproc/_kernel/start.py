"""Starting a child without holding up the loop, and ending the daemons at exit.

The arguments are pickled in the caller's thread, so that they are what they were at the call; only the
launch, which blocks for milliseconds, runs in a thread (a fork does not: it would copy a thread too many).
"""

from __future__ import annotations

import os
import threading
import time
from multiprocessing import connection, process, util
from typing import Any, Final

from aioproc._kernel.background import running_loop
from aioproc._kernel.child import Child
from aioproc._kernel.launch import LAUNCHES, Launch
from aioproc._kernel.waiting import limiter, loop_key, shielded

STARTS_AT_ONCE: Final = 4  # more threads would only fight for the interpreter
EXIT_GRACE_SECONDS: Final = 5.0
START_THREAD: Final = "aioproc start"

_process: Any = process  # typeshed does not know all of it


class Starting:
    """A start that is under way, for which other tasks can wait."""

    def __init__(self) -> None:
        import anyio

        self._loop = loop_key()
        self._ended = anyio.Event()

    def end(self) -> None:
        self._ended.set()

    async def ended(self) -> None:
        """Wait until it has ended, well or not; in another loop than its own, not at all."""
        if self._loop == loop_key():
            await self._ended.wait()


async def start(child: Child, method: str) -> None:
    """Start the child.

    If cancelled: There is no child: one that was already made is killed.
    """
    _process._cleanup()
    launch = LAUNCHES[method](child)
    if method == "fork":
        async with limiter("starts", STARTS_AT_ONCE):  # other tasks run between two forks
            launch.launch()
    else:
        await _in_a_thread(launch)
    _register(child, launch)


def _register(child: Child, launch: Launch) -> None:
    inner: Any = child
    inner._popen = launch
    inner._sentinel = launch.sentinel
    launch.child = child
    _process._children.add(child)
    if child.daemon:
        _end_daemons_at_exit()


async def _in_a_thread(launch: Launch) -> None:
    """Launch in a thread; a cancellation is heard once the thread has undone what it did.

    A thread of our own, which ends with the launch: one of anyio's waits for its loop to end it, and never
    ends if it was made while asyncio.run() was ending already, as a pool may do that replaces a worker.
    """
    run = _Run(launch)
    try:
        async with limiter("starts", STARTS_AT_ONCE):
            threading.Thread(target=run.work, name=START_THREAD).start()
            await run.ended.wait()
        if run.failure is not None:
            raise run.failure
    except BaseException:  # a cancellation; trio also raises KeyboardInterrupt here
        if run.leave():
            await shielded(run.ended.wait)
        raise


class _Run:
    """A launch in a thread, which undoes it if nobody waits for it any more."""

    def __init__(self, launch: Launch) -> None:
        import anyio

        self._launch = launch
        self._loop = running_loop()
        self._guard = threading.Lock()
        self._state = "new"
        self._left = False
        self.ended = anyio.Event()  # and undone, if nobody waited any more
        self.failure: BaseException | None = None

    def work(self) -> None:
        """Launch (in the thread)."""
        with self._guard:
            if self._left:
                return
            self._state = "running"
        try:
            self._launch.launch()
        except BaseException as failure:
            self.failure = failure
        self._end(undo=self.failure is None)

    def _end(self, undo: bool) -> None:
        with self._guard:
            self._state = "launched" if undo else "failed"
            undo = undo and self._left
        if undo:
            _undo(self._launch)
        self._tell()

    def _tell(self) -> None:
        self._loop.from_thread(self.ended.set)  # no wait: a loop may be about to be closed

    def leave(self) -> bool:
        """Nobody waits any more (in the loop); True while the thread is about to undo it."""
        with self._guard:
            self._left = True
            if self._state == "new":  # its thread may come late
                self._launch.forget()
            if self._state == "launched":
                _undo(self._launch)
            return self._state == "running"


def _undo(launch: Launch) -> None:
    launch.kill()
    launch.wait()
    launch.close()


_finalized_in: int | None = None


def _end_daemons_at_exit() -> None:
    global _finalized_in
    if _finalized_in != os.getpid():
        _finalized_in = os.getpid()
        util.Finalize(None, _end_daemons, exitpriority=100)


def _end_daemons() -> None:
    """Stop the daemons: SIGTERM, so that they unwind, then SIGKILL."""
    launches = [
        child._popen  # type: ignore[attr-defined]
        for child in list(_process._children)
        if isinstance(child, Child) and child.daemon
    ]
    for launch in launches:
        launch.terminate()
    deadline = time.monotonic() + EXIT_GRACE_SECONDS
    # `ended` is looked up anew each time: it is another one when the fork server was killed.
    while (waiting := [launch for launch in launches if launch.poll() is None]) and (
        left := deadline - time.monotonic()
    ) > 0:
        connection.wait([launch.ended.fileno() for launch in waiting], left)
    for launch in waiting:
        launch.kill()
