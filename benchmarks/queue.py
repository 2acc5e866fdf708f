"""Queues side by side: small items, round trips, a 100 MB array, and how it grows.

    python -m benchmarks.queue [small|trip|large|sizes|crowd ...]

The bare limit is a loop of pickle and socket calls without any library; what is not installed is left out.
"""

from __future__ import annotations

import asyncio
import importlib.util
import multiprocessing
import pickle
import socket
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

import aioproc
from benchmarks.measuring import alternate, ratio, table

CONTEXT: Any = multiprocessing.get_context("forkserver")
ITEM = (1, "hello")
ROUNDS = 3


class Bare:
    """What the kernel and pickle cost: the least that any queue between two processes must spend."""

    def __init__(self) -> None:
        self.left, self.right = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.left.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)

    def close(self) -> None:
        self.left.close()
        self.right.close()

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
    """aioprocessing: the stdlib's queue, each call in a thread."""

    def __init__(self) -> None:
        import aioprocessing

        self._queue = aioprocessing.AioQueue(context=CONTEXT)
        self.put, self.get = self._queue.coro_put, self._queue.coro_get

    def __getstate__(self) -> Any:
        return self._queue

    def __setstate__(self, queue: Any) -> None:
        self._queue = queue
        self.put, self.get = queue.coro_put, queue.coro_get

    def close(self) -> None:
        self._queue.close()


def stdlib() -> Any:
    """The blocking queue."""
    return CONTEXT.Queue()


def contenders() -> dict[str, Callable[[], Any]]:
    """How each makes a queue."""
    found: dict[str, Callable[[], Any]] = {"aioproc": aioproc.Queue, "bare limit": Bare}
    found["aioproc twin"] = lambda: aioproc.Queue[Any]().sync
    found["multiprocessing"] = stdlib
    if importlib.util.find_spec("aioprocessing"):
        found["aioprocessing"] = InThreads
    return found


def blocking(queue: Any) -> bool:
    return not asyncio.iscoroutinefunction(queue.get) and not isinstance(queue, InThreads)


def produce(queue: Any, item: Any, count: int) -> None:
    """A producer process."""
    if blocking(queue):
        for _ in range(count):
            queue.put(item)
    else:
        asyncio.run(_produce(queue, item, count))


async def _produce(queue: Any, item: Any, count: int) -> None:
    for _ in range(count):
        await queue.put(item)
    if hasattr(queue, "flush"):
        await queue.flush()


def echo(inbox: Any, outbox: Any, count: int) -> None:
    """A process that sends everything back."""
    if blocking(inbox):
        for _ in range(count):
            outbox.put(inbox.get())
    else:
        asyncio.run(_echo(inbox, outbox, count))


async def _echo(inbox: Any, outbox: Any, count: int) -> None:
    for _ in range(count):
        await outbox.put(await inbox.get())


async def throughput(make: Callable[[], Any], item: Any, count: int) -> float:
    """Seconds for an item, from one process to another."""
    queue = make()
    process = CONTEXT.Process(target=produce, args=(queue, item, count))
    process.start()
    if blocking(queue):
        queue.get()
        before = time.perf_counter()
        for _ in range(count - 1):
            queue.get()
    else:
        await queue.get()
        before = time.perf_counter()
        for _ in range(count - 1):
            await queue.get()
    taken = time.perf_counter() - before
    process.join()
    queue.close()
    return taken / (count - 1)


async def round_trip(make: Callable[[], Any], item: Any, count: int) -> float:
    """Seconds for an item there and back."""
    there, back = make(), make()
    process = CONTEXT.Process(target=echo, args=(there, back, count + 1))
    process.start()
    for number in range(count + 1):
        if number == 1:
            before = time.perf_counter()
        if blocking(there):
            there.put(item)
            back.get()
        else:
            await there.put(item)
            await back.get()
    taken = time.perf_counter() - before
    process.join()
    there.close()
    back.close()
    return taken / count


def slow(name: str, count: int) -> int:
    """Fewer items for who is slow."""
    return count // 20 if name == "aioprocessing" else count


async def small() -> None:
    """Small items, one producer, one consumer."""
    runs = {
        name: (lambda make=make, name=name: throughput(make, ITEM, slow(name, 60_000)))
        for name, make in contenders().items()
    }
    times = await alternate(runs, rounds=ROUNDS)
    print("small items, one producer, one consumer\n" + table(times, "aioproc", 1e6, "us an item"))
    print(f"aioproc reaches {ratio(times, 'bare limit', 'aioproc'):.0%} of the bare limit\n")


async def trip() -> None:
    """Small items there and back."""
    runs = {
        name: (lambda make=make, name=name: round_trip(make, ITEM, slow(name, 10_000)))
        for name, make in contenders().items()
    }
    times = await alternate(runs, rounds=ROUNDS)
    print("there and back\n" + table(times, "aioproc", 1e6, "us a round trip"))
    print(f"aioproc takes {ratio(times, 'aioproc', 'bare limit'):.2f} of the bare limit's time\n")


async def large() -> None:
    """An array of 100 MB."""
    array = np.ones(100_000_000 // 8)
    names = {name: make for name, make in contenders().items() if name != "bare limit"}
    runs = {name: (lambda make=make: round_trip(make, array, 1)) for name, make in names.items()}
    times = await alternate(runs, rounds=ROUNDS)
    print("100 MB array there and back\n" + table(times, "aioproc") + "\n")


async def sizes() -> None:
    """Bytes from 10 B to 100 MB."""
    for size in (10, 1000, 10_000, 60_000, 100_000, 1_000_000, 10_000_000, 100_000_000):
        count = max(3, min(20_000, 200_000_000 // size // 10))
        runs = {
            name: (lambda make=make: throughput(make, bytes(size), count))  # noqa: B023
            for name, make in contenders().items()
            if name in ("aioproc", "multiprocessing")
        }
        times = await alternate(runs, rounds=ROUNDS, warm_up=0)
        print(f"{size} B\n" + table(times, "aioproc", 1e6, "us an item") + "\n")


async def crowd() -> None:
    """1 to 16 producers and as many consumers."""
    for many in (1, 2, 4, 8, 16):
        runs = {
            name: (lambda make=make: crowded(make, many, 32_000 // many))  # noqa: B023
            for name, make in contenders().items()
            if name in ("aioproc", "aioproc twin", "multiprocessing")
        }
        times = await alternate(runs, rounds=ROUNDS, warm_up=0)
        print(f"{many} producers, {many} consumers\n" + table(times, "aioproc", 1e6, "us an item") + "\n")


async def crowded(make: Callable[[], Any], many: int, each: int) -> float:
    """Seconds for an item when many put and many get."""
    queue, ready, done = make(), CONTEXT.Barrier(2 * many + 1), CONTEXT.Barrier(2 * many + 1)
    roles = [produce] * many + [consume] * many
    processes = [CONTEXT.Process(target=in_crowd, args=(role, queue, each, ready, done)) for role in roles]
    for process in processes:
        process.start()
    ready.wait()
    before = time.perf_counter()
    done.wait()
    taken = time.perf_counter() - before
    for process in processes:
        process.join()
    queue.close()
    return taken / (many * each)


def in_crowd(role: Any, queue: Any, each: int, ready: Any, done: Any) -> None:
    """One of many, who start together."""
    ready.wait()
    role(queue, ITEM, each)
    done.wait()


def consume(queue: Any, item: Any, count: int) -> None:
    """A consumer process."""
    if blocking(queue):
        for _ in range(count):
            queue.get()
    else:
        asyncio.run(_consume(queue, count))


async def _consume(queue: Any, count: int) -> None:
    for _ in range(count):
        await queue.get()


async def main(names: list[str]) -> None:
    programs = {one.__name__: one for one in (small, trip, large, sizes, crowd)}
    for name in names or programs:
        await programs[name]()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1:]))
