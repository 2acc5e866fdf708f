"""The queues that are compared, each used the way its own documentation shows."""

from __future__ import annotations

import asyncio
import multiprocessing
import pickle
import socket
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Final

import aioproc
from benchmarks.loops import LOOPS, named
from benchmarks.record import Record

CONTEXT: Any = multiprocessing.get_context("forkserver")
BLOCKING: Final = "blocking"
FIFO_BYTES: Final = 1 << 22


@dataclass(frozen=True)
class Peer:
    """A contender.

    Attributes:
        make: A new queue; its put and get are awaited in ``loop``, unless that is "blocking".
        most_bytes: The longest item it is tried with.
        slow: It needs a tenth of a millisecond or more for an item, so it gets fewer.
    """

    make: Callable[[], Any]
    loop: str = BLOCKING
    most_bytes: int = 1 << 30
    slow: bool = False


class Bare:
    """What the kernel and pickle cost: the least that any queue between two processes must spend."""

    def __init__(self) -> None:
        self.left, self.right = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.left.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)

    def close(self) -> None:
        self.left.close()
        self.right.close()


class BareBlocking(Bare):
    """The same with calls that block."""

    def put(self, item: Any) -> None:
        self.left.send(pickle.dumps(item, 5))

    def get(self) -> Any:
        return pickle.loads(self.right.recv(65536))


class BareAwaited(Bare):
    """The same in a loop: a call, and only if it would block a callback of the loop."""

    async def put(self, item: Any) -> None:
        data = pickle.dumps(item, 5)
        while True:
            try:
                self.left.send(data, socket.MSG_DONTWAIT)
                return
            except BlockingIOError:
                await self._ready(self.left.fileno(), writing=True)

    async def get(self) -> Any:
        while True:
            try:
                return pickle.loads(self.right.recv(65536, socket.MSG_DONTWAIT))
            except BlockingIOError:
                await self._ready(self.right.fileno(), writing=False)

    async def _ready(self, fd: int, writing: bool) -> None:
        loop = asyncio.get_running_loop()
        ready = loop.create_future()
        add, remove = (
            (loop.add_writer, loop.remove_writer) if writing else (loop.add_reader, loop.remove_reader)
        )
        add(fd, lambda: None if ready.done() else ready.set_result(None))
        try:
            await ready
        finally:
            remove(fd)


class InThreads:
    """A queue that blocks, each call in a thread of the loop's."""

    def __init__(self, queue: Any) -> None:
        self._queue = queue

    async def put(self, item: Any) -> None:
        await asyncio.to_thread(self._queue.put, item)

    async def get(self) -> Any:
        return await asyncio.to_thread(self._queue.get)

    def close(self) -> None:
        self._queue.close()


class Aioprocessing:
    """aioprocessing: the stdlib's queue, each call in a thread of its own pool."""

    def __init__(self) -> None:
        import aioprocessing

        self._queue = aioprocessing.AioQueue(context=CONTEXT)

    async def put(self, item: Any) -> None:
        await self._queue.coro_put(item)

    async def get(self) -> Any:
        return await self._queue.coro_get()

    def close(self) -> None:
        self._queue.close()


def fifo() -> Any:
    """faster-fifo: a ring in shared memory."""
    import faster_fifo
    import faster_fifo_reduction  # noqa: F401  (makes it travel to children that are not forked)

    return faster_fifo.Queue(max_size_bytes=FIFO_BYTES)


def peers(record: Record) -> dict[str, Peer]:
    """All that are installed."""
    found = {named("aioproc", loop): Peer(aioproc.Queue, loop) for loop in LOOPS}
    found["aioproc twin"] = Peer(lambda: aioproc.Queue[Any]().sync)
    found |= {named("bare limit", loop): Peer(BareAwaited, loop, 60_000) for loop in LOOPS}
    found["bare limit, blocking"] = Peer(BareBlocking, most_bytes=60_000)
    found["multiprocessing, blocking"] = Peer(CONTEXT.Queue)
    found["multiprocessing in threads"] = Peer(lambda: InThreads(CONTEXT.Queue()), "asyncio", slow=True)
    if find_spec("aioprocessing"):
        for loop in LOOPS:
            found[named("aioprocessing", loop)] = Peer(Aioprocessing, loop, slow=True)
    else:
        record.leave_out("aioprocessing", "not installed")
    if find_spec("faster_fifo"):
        found["faster-fifo, blocking"] = Peer(fifo, most_bytes=FIFO_BYTES // 4)
        found["faster-fifo in threads"] = Peer(lambda: InThreads(fifo()), "asyncio", FIFO_BYTES // 4, True)
    else:
        record.leave_out("faster-fifo", "not installed")
    return found
