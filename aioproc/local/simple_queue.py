"""SimpleQueue and its synchronous twin: get, put and empty."""

from __future__ import annotations

from typing import Any, Generic, TypeVar

from aioproc.local.queue import Queue, SyncQueue

__all__ = ["SimpleQueue", "SyncSimpleQueue"]

T = TypeVar("T")


class SimpleQueue(Generic[T]):
    """A queue without a limit and with little to say.

    >>> async def main():
    ...     q = SimpleQueue()
    ...     await q.put("hello")
    ...     print(await q.get())
    >>> import anyio; anyio.run(main)
    hello
    """

    def __init__(self) -> None:
        self._queue: Queue[T] = Queue()

    @property
    def sync(self) -> SyncSimpleQueue[T]:
        """The same queue for code that has no event loop."""
        return _simple(SyncSimpleQueue, self._queue.sync)  # type: ignore[no-any-return]

    async def put(self, item: T) -> None:
        """Put an item; see `Queue.put`."""
        await self._queue.put(item)

    async def get(self) -> T:
        """Take the oldest item, waiting while there is none; see `Queue.get`."""
        return await self._queue.get()

    def empty(self) -> bool:
        """Whether there is nothing to get just now."""
        return self._queue.empty()

    def close(self) -> None:
        """Use it no more in this process."""
        self._queue.close()

    def __reduce__(self) -> tuple[Any, ...]:
        return _simple, (SimpleQueue, self._queue)

    def __repr__(self) -> str:
        return repr(self._queue).replace("Queue", "SimpleQueue", 1)


class SyncSimpleQueue(Generic[T]):
    """The twin of `SimpleQueue` for code without an event loop."""

    def __init__(self) -> None:
        self._queue: SyncQueue[T] = SyncQueue()

    @property
    def aio(self) -> SimpleQueue[T]:
        """The same queue for coroutines."""
        return _simple(SimpleQueue, self._queue.aio)  # type: ignore[no-any-return]

    def put(self, obj: T) -> None:
        """See `SimpleQueue.put`."""
        self._queue.put(obj)

    def get(self) -> T:
        """See `SimpleQueue.get`."""
        return self._queue.get()

    def empty(self) -> bool:
        """Whether there is nothing to get just now."""
        return self._queue.empty()

    def close(self) -> None:
        """Use it no more in this process."""
        self._queue.close()

    def __reduce__(self) -> tuple[Any, ...]:
        return _simple, (SyncSimpleQueue, self._queue)

    def __repr__(self) -> str:
        return repr(self._queue).replace("Queue", "SimpleQueue", 1)


def _simple(kind: Any, queue: Any) -> Any:
    face = object.__new__(kind)
    face._queue = queue
    return face
