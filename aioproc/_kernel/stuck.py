"""Executors that do not notice a worker's death, because it was in the middle of a result.

The thread that reads results then waits for the rest for ever, and with it every call. So each worker is
watched from here; when one is dead and still listed a moment later, the others are ended and the pipe as
well, which is what the executor does itself when it notices. It sees the end of file, and breaks.

Source: concurrent/futures/process.py (_ExecutorManagerThread), pidfd_open(2), dup2(2).
"""

from __future__ import annotations

import os
import signal
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Final

from aioproc._kernel.background import Loop, Stop
from aioproc._kernel.handle import Handle
from aioproc._kernel.waiting import run_in_thread

Spawn = Callable[[Callable[[], Awaitable[None]], str], object]
NOTICE_SECONDS: Final = 0.5  # after which an executor has noticed a death, if it ever will


class Watch:
    """Watches the processes of an executor, where it has any that can be seen.

    The attributes read here are private to the stdlib's executor and to loky's; of one that lacks them,
    nothing is watched.

    Args:
        spawn: Runs a coroutine function under a name in the background, to the end.
    """

    def __init__(self, loop: Loop, executor: Any, spawn: Spawn) -> None:
        self._loop = loop
        self._executor = executor
        self._spawn = spawn
        self._stops: dict[int, Stop] = {}

    def look(self) -> None:
        """Watch those that were started since."""
        for pid in list(getattr(self._executor, "_processes", None) or ()):
            if pid not in self._stops:
                self._begin(pid)

    def _begin(self, pid: int) -> None:
        try:
            handle = Handle(os.pidfd_open(pid))
        except OSError:  # it was reaped, so the executor knows
            return
        unwatch = self._loop.watch(handle, lambda: self._died(pid))

        def stop() -> None:
            unwatch()
            handle.close()

        self._stops[pid] = stop

    def _died(self, pid: int) -> None:
        self._stops.pop(pid)()
        self._stops[pid] = self._loop.later(NOTICE_SECONDS, partial(self._judge, pid))

    def _judge(self, pid: int) -> None:
        del self._stops[pid]
        work = partial(_break_if_stuck, pid, self._executor)
        self._spawn(partial(run_in_thread, work, "stuck executors"), "look after an executor")

    def stop(self) -> None:
        """Watch no more."""
        for stop in self._stops.values():
            stop()
        self._stops.clear()


def _break_if_stuck(dead: int, executor: Any) -> None:
    processes: dict[int, Any] = dict(getattr(executor, "_processes", None) or {})
    if dead not in processes or not processes[dead].exitcode:  # it ended in order
        return
    for pid, process in processes.items():
        if process.exitcode is None:
            os.kill(pid, signal.SIGKILL)
    writer = getattr(getattr(executor, "_result_queue", None), "_writer", None)
    if writer is not None and not writer.closed:
        # That thread may close the descriptor at any moment: so it is not closed here, but something else
        # is put in its place.
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), writer.fileno(), inheritable=False)
