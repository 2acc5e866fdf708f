"""The other engine: any ``concurrent.futures.Executor``, its faults contained where its interface lets us.

Calls wait here, not in the executor, so that what waits can be cancelled, survives a broken executor, and is
counted. See ``docs/howto/dask.md`` and ``docs/design/pool.md`` for what an executor cannot do.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from concurrent.futures import BrokenExecutor, CancelledError, Executor, Future
from contextlib import suppress
from functools import partial
from typing import Any, Final

import anyio

from aioproc._kernel.background import Audience, Loop, log
from aioproc._kernel.outcome import summary
from aioproc._kernel.stuck import Watch
from aioproc._kernel.there import Answer, call_there, stay_a_moment
from aioproc._kernel.waiting import run_in_thread, running_backend
from aioproc._kernel.wire import Call
from aioproc.errors import RemoteError, RemoteTraceback, WorkerDied
from aioproc.orders import Item, Settings, WorkerStats
from aioproc.results import AsyncResult
from aioproc.staff import again

__all__ = ["Executors"]

START_SECONDS: Final = 0.1  # how long a worker is kept busy while its siblings start
DEAD_WORKER: Final = {"KilledWorker"}  # distributed's; it is no BrokenExecutor


class _Task:
    __slots__ = ("call", "future", "result", "retries")

    result: AsyncResult[Any]

    def __init__(self, call: Call, settings: Settings) -> None:
        self.call = call
        self.retries = settings.retries
        self.future: Future[Any] | None = None


class Executors:
    """The engine of a pool that was given an executor.

    Args:
        executor: An executor, which stays its owner's to shut down; or a function that makes one, which is
            shut down with the pool and replaced when it breaks.
        grown: Called when `capacity` may have.
    """

    def __init__(
        self, loop: Loop, executor: Executor | Callable[[], Executor], grown: Callable[[], object]
    ) -> None:
        self._loop = loop
        self._grown = grown
        self._backend = running_backend()
        given = executor if isinstance(executor, Executor) else None
        self._factory = None if isinstance(executor, Executor) else executor
        self._executor: Executor | None = None  # until its workers run
        self._failure: BaseException | None = None
        self._waiting: deque[_Task] = deque()
        self._running: set[_Task] = set()
        self._busy = 0  # what is under way in threads
        self._for_end = Audience()
        self._watch: Watch | None = None
        self._closed = False
        self._limit: int | None = None
        self.restarts = 0
        self.name = getattr(executor, "__name__", type(executor).__name__)
        self.capacity = os.cpu_count() or 1
        self._prepare(given)

    # What the pool asks for

    def order(self, call: Call, settings: Settings, item: Item | None) -> _Task:
        """An order for a call; NotImplementedError for what an executor cannot do."""
        if item is not None:
            self._refuse("stream what a generator yields")
        if settings.timeout is not None or settings.grace:
            self._refuse("stop a call that runs, as options(timeout=, grace=) would have to")
        if settings.retries and self._factory is None:
            self._refuse("go on after a worker's death; give the pool a function that makes the executor")
        return _Task(call, settings)

    def _refuse(self, what: str) -> None:
        raise NotImplementedError(f"{self.name} cannot {what}")

    def submit(self, order: _Task) -> None:
        """Take on a call that has its result."""
        if self._failure is not None:
            order.result._raise(_like(self._failure))
            return
        self._waiting.append(order)
        self._feed()

    def stop(self, result: AsyncResult[Any], error: BaseException) -> bool:
        """Settle a result whose call has not started."""
        task: _Task = result._task
        if task.future is not None and not task.future.cancel():
            self._refuse("stop a call that runs")
        result._raise(error)
        return True

    def grant(self, result: AsyncResult[Any], items: int) -> None:
        """There are no streams."""

    def close(self) -> None:
        """Shut down the executor, if it is ours."""
        if not self._closed:
            self._closed = True
            if self._factory is None:
                self._stop_watching()
            else:
                self._spawn(self._shut_down, f"shut down {self.name}")

    def terminate(self, open_results: Iterable[AsyncResult[Any]]) -> None:
        """Cancel what waits; what runs goes on unheard, as an executor cannot stop it."""
        self._waiting.clear()
        for result in list(open_results):
            task: _Task = result._task
            if task.future is not None:
                task.future.cancel()
            result._raise(CancelledError())
        self.close()

    async def join(self) -> None:
        """Wait until an executor of ours has shut down."""
        while self._busy:
            await self._for_end.news(self._loop)

    def queued(self) -> int:
        """How many calls wait here."""
        return sum(not task.result.ready() for task in self._waiting)

    def workers(self) -> tuple[WorkerStats, ...]:
        """An executor does not tell; a line for each call that it has in hand."""
        return tuple(WorkerStats(t.result.pid, "busy", t.result.name, 0) for t in self._running)

    # Starting, breaking, ending

    def _prepare(self, executor: Executor | None) -> None:
        """Make the executor, unless there is one, and start its workers; in a thread, as both may block."""
        if executor is not None and not _starts_processes(executor):
            self._take_in(executor)
            return
        self._spawn(partial(self._made, executor), f"start the workers of {self.name}")

    async def _made(self, executor: Executor | None) -> None:
        def make() -> Executor:
            made = executor if executor is not None else self._factory()  # type: ignore[misc]
            if not isinstance(made, Executor):
                raise TypeError(f"{self.name} was to make an Executor, not {made!r}")
            if _starts_processes(made):
                _start_all_workers(made)
            return made

        try:
            self._take_in(await run_in_thread(make, "executors"))
        except anyio.get_cancelled_exc_class():  # somebody cancels all tasks
            self._give_up(CancelledError(f"the start of {self.name} was cancelled"))
            raise
        except BaseException as failure:
            self._give_up(failure)

    def _give_up(self, failure: BaseException) -> None:
        self._failure = failure
        for task in self._waiting:
            task.result._raise(_like(failure))
        self._waiting.clear()

    def _take_in(self, executor: Executor) -> None:
        self._executor = executor
        self.name = type(executor).__name__
        self._limit = getattr(executor, "_max_workers", None)
        self.capacity = self._limit or os.cpu_count() or 1
        self._watch = Watch(self._loop, executor, self._spawn)
        self._watch.look()
        self._feed()
        self._grown()

    async def _shut_down(self) -> None:
        with anyio.CancelScope(shield=True):
            while self._busy > 1:  # an executor that is being made
                await self._for_end.news(self._loop)
            if self._executor is not None:
                await run_in_thread(self._executor.shutdown, "executors")

    def _spawn(self, work: Callable[[], Awaitable[None]], name: str) -> None:
        """Do work in the background that `join` waits for."""

        async def counted() -> None:
            try:
                await work()
            except Exception:  # nobody awaits this
                log.exception("could not %s", name)
            finally:
                self._ended_one()

        self._busy += 1
        self._loop.spawn(counted, name)

    def _ended_one(self) -> None:
        self._busy -= 1
        if self._closed and self._busy == 0:
            self._stop_watching()
        self._for_end.tell(self._loop)

    def _stop_watching(self) -> None:
        watch, self._watch = self._watch, None
        if watch is not None:
            watch.stop()

    def _replace(self, broken: Executor) -> None:
        if self._factory is None or broken is not self._executor or self._closed:
            return
        self._executor = None
        self._stop_watching()
        self.restarts += 1
        self._spawn(partial(run_in_thread, broken.shutdown, "executors"), f"put away a broken {self.name}")
        self._prepare(None)

    # Calls

    def _feed(self) -> None:
        while (
            self._executor is not None
            and self._waiting
            and (self._limit is None or len(self._running) < self._limit)
        ):
            task = self._waiting.popleft()
            if not task.result.ready():
                self._hand_over(task)

    def _hand_over(self, task: _Task) -> None:
        executor = self._executor
        assert executor is not None
        self._running.add(task)
        try:
            future = executor.submit(call_there, *task.call, self._backend)
        except BaseException as failure:
            self._failed(task, executor, failure)
            return
        task.future = future
        if self._watch is not None:
            self._watch.look()
        task.result.started = self._limit is not None
        future.add_done_callback(lambda done: self._loop.from_thread(self._ended, task, executor, done))

    def _ended(self, task: _Task, executor: Executor, future: Future[Answer]) -> None:
        try:
            pid, seconds, returned, value, text = future.result()
        except BaseException as failure:
            self._failed(task, executor, failure)
            self._feed()
            return
        self._running.discard(task)
        task.result.pid, task.result.started, task.result.elapsed = pid, True, seconds
        if returned:
            task.result._settle(value)
        else:
            error = RemoteError(value) if isinstance(value, str) else value
            task.result._raise(_caused(error, RemoteTraceback(text)))
        self._feed()

    def _failed(self, task: _Task, executor: Executor, failure: BaseException) -> None:
        self._running.discard(task)
        task.future = None
        broken = isinstance(failure, BrokenExecutor)
        if broken:
            self._replace(executor)
        if broken and task.retries > 0 and self._factory is not None and not task.result.ready():
            task.retries -= 1
            self._waiting.append(task)
        else:
            task.result._raise(self._told(failure))

    def _told(self, failure: BaseException) -> BaseException:
        if isinstance(failure, BrokenExecutor) or type(failure).__name__ in DEAD_WORKER:
            died = WorkerDied(f"a worker of {self.name} died: {failure}")
            died.__cause__ = failure
            return died
        if not isinstance(failure, Exception):  # which would end the program, or a task, that waits
            return RemoteError(summary(failure))
        return failure


def _caused(error: BaseException, cause: BaseException) -> BaseException:
    """The error with its cause, which is not assigned to: a frozen dataclass refuses that."""
    try:
        raise error from cause
    except BaseException as caught:
        return caught.with_traceback(None)


def _like(failure: BaseException) -> BaseException:
    """The same failure for another call, with the traceback that it has from the executor's maker."""
    return again(failure).with_traceback(failure.__traceback__)


def _starts_processes(executor: Executor) -> bool:
    """Whether it starts processes in the thread that submits: the stdlib's and loky's do."""
    return hasattr(executor, "_max_workers") and hasattr(executor, "_processes")


def _start_all_workers(executor: Executor) -> None:
    # A ProcessPoolExecutor's worker that is started on demand is not watched until something else wakes
    # the manager thread: killed before that, its call hangs.
    workers: int = executor._max_workers  # type: ignore[attr-defined]
    with suppress(BrokenExecutor):  # each call will meet it
        busy = [executor.submit(stay_a_moment, START_SECONDS) for _ in range(workers)]
        for each in busy:
            each.result()
