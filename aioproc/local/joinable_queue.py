"""JoinableQueue and its synchronous twin: a queue of tasks that somebody can wait for."""

from __future__ import annotations

from functools import partial
from typing import TypeVar

from aioproc._kernel.ledger import Busy
from aioproc._kernel.store import Store
from aioproc._kernel.tasks import Tasks
from aioproc._kernel.waiting import until, until_blocking
from aioproc.local.queue import Queue, SyncQueue, _facing

__all__ = ["JoinableQueue", "SyncJoinableQueue"]

T = TypeVar("T")


class JoinableQueue(Queue[T]):
    """A queue whose items are tasks: open from the put until a consumer says that it is done.

    Args:
        maxsize: Most items at a time, counted over all processes; 0 or less for no limit.

    >>> async def main():
    ...     q = JoinableQueue()
    ...     await q.put("work")
    ...     print(await q.get())
    ...     q.task_done()
    ...     await q.join()
    >>> import anyio; anyio.run(main)
    work
    """

    def __init__(self, maxsize: int = 0) -> None:
        self._store = Store(maxsize, tasks=True)

    @property
    def sync(self) -> SyncJoinableQueue[T]:
        """The same queue for code that has no event loop."""
        return _facing(SyncJoinableQueue, self._store)  # type: ignore[no-any-return]

    def task_done(self) -> None:
        """Say that a task which this process took is done; also after `close`.

        Raises:
            ValueError: All that it took are done already.

        If a peer dies: Nothing; a task that this process never says is done is lost when it ends.
        Cost: Two system calls.
        """
        self._store.task_done()

    async def join(self) -> None:
        """Wait until all tasks are done.

        Raises:
            TasksLost: Those still open were in the hands of processes that have died; they count as done now,
                and all who were waiting are told.

        If cancelled: Nothing changes.
        If a peer dies: Its open tasks are lost; who waits learns of it once all others are done.
        Cost: One wake-up.
        """
        tasks = _tasks(self._store)
        joined = partial(tasks.joined, tasks.lost())
        while True:
            try:
                return await until(joined, tasks.work, "read")
            except Busy:
                with self._store.ledger.entries() as (over, bell):
                    await until(over, bell, "read")


class SyncJoinableQueue(SyncQueue[T]):
    """The twin of `JoinableQueue` for code without an event loop."""

    def __init__(self, maxsize: int = 0) -> None:
        self._store = Store(maxsize, tasks=True)

    @property
    def aio(self) -> JoinableQueue[T]:
        """The same queue for coroutines."""
        return _facing(JoinableQueue, self._store)  # type: ignore[no-any-return]

    def task_done(self) -> None:
        """See `JoinableQueue.task_done`."""
        self._store.task_done()

    def join(self) -> None:
        """See `JoinableQueue.join`."""
        tasks = _tasks(self._store)
        joined = partial(tasks.joined, tasks.lost())
        while True:
            try:
                return until_blocking(joined, tasks.work, "read")
            except Busy:
                with self._store.ledger.entries() as (over, bell):
                    until_blocking(over, bell, "read")


def _tasks(store: Store) -> Tasks:
    store.check()
    assert store.tasks is not None
    return store.tasks
