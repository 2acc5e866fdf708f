"""Queue and its synchronous twin: items between processes, each to exactly one consumer."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Iterator
from typing import Any, Final, Generic, TypeVar

from aioproc._kernel.arguments import integer
from aioproc._kernel.channel import Unopened, sealed_in_loop
from aioproc._kernel.parcel import pack
from aioproc._kernel.store import Store
from aioproc._kernel.waiting import checkpoint, spent, until_blocking, until_blocking_later, until_later
from aioproc.errors import queue_error

__all__ = ["Queue", "SyncQueue"]

_NOTHING: Final[Any] = object()

T = TypeVar("T")
_Q = TypeVar("_Q", bound="_Face")


class _Face:
    """What both faces are: a view of one store, which can travel."""

    _store: Store
    _lean = True  # a face for code that may not have imported asyncio

    def __reduce__(self) -> tuple[Any, ...]:
        return _facing, (type(self), self._store)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {_state(self._store)}>"

    def qsize(self) -> int:
        """How many items there are: those that the kernel has and those that this process still keeps.

        If a peer dies: Right; what it left in disorder is set right first.
        Cost: A few system calls when bounded or joinable; else one for each item.
        """
        return self._store.qsize()

    def empty(self) -> bool:
        """Whether there is nothing to get just now."""
        return self._store.empty()

    def full(self) -> bool:
        """Whether there is no place to put just now; never, when it is unbounded."""
        return self._store.full()

    def put_nowait(self, item: Any) -> None:
        """Put an item if there is a place now.

        Raises:
            QueueFull: There is none.
            QueueShutDown: The queue was shut down.
            pickle.PicklingError: The item cannot be pickled; the message names it.

        If a peer dies: Nothing.
        Cost: One system call; seven when bounded. A payload of several MB is copied here and now.
        """
        packed = pack(item)
        store = self._store
        try:
            if store.may_wait and not store.ledger.size:
                until_blocking(lambda: store.put(packed, not self._lean), store.room)
            else:
                store.put(packed, not self._lean)
        except BlockingIOError:
            raise queue_error("Full", self._lean)("no place in time") from None
        except BrokenPipeError:
            raise queue_error("ShutDown", self._lean)("the queue was shut down") from None

    def get_nowait(self) -> Any:
        """Take the oldest item if there is one now.

        Raises:
            QueueEmpty: There is none.
            QueueShutDown: There is none and the queue was shut down.

        If a peer dies: Whole items stay; a half-sent one is never seen.
        Cost: One system call; seven when bounded. Bytes of several MB are copied here and now.
        """
        store = self._store
        try:
            arrival = store.take()
        except BlockingIOError:
            raise queue_error("Empty", self._lean)("no item in time") from None
        except EOFError:
            raise queue_error("ShutDown", self._lean)("the queue was shut down") from None
        return store.open(arrival)

    def shutdown(self, immediate: bool = False) -> None:
        """End the queue for all processes: a put raises QueueShutDown, a get does so once nothing is left.

        Args:
            immediate: Throw away what is left.

        What this process has accepted and the kernel not yet taken is written first; what other processes
        still keep then is thrown away, so let them `flush` before.

        Cost: One system call; with ``immediate`` one for each item more.
        """
        self._store.shut_down(immediate)

    def close(self) -> None:
        """Use it no more in this process; what was put here is still written. Twice is harmless."""
        self._store.close()

    def cancel_join_thread(self) -> None:
        """At the end of this process, do not wait until all that was put here is written."""
        self._store.backlog.abandoned = True


class Queue(_Face, Generic[T]):
    """A queue between processes that coroutines wait for.

    Args:
        maxsize: Most items at a time, counted over all processes; 0 or less for no limit.

    Each item goes to exactly one consumer; the items of one producer stay in order. It can be passed to any
    process, as an argument or through another queue or pipe. ``sync`` is its twin for code without a loop.

    >>> async def main():
    ...     q = Queue()
    ...     await q.put("hello")
    ...     print(await q.get())
    >>> import anyio; anyio.run(main)
    hello
    """

    _lean = False

    def __init__(self, maxsize: int = 0) -> None:
        self._store = Store(maxsize)

    @property
    def sync(self) -> SyncQueue[T]:
        """The same queue for code that has no event loop."""
        return _facing(SyncQueue, self._store)  # type: ignore[no-any-return]

    async def put(self, item: T, block: bool = True, timeout: float | None = None) -> None:
        """Put an item, waiting while the queue is full.

        Args:
            item: Anything that can be pickled.
            block: Whether to wait at all.
            timeout: Seconds to wait; None waits for ever.

        Raises:
            QueueFull: There was no place in time; nothing was put.
            QueueShutDown: The queue was shut down; nothing was put.
            OSError: No file descriptor is free, or too many of this user's are in flight and none of them in
                this queue (``ulimit -n``); nothing was put.
            pickle.PicklingError: The item cannot be pickled; the message names it.

        If cancelled: The item was not put.
        If a peer dies: Its place comes back, also when it died in the middle of a put or get.
        Cost: One system call; seven when bounded. More than 4 MB are copied in a thread.
        """
        store = self._store
        packed = pack(item)
        if spent():
            await checkpoint()
        try:
            if not isinstance(packed, bytes):
                await sealed_in_loop(packed)
            elif store.is_plain and not store.backlog.kept:  # the usual case, with nothing in between
                try:
                    store.writer.send(packed)
                    return
                except BlockingIOError:
                    pass
            waits = block or not store.ledger.size
            if not (waits and store.putters):
                try:
                    store.put(packed, True)
                    return
                except BlockingIOError:
                    if not waits:
                        raise
            await until_later(
                lambda: store.put(packed, True),
                store.room,
                "read",
                store.patience(timeout),
                store.right_to_put,
            )
        except (BlockingIOError, TimeoutError):
            raise queue_error("Full", self._lean)("no place in time") from None
        except BrokenPipeError:
            raise queue_error("ShutDown", self._lean)("the queue was shut down") from None
        except ValueError:
            store.check()
            raise

    async def get(self, block: bool = True, timeout: float | None = None) -> T:
        """Take the oldest item, waiting while the queue is empty.

        Args:
            block: Whether to wait at all.
            timeout: Seconds to wait; None waits for ever.

        Returns:
            The item, unpickled here.

        Raises:
            QueueEmpty: Nothing came in time; nothing was taken.
            QueueShutDown: The queue was shut down and nothing is left.

        If cancelled: Nothing is taken.
        If a peer dies: Whole items stay; a half-sent one is never seen.
        Cost: One system call when an item is ready, else one wake-up more; seven calls when bounded.
        """
        if spent():
            await checkpoint()
        store = self._store
        handle = store.reader.handle
        arrival, failure = _NOTHING, None
        try:
            if not handle.lines:  # the usual case, with nothing in between
                try:
                    if not store.is_odd:
                        return store.reader.fetch()  # type: ignore[no-any-return]
                    arrival = store.take()
                except BlockingIOError:
                    if store.backlog.kept:
                        store.pump()
            if arrival is _NOTHING:
                patience = timeout if block else 0
                return await until_later(store.fetch, handle, "read", patience, store.right_to_get)
        except Unopened as packet:
            arrival, failure = packet.arrival, packet.failure
        except TimeoutError:
            raise queue_error("Empty", self._lean)("no item in time") from None
        except EOFError:
            raise queue_error("ShutDown", self._lean)("the queue was shut down") from None
        if failure is not None:
            try:
                raise failure
            finally:
                del failure  # whose traceback knows this frame
        return await store.open_in_loop(arrival)  # type: ignore[no-any-return]

    async def put_many(self, items: Iterable[T]) -> None:
        """Put several items, in order; see `put`.

        If cancelled: The first of them were put, the others not.
        """
        for item in items:
            await self.put(item)

    async def get_many(self, most: int) -> list[T]:
        """Take what is there now, at least one item and at most ``most``; see `get`.

        Raises:
            ValueError: ``most`` is less than one.

        If cancelled: Nothing is taken: the next gets of this process have it.
        """
        most, store = integer("most", most, 1), self._store
        found = [await self.get()]
        while (arrival := store.take_more(found, most, in_loop=True)) is not None:
            try:
                found.append(await store.open_in_loop(arrival))
            except Exception as failure:
                store.give_back(None, failure)
                break
            except BaseException:
                store.give_back_all(found)
                raise
        return found

    def __aiter__(self) -> AsyncIterator[T]:
        """The items until the queue is shut down and empty."""
        return self._items()

    async def _items(self) -> AsyncIterator[T]:
        ended = queue_error("ShutDown", self._lean)
        while True:
            try:
                item = await self.get()
            except ended:
                return
            yield item

    async def flush(self) -> None:
        """Wait until the kernel has all that this process has put.

        If cancelled: It is still being written.
        """
        await self._store.backlog.flush()

    async def join_thread(self) -> None:
        """After `close`: wait until all that was put here is written, as in the stdlib; see `flush`."""
        _check_closed(self._store)
        await self.flush()

    async def __aenter__(self: _Q) -> _Q:
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._store.close()


class SyncQueue(_Face, Generic[T]):
    """The twin of `Queue` for code without an event loop: the stdlib's names, signatures and exceptions."""

    def __init__(self, maxsize: int = 0) -> None:
        self._store = Store(maxsize)

    @property
    def aio(self) -> Queue[T]:
        """The same queue for coroutines."""
        return _facing(Queue, self._store)  # type: ignore[no-any-return]

    def put_nowait(self, obj: Any) -> None:
        """See `Queue.put_nowait`."""
        super().put_nowait(obj)

    def put(self, obj: T, block: bool = True, timeout: float | None = None) -> None:
        """See `Queue.put`."""
        packed = pack(obj)
        store = self._store
        try:
            try:
                store.put(packed, False)
            except BlockingIOError:
                if not block and store.ledger.size:
                    raise
                until_blocking_later(
                    lambda: store.put(packed, False),
                    store.room,
                    "read",
                    store.patience(timeout),
                    store.right_to_put,
                )
        except (BlockingIOError, TimeoutError):
            raise queue_error("Full", self._lean)("no place in time") from None
        except BrokenPipeError:
            raise queue_error("ShutDown", self._lean)("the queue was shut down") from None
        except ValueError:
            store.check()
            raise

    def get(self, block: bool = True, timeout: float | None = None) -> T:
        """See `Queue.get`."""
        store = self._store
        try:
            arrival = until_blocking(
                store.take, store.reader.handle, "read", timeout if block else 0, store.right_to_get
            )
        except TimeoutError:
            raise queue_error("Empty", self._lean)("no item in time") from None
        except EOFError:
            raise queue_error("ShutDown", self._lean)("the queue was shut down") from None
        return store.open(arrival)  # type: ignore[no-any-return]

    def put_many(self, items: Iterable[T]) -> None:
        """See `Queue.put_many`."""
        for item in items:
            self.put(item)

    def get_many(self, most: int) -> list[T]:
        """See `Queue.get_many`."""
        most = integer("most", most, 1)
        found = [self.get()]
        self._store.take_more(found, most, in_loop=False)
        return found

    def __iter__(self) -> Iterator[T]:
        """The items until the queue is shut down and empty."""
        ended = queue_error("ShutDown", self._lean)
        while True:
            try:
                item = self.get()
            except ended:
                return
            yield item

    def flush(self) -> None:
        """See `Queue.flush`."""
        self._store.backlog.flush_blocking()

    def join_thread(self) -> None:
        """See `Queue.join_thread`."""
        _check_closed(self._store)
        self.flush()

    def __enter__(self: _Q) -> _Q:
        return self

    def __exit__(self, *exc: object) -> None:
        self._store.close()


def _facing(kind: Any, store: Store) -> Any:
    face = object.__new__(kind)
    face._store = store
    return face


def _state(store: Store) -> str:
    if store.closed:
        return "closed"
    limit = f"/{store.ledger.size}" if store.ledger.size else ""
    waiting = sum(len(line) for line in store.reader.handle.lines.values())
    return f"{store.qsize()}{limit} items, {waiting} waiting"


def _check_closed(store: Store) -> None:
    if not store.closed:
        raise AssertionError("close() comes first")
