"""Queues: small items, round trips and how long each took, sizes of items, numbers of processes and of tasks.

``python -m benchmarks queue``
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from typing import Any, Final

import aioproc
from benchmarks import as_part, loops
from benchmarks.loops import LOOPS, named
from benchmarks.queue_peers import BLOCKING, CONTEXT, Peer, peers
from benchmarks.record import Record

ITEM: Final = (1, "hello")
SIZES: Final = (10, 100, 1000, 10_000, 60_000, 100_000, 1_000_000, 10_000_000, 100_000_000)
PROCESSES: Final = (2, 4, 8, 16, 32, 64)
TASKS: Final = (1, 10, 100, 1000, 10_000)
LARGE: Final = 100_000_000


def measure(record: Record) -> None:
    """Everything about queues."""
    all_peers = peers(record)
    small(record, all_peers)
    trip(record, all_peers)
    large(record, all_peers)
    sizes(record, all_peers)
    crowds(record, all_peers)
    tasks(record)


# One producer, one consumer


def small(record: Record, all_peers: dict[str, Peer]) -> None:
    """Small items from one process to another."""
    record.measurement("queue.small", "Small items, one producer, one consumer", "us an item")
    count = 5000 if record.quick else 25_000
    record.take(
        "queue.small",
        {
            name: partial(throughput, peer, ITEM, count // 20 if peer.slow else count)
            for name, peer in all_peers.items()
        },
        11,
    )


def trip(record: Record, all_peers: dict[str, Peer]) -> None:
    """Small items there and back, one at a time.

    In many short turns: each is quick or slow as a whole, by which processors the two happen to run on.
    """
    record.measurement("queue.trip", "A small item there and back", "us a round trip")
    count = 500 if record.quick else 1500
    record.take(
        "queue.trip",
        {
            name: partial(round_trip, peer, ITEM, count // 4 if peer.slow else count)
            for name, peer in all_peers.items()
        },
        15,
    )


def large(record: Record, all_peers: dict[str, Peer]) -> None:
    """An array of 100 MB."""
    if not find_spec("numpy"):
        record.leave_out("an array of 100 MB", "numpy is not installed")
        return
    import numpy as np

    array = np.ones((LARGE // 10 if record.quick else LARGE) // 8)
    record.measurement("queue.large", "An array of 100 MB there and back", "ms a round trip")
    names = ("aioproc", "aioproc twin", "multiprocessing, blocking", "aioprocessing")
    record.take(
        "queue.large",
        {name: partial(round_trip, all_peers[name], array, 1) for name in names if name in all_peers},
        3,
    )


def sizes(record: Record, all_peers: dict[str, Peer]) -> None:
    """Bytes of each size."""
    record.measurement("queue.sizes", "Bytes, one producer, one consumer", "us an item", "bytes an item")
    names = ("aioproc", "bare limit", "multiprocessing, blocking", "aioprocessing", "faster-fifo, blocking")
    for size in SIZES[::4] if record.quick else SIZES:
        most = max(4, min(20_000, 400_000_000 // size // 4))
        found = {name: all_peers[name] for name in names if name in all_peers}
        record.take(
            "queue.sizes",
            {
                name: partial(throughput, peer, bytes(size), max(4, most // 10) if peer.slow else most)
                for name, peer in found.items()
                if size <= peer.most_bytes
            },
            3,
            size,
        )


def throughput(peer: Peer, item: Any, count: int) -> float:
    """Seconds for an item, from one process to another."""
    queue = peer.make()
    process = CONTEXT.Process(target=in_child, args=(peer.loop, produce, queue, item, count))
    process.start()
    try:
        return float(in_loop(peer.loop, consume, queue, item, count))
    finally:
        process.join()
        queue.close()


def round_trip(peer: Peer, item: Any, count: int) -> list[float]:
    """Seconds for an item there and back, of each."""
    there, back = peer.make(), peer.make()
    first = min(count, 20)
    process = CONTEXT.Process(target=in_child, args=(peer.loop, echo, there, back, count + first))
    process.start()
    try:
        taken: list[float] = in_loop(peer.loop, send_and_get, there, back, item, count + first)
        return taken[first:]
    finally:
        process.join()
        there.close()
        back.close()


# The roles: each once with calls that block, and once awaited


class Role:
    """What a process does."""

    def __init__(self, blocking: Callable[..., Any], awaited: Callable[..., Any]) -> None:
        self.blocking, self.awaited = blocking, awaited


def in_loop(loop: str, role: Role, *args: Any) -> Any:
    """Play a role here."""
    return role.blocking(*args) if loop == BLOCKING else loops.run(loop, role.awaited(*args))


def in_child(loop: str, role: Role, *args: Any) -> None:
    """Play a role in a child of its own."""
    in_loop(loop, role, *args)
    loops.close()


def _produce(queue: Any, item: Any, count: int) -> None:
    for _ in range(count):
        queue.put(item)


async def _produce_awaited(queue: Any, item: Any, count: int) -> None:
    for _ in range(count):
        await queue.put(item)
    if hasattr(queue, "flush"):
        await queue.flush()


def _consume(queue: Any, item: Any, count: int) -> float:
    queue.get()
    before = time.perf_counter()
    for _ in range(count - 1):
        queue.get()
    return (time.perf_counter() - before) / (count - 1)


async def _consume_awaited(queue: Any, item: Any, count: int) -> float:
    await queue.get()
    before = time.perf_counter()
    for _ in range(count - 1):
        await queue.get()
    return (time.perf_counter() - before) / (count - 1)


def _echo(inbox: Any, outbox: Any, count: int) -> None:
    for _ in range(count):
        outbox.put(inbox.get())


async def _echo_awaited(inbox: Any, outbox: Any, count: int) -> None:
    for _ in range(count):
        await outbox.put(await inbox.get())
    if hasattr(outbox, "flush"):
        await outbox.flush()


def _send_and_get(there: Any, back: Any, item: Any, count: int) -> list[float]:
    taken, before = [], time.perf_counter()
    for _ in range(count):
        there.put(item)
        back.get()
        after = time.perf_counter()
        taken.append(after - before)
        before = after
    return taken


async def _send_and_get_awaited(there: Any, back: Any, item: Any, count: int) -> list[float]:
    taken, before = [], time.perf_counter()
    for _ in range(count):
        await there.put(item)
        await back.get()
        after = time.perf_counter()
        taken.append(after - before)
        before = after
    return taken


produce = Role(_produce, _produce_awaited)
consume = Role(_consume, _consume_awaited)
echo = Role(_echo, _echo_awaited)
send_and_get = Role(_send_and_get, _send_and_get_awaited)


# Many processes at one queue


def crowds(record: Record, all_peers: dict[str, Peer]) -> None:
    """One queue with 2 to 64 processes, half of which put."""
    record.measurement("queue.processes", "One queue, half put and half get", "us an item", "processes")
    names = ("aioproc", "aioproc twin", "multiprocessing, blocking", "aioprocessing", "faster-fifo, blocking")
    for many in PROCESSES[::3] if record.quick else PROCESSES:
        runs = {}
        for name in names:
            if name in all_peers:
                items = (1600 if record.quick else 16_000) // (8 if all_peers[name].slow else 1)
                runs[name] = partial(crowded, all_peers[name], many // 2, max(1, 2 * items // many))
        record.take("queue.processes", runs, 3, many)


def crowded(peer: Peer, pairs: int, each: int) -> float:
    """Seconds for an item when many put and many get."""
    queue, ready, done = peer.make(), CONTEXT.Barrier(2 * pairs + 1), CONTEXT.Barrier(2 * pairs + 1)
    each = max(each, 2)
    processes = [
        CONTEXT.Process(target=in_crowd, args=(peer.loop, role, queue, each, ready, done))
        for role in (produce, consume)
        for _ in range(pairs)
    ]
    for process in processes:
        process.start()
    ready.wait()
    before = time.perf_counter()
    done.wait()
    taken = time.perf_counter() - before
    for process in processes:
        process.join()
    queue.close()
    return taken / (pairs * each)


def in_crowd(loop: str, role: Role, queue: Any, each: int, ready: Any, done: Any) -> None:
    """One of many, who start together."""
    ready.wait()
    in_child(loop, role, queue, ITEM, each)
    done.wait()


# Many tasks in one process


def tasks(record: Record) -> None:
    """1 to 10,000 tasks that wait at one queue; beside it, asyncio's own queue inside the process."""
    record.measurement("queue.tasks", "Many tasks of a process wait at one queue", "us an item", "tasks")
    for many in TASKS[::2] if record.quick else TASKS:
        each = max(1, (2000 if record.quick else 20_000) // many)
        runs: dict[str, Callable[[], float]] = {
            named("aioproc", loop): partial(waited_for, loop, many, each) for loop in LOOPS
        }
        runs["asyncio.Queue, no process"] = partial(waited_for_inside, many, each)
        record.take("queue.tasks", runs, 3, many)


def waited_for(loop: str, many: int, each: int) -> float:
    """Seconds for an item that another process puts and one of many tasks has waited for."""
    queue, go = aioproc.Queue[Any](), CONTEXT.Event()
    process = CONTEXT.Process(target=put_when_told, args=(queue, many * each, go))
    process.start()
    try:
        return loops.run(loop, woken(queue.get, go.set, many, each))
    finally:
        process.join()
        queue.close()


def put_when_told(queue: aioproc.Queue[Any], count: int, go: Any) -> None:
    """The producer."""
    go.wait()
    for _ in range(count):
        queue.sync.put(ITEM)


async def woken(get: Callable[[], Any], go: Callable[[], object], many: int, each: int) -> float:
    """Let many tasks wait, then let the items come; seconds for one."""

    async def take() -> None:
        for _ in range(each):
            await get()

    waiting = [asyncio.ensure_future(take()) for _ in range(many)]
    await asyncio.sleep(0)
    before = time.perf_counter()
    go()
    await asyncio.gather(*waiting)
    return (time.perf_counter() - before) / (many * each)


def waited_for_inside(many: int, each: int) -> float:
    """The same with a queue that leaves the process out of it."""
    return loops.run("asyncio", woken_inside(many, each))


async def woken_inside(many: int, each: int) -> float:
    """In the loop."""
    queue = asyncio.Queue[Any]()

    async def put() -> None:
        for _ in range(many * each):
            queue.put_nowait(ITEM)
            await asyncio.sleep(0)

    putting: list[asyncio.Future[None]] = []
    return await woken(queue.get, lambda: putting.append(asyncio.ensure_future(put())), many, each)


if __name__ == "__main__":
    as_part("queue")
