"""Pipe, its connections with their synchronous twins, and wait."""

from __future__ import annotations

import select
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from typing import Any, TypeVar

from aioproc._kernel.arguments import patience
from aioproc._kernel.channel import Channel, Unopened, channel, length, opened_bytes, raw, sealed_in_loop
from aioproc._kernel.handle import Handle
from aioproc._kernel.intake import Intake
from aioproc._kernel.parcel import Packed, pack
from aioproc._kernel.waiting import MOST_SECONDS, checkpoint, spent, until, until_blocking, until_later
from aioproc._kernel.watch import ready

__all__ = ["Connection", "Pipe", "SyncConnection", "wait"]

T = TypeVar("T")
_C = TypeVar("_C", bound="_End")


class _End:
    """What both faces of a connection are."""

    def __init__(self, channel: Channel, readable: bool, writable: bool) -> None:
        self._channel = channel
        self._intake = Intake(channel)
        self._readable = readable
        self._writable = writable

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._channel, self._readable, self._writable)

    def __repr__(self) -> str:
        ways = " and ".join(
            way for way, is_so in (("receives", self._readable), ("sends", self._writable)) if is_so
        )
        return f"<{type(self).__name__} {'closed' if self.closed else ways}>"

    @property
    def closed(self) -> bool:
        """Whether it is closed in this process."""
        return self._channel.handle.closed

    @property
    def readable(self) -> bool:
        """Whether it can receive."""
        return self._readable

    @property
    def writable(self) -> bool:
        """Whether it can send."""
        return self._writable

    def fileno(self) -> int:
        """Its descriptor, to be waited for; not to be read from."""
        self._check(True)
        return self._channel.handle.fileno()

    def close(self) -> None:
        """Close it in this process. Twice is harmless."""
        self._intake.forget()
        self._channel.close()

    def _other_face(self, kind: type[_C]) -> _C:
        other = kind(self._channel, self._readable, self._writable)
        other._intake = self._intake
        return other

    def _check(self, able: bool, what: str = "") -> Handle:
        if self.closed:
            raise OSError("handle is closed")
        if not able:
            raise OSError(f"connection is {what}-only")
        return self._channel.handle

    def _sending(self, packed: Packed) -> tuple[Callable[[], None], Handle]:
        return (lambda: self._channel.send(packed)), self._check(self._writable, "read")

    def _receiving(self) -> Handle:
        return self._check(self._readable, "write")

    def _ready(self) -> bool:
        if self._intake.kept or ready(self._channel.handle):
            return True
        raise BlockingIOError

    def _check_length(self, arrival: Any, maxlength: int | None) -> None:
        if maxlength is None:
            return
        if arrival is None and self._intake.first_length > maxlength:
            raise OSError("bad message length")
        if arrival is not None and length(arrival) > maxlength:
            self._channel.keep(arrival)
            raise OSError("bad message length")


class Connection(_End):
    """One end of a `Pipe`, for coroutines; it can be passed to any process.

    >>> async def main():
    ...     here, there = Pipe()
    ...     await here.send("hello")
    ...     print(await there.recv())
    >>> import anyio; anyio.run(main)
    hello
    """

    @property
    def sync(self) -> SyncConnection:
        """The same end for code that has no event loop."""
        return self._other_face(SyncConnection)

    async def send(self, obj: Any) -> None:
        """Send an object, waiting while the pipe is full.

        Raises:
            BrokenPipeError: The other end is gone.
            OSError: No file descriptor is free, or too many of this user's are in flight (``ulimit -n``);
                nothing was sent.
            pickle.PicklingError: It cannot be pickled; the message names it.

        If cancelled: It was not sent.
        If a peer dies: BrokenPipeError once nobody has the other end any more.
        Cost: One system call. More than 4 MB are copied in a thread.
        """
        await self._send(pack(obj))

    async def recv(self) -> Any:
        """Receive an object, waiting while there is none.

        Raises:
            EOFError: There is none and the other end is gone.

        If cancelled: Nothing is taken.
        If a peer dies: Whole objects stay; a half-sent one is never seen.
        Cost: One system call when one is there, else one wake-up more.
        """
        try:
            return await self._receipt()
        except Unopened as packet:
            unopened = packet
        return await self._opened(unopened)

    async def send_bytes(self, buffer: Any, offset: int = 0, size: int | None = None) -> None:
        """Send bytes as one message; see `send`."""
        await self._send(raw(_part(buffer, offset, size)))

    async def recv_bytes(self, maxlength: int | None = None) -> bytes:
        """Receive a message of bytes; see `recv`.

        Raises:
            OSError: It is longer than ``maxlength``; it is still there.
        """
        _check_maxlength(maxlength)
        arrival = await self._told(until(self._intake.take, self._receiving()))
        self._check_length(arrival, maxlength)
        return await self._intake.open_in_loop(arrival, opened_bytes)  # type: ignore[no-any-return]

    async def poll(self, timeout: float | None = 0.0) -> bool:
        """Whether there is something to receive, waiting for it up to ``timeout`` seconds; None: for ever.

        If cancelled: Nothing was taken; `poll` never takes anything.
        """
        try:
            return await self._told(until(self._ready, self._receiving(), "read", timeout))
        except TimeoutError:
            return False

    async def _receipt(self) -> Any:
        """Receive an object, which may be `Unopened`: an EOFError is the end, and no object's own."""
        intake, handle = self._intake, self._receiving()
        if spent():
            await checkpoint()
        wait = until
        if not (intake.is_odd or handle.lines):
            wait = until_later
            try:
                return self._channel.fetch()  # the usual case, with nothing in between
            except BlockingIOError:
                pass
        return await self._told(wait(intake.fetch, handle))

    async def _opened(self, packet: Unopened) -> Any:
        failure, packet.failure = packet.failure, None  # whose traceback will know who knows the packet
        if failure is None:
            return await self._intake.open_in_loop(packet.arrival)
        try:
            raise failure
        finally:
            del failure

    async def _send(self, packed: Packed) -> None:
        handle = self._check(self._writable, "read")
        if not isinstance(packed, bytes):
            await sealed_in_loop(packed)
        if spent():
            await checkpoint()
        if not handle.lines:  # as in `until`, without a coroutine more
            try:
                self._channel.send(packed)
                return
            except BlockingIOError:
                pass
        await self._told(until_later(lambda: self._channel.send(packed), handle, "write"))

    async def _told(self, waits: Awaitable[T]) -> T:
        """Wait; once it is closed in this process, with the error that a closed one gives at once."""
        try:
            return await waits
        except ValueError:
            self._check(True)
            raise

    def __aiter__(self) -> AsyncIterator[Any]:
        """The objects until the other end is gone."""
        return self._items()

    async def _items(self) -> AsyncIterator[Any]:
        while True:
            try:
                item = await self._receipt()
            except EOFError:
                return
            except Unopened as packet:
                unopened = packet
            else:
                yield item
                continue
            yield await self._opened(unopened)

    async def __aenter__(self) -> Connection:
        return self

    async def __aexit__(self, *exc: object) -> None:
        self.close()


class SyncConnection(_End):
    """The twin of `Connection` for code without an event loop: the stdlib's names and signatures."""

    @property
    def aio(self) -> Connection:
        """The same end for coroutines."""
        return self._other_face(Connection)

    def send(self, obj: Any) -> None:
        """See `Connection.send`."""
        until_blocking(*self._sending(pack(obj)), "write")

    def recv(self) -> Any:
        """See `Connection.recv`."""
        return self._intake.open(until_blocking(self._intake.take, self._receiving()))

    def send_bytes(self, buf: Any, offset: int = 0, size: int | None = None) -> None:
        """See `Connection.send_bytes`."""
        until_blocking(*self._sending(raw(_part(buf, offset, size))), "write")

    def recv_bytes(self, maxlength: int | None = None) -> bytes:
        """See `Connection.recv_bytes`."""
        _check_maxlength(maxlength)
        arrival = until_blocking(self._intake.take, self._receiving())
        self._check_length(arrival, maxlength)
        return self._intake.open(arrival, opened_bytes)  # type: ignore[no-any-return]

    def recv_bytes_into(self, buf: Any, offset: int = 0) -> int:
        """Receive a message of bytes into a buffer; how many they were.

        Raises:
            multiprocessing.BufferTooShort: It is longer than the rest of the buffer; it is in ``args[0]``.
        """
        room = _room(buf, offset)
        data = self._intake.open(until_blocking(self._intake.take, self._receiving()), opened_bytes)
        if len(data) > room.nbytes:
            from multiprocessing import BufferTooShort

            raise BufferTooShort(data)
        room[: len(data)] = data
        return len(data)

    def poll(self, timeout: float | None = 0.0) -> bool:
        """See `Connection.poll`."""
        try:
            return until_blocking(self._ready, self._receiving(), "read", timeout)
        except TimeoutError:
            return False

    def __iter__(self) -> Iterator[Any]:
        """The objects until the other end is gone."""
        while True:
            try:
                arrival = until_blocking(self._intake.take, self._receiving())
            except EOFError:
                return
            yield self._intake.open(arrival)

    def __enter__(self) -> SyncConnection:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def Pipe(duplex: bool = True) -> tuple[Connection, Connection]:
    """Two connected ends.

    Args:
        duplex: Whether both can send; else the first only receives and the second only sends.
    """
    left, right = channel()
    return Connection(left, True, duplex), Connection(right, duplex, True)


def _check_maxlength(maxlength: int | None) -> None:
    if maxlength is not None and maxlength < 0:
        raise ValueError("negative maxlength")


def _room(buffer: Any, offset: int) -> memoryview:
    view = memoryview(buffer).cast("B")
    if view.readonly:
        raise TypeError("the buffer cannot be written to")
    if not 0 <= offset <= view.nbytes:
        raise ValueError("offset is negative or beyond the end of the buffer")
    return view[offset:]


def _part(buffer: Any, offset: int, size: int | None) -> bytes:
    view = memoryview(buffer).cast("B")
    if offset < 0 or offset > view.nbytes:
        raise ValueError("offset is negative or beyond the end of the buffer")
    end = view.nbytes if size is None else offset + size
    if end < offset or end > view.nbytes:
        raise ValueError("size is negative or goes beyond the end of the buffer")
    return bytes(view[offset:end])


class _Wait:
    """Wait until one of several objects is ready.

    Args:
        objects: Connections, queues, sentinels of processes, or whatever has a ``fileno()``.
        timeout: Seconds to wait; None waits for ever.

    Returns:
        Those that are ready (there is something to get, or an end); an empty list after ``timeout``.

    Raises:
        OSError: A connection is closed in this process, before or meanwhile.
        ValueError: A queue is.

    If cancelled: Nothing is taken.
    If a peer dies: Its sentinel, and the connections that only it held, are ready.
    Cost: A few system calls more than the number of objects.
    """

    async def __call__(self, objects: Iterable[Any], timeout: float | None = None) -> list[Any]:
        waiting = _Waiting(objects)
        if spent():
            await checkpoint()
        try:
            return waiting.found()
        except BlockingIOError:
            pass
        if timeout is not None and not patience(timeout):
            return []
        from aioproc._kernel.gathering import until_one  # a plain child needs none of its imports

        try:
            return await until_one(waiting.found, waiting.descriptors, waiting.handles, timeout)
        except TimeoutError:
            return []

    def sync(self, objects: Iterable[Any], timeout: float | None = None) -> list[Any]:
        """The same for code that has no event loop."""
        waiting, limit = _Waiting(objects), patience(timeout)
        deadline = None if limit is None else time.monotonic() + limit
        left = 0.0
        while True:
            try:
                return waiting.found(left)
            except BlockingIOError:
                left = MOST_SECONDS if deadline is None else min(deadline - time.monotonic(), MOST_SECONDS)
                if left <= 0:
                    return []


wait = _Wait()


class _Waiting:
    def __init__(self, objects: Iterable[Any]) -> None:
        self._objects = [(_descriptor(obj), obj) for obj in objects]
        self.descriptors = {fd for fd, _ in self._objects}
        self.handles = [intake.reader.handle for _, obj in self._objects if (intake := _intake_of(obj))]
        self._poll = select.poll()
        for fd in self.descriptors:
            self._poll.register(fd, select.POLLIN)

    def found(self, seconds: float = 0.0) -> list[Any]:
        events = dict(self._poll.poll(seconds * 1000))
        if any(handle.closed for handle in self.handles):
            for _, obj in self._objects:
                _descriptor(obj)  # raises what a closed one raises
        ready = [obj for fd, obj in self._objects if fd in events or _keeps_something(obj)]
        if not ready:
            raise BlockingIOError
        return ready


def _descriptor(obj: Any) -> int:
    if isinstance(obj, int):
        return obj
    store = _store_of(obj)
    if store is not None:
        return int(store.reader.handle.fileno())
    if not hasattr(obj, "fileno"):
        raise ValueError(f"cannot wait for {obj!r}: it is no queue, connection or sentinel")
    return int(obj.fileno())


def _store_of(obj: Any) -> Any:
    return getattr(getattr(obj, "_queue", obj), "_store", None)


def _intake_of(obj: Any) -> Intake | None:
    intake = _store_of(obj) or getattr(obj, "_intake", None)
    return intake if isinstance(intake, Intake) else None


def _keeps_something(obj: Any) -> bool:
    intake = _intake_of(obj)
    return intake is not None and intake.kept > 0
