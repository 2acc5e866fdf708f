"""Pools: round trip of a call, calls per second by their length and number, 8 MB, a map, 1 to 64 workers.

``python -m benchmarks pool``
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, Final

import anyio

import aioproc
from benchmarks import as_part, loops
from benchmarks.asked import contenders
from benchmarks.pool_peers import BLOCKING, FORKSERVER, TRIO, Pool, peers
from benchmarks.record import Record, Sample

WORKERS: Final = 2
AT_ONCE: Final = 1000
LENGTHS: Final = (0.0, 30e-6, 100e-6, 300e-6, 1e-3, 10e-3)
NUMBERS: Final = (1, 10, 100, 1000, 10_000)
SIZES: Final = (1, 2, 8, 32, 64)
SLEEP_SECONDS: Final = 0.01
LARGE: Final = bytes(8 << 20)
FEW: Final = 20  # calls for who needs 10 ms for each

Found = dict[tuple[str, float | None], Sample]


def measure(record: Record) -> None:
    """Everything about pools."""
    calls(record)
    lengths(record)
    numbers(record)
    sizes(record)
    maps(record)


# What is called


def small(number: int) -> int:
    """As little work as can be."""
    return number + 1


def length(data: bytes) -> int:
    """Takes a large argument."""
    return len(data)


def busy(seconds: float) -> None:
    """Computes for so long."""
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        pass


def asleep(seconds: float) -> None:
    """Takes time and no processor."""
    time.sleep(seconds)


async def small_async(number: int) -> int:
    """As `small`, for pools that run nothing but coroutines; and so on."""
    return small(number)


async def length_async(data: bytes) -> int:
    return length(data)


async def busy_async(seconds: float) -> None:
    busy(seconds)


async def asleep_async(seconds: float) -> None:
    asleep(seconds)


ASYNC: Final[dict[Callable[..., Any], Callable[..., Any]]] = {
    small: small_async,
    length: length_async,
    busy: busy_async,
    asleep: asleep_async,
}


# How it is called


def run(loop: str, work: Coroutine[Any, Any, Any]) -> Any:
    """Run it in the loop of that kind."""
    if loop != TRIO:
        return loops.run(loop, work)
    import trio

    async def wait() -> Any:
        return await work

    return trio.run(wait)


async def in_series(pool: Pool, func: Callable[..., Any], arg: Any, count: int) -> list[float]:
    """Seconds of each of some calls, one after another."""
    func, taken = ASYNC[func] if pool.coroutines else func, []
    before = time.perf_counter()
    for _ in range(count):
        await pool.call(func, arg)
        after = time.perf_counter()
        taken.append(after - before)
        before = after
    return taken


async def at_once(pool: Pool, func: Callable[..., Any], arg: Any, count: int) -> float:
    """Seconds for each of some calls that wait together."""
    func = ASYNC[func] if pool.coroutines else func
    before = time.perf_counter()
    if pool.loop == TRIO:
        async with anyio.create_task_group() as tasks:
            for _ in range(count):
                tasks.start_soon(pool.call, func, arg)
    else:  # a task group would take longer for each call than some of the pools do
        await asyncio.gather(*[pool.call(func, arg) for _ in range(count)])
    return (time.perf_counter() - before) / count


def with_pool(
    make: Callable[[int], Pool], workers: int, work: Callable[[Pool], Coroutine[Any, Any, Found]]
) -> Found:
    """Open a pool, let all its workers start, and work with it."""
    pool = make(workers)

    async def turn() -> Found:
        await pool.open()
        try:
            await at_once(pool, asleep, 0.02, 2 * workers)
            await at_once(pool, small, 1, FEW)
            return await work(pool)
        finally:
            await pool.close()

    found: Found = run(pool.loop, turn())
    return found


# What is measured


def calls(record: Record) -> None:
    """Two workers: in series, and at once.

    In many short turns: each is quick or slow as a whole, by which processors the workers happen to run on.
    Those of whom a ratio is asked take most of them.
    """
    record.measurement("pool.trip", "A small call and its result, one after another", "us a call")
    record.measurement("pool.rate", f"Small calls, {AT_ONCE:,} at once", "us a call")

    async def work(pool: Pool) -> Found:
        few = pool.lazy or record.quick
        return {
            ("pool.trip", None): await in_series(pool, small, 1, FEW if few else 150),
            ("pool.rate", None): await at_once(pool, small, 1, 10 * FEW if few else AT_ONCE),
        }

    runs = {name: partial(with_pool, make, WORKERS, work) for name, make in peers(record).items()}
    record.take_turns(runs, 5)
    compared = contenders("pool.trip", "pool.rate")
    record.take_turns({name: run for name, run in runs.items() if name in compared}, 20)
    record.show("pool.trip")
    record.show("pool.rate")


def lengths(record: Record) -> None:
    """Two workers: calls of several lengths, and with 8 MB."""
    record.measurement("pool.large", "A call with 8 MB", "ms a call")
    record.measurement("pool.lengths", "Busy calls at once, by their length", "us a call", "seconds a call")

    async def work(pool: Pool) -> Found:
        found: Found = {}
        if pool.small:
            return found
        found["pool.large", None] = await in_series(pool, length, LARGE, 5)
        for seconds in LENGTHS:
            count = int(0.3 / max(seconds, 3e-4)) // (10 if pool.lazy or record.quick else 1)
            found["pool.lengths", seconds] = await at_once(pool, busy, seconds, max(count, 4))
        return found

    record.take_turns(
        {name: partial(with_pool, make, WORKERS, work) for name, make in peers(record).items()}, 3
    )
    record.show("pool.large")
    for seconds in LENGTHS:
        record.show("pool.lengths", seconds)


def numbers(record: Record) -> None:
    """1 to 10,000 calls that wait at the same time."""
    record.measurement("pool.numbers", "Small calls at once, by their number", "us a call", "calls")
    names = ("aioproc", "aioproc, uvloop", "run_in_executor", "anyio.to_process", "loky", "pebble")
    makers = {name: make for name, make in peers(record).items() if name in names}

    async def work(pool: Pool) -> Found:
        found: Found = {}
        for number in NUMBERS[:3] if record.quick else NUMBERS:
            times = max(1, 500 // number)
            turns = [await at_once(pool, small, 1, number) for _ in range(times)]
            found["pool.numbers", number] = sum(turns) / times
        return found

    record.take_turns({name: partial(with_pool, make, WORKERS, work) for name, make in makers.items()}, 3)
    for number in NUMBERS:
        record.show("pool.numbers", number)


def sizes(record: Record) -> None:
    """Pools of 1 to 64 workers, with calls that sleep: how near they come to one call a worker."""
    title = f"Calls that sleep {SLEEP_SECONDS * 1e3:.0f} ms, by the number of workers"
    record.measurement("pool.workers", title, "us a call", "workers")
    names = ("aioproc", "run_in_executor", "anyio.to_process", "loky")
    makers = {name: make for name, make in peers(record).items() if name in names}
    for workers in SIZES[::2] if record.quick else SIZES:

        async def work(pool: Pool) -> Found:
            count = 30 * pool.workers
            return {("pool.workers", pool.workers): await at_once(pool, asleep, SLEEP_SECONDS, count)}

        few = {name: make for name, make in makers.items() if workers <= 16 or "anyio" not in name}
        record.take_turns({name: partial(with_pool, make, workers, work) for name, make in few.items()}, 2)
        record.show("pool.workers", workers)


def maps(record: Record) -> None:
    """A map over 100,000 small items."""
    record.measurement("pool.map", "A map over 100,000 small items", "ms a map")
    items = range(10_000 if record.quick else 100_000)

    async def ours() -> float:
        async with aioproc.AsyncPool(WORKERS) as pool:
            await pool.map(small, items[:100])
            before = time.perf_counter()
            await pool.map(small, items)
            return time.perf_counter() - before

    def theirs() -> float:
        with FORKSERVER.Pool(WORKERS) as pool:
            pool.map(small, items[:100])
            before = time.perf_counter()
            pool.map(small, items)
            return time.perf_counter() - before

    record.take(
        "pool.map",
        {"aioproc": lambda: loops.run("asyncio", ours()), f"multiprocessing.Pool, {BLOCKING}": theirs},
        7,
    )


if __name__ == "__main__":
    as_part("pool")
