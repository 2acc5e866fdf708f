"""Pools of two workers side by side: round trip of a call, small calls per second, 8 MB arguments, a map.

``python -m benchmarks.pool``; contenders that are not installed are left out.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import sys
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import AsyncExitStack
from typing import Any

import anyio
import anyio.to_process
import trio

import aioproc
from benchmarks.measuring import Times, alternate, ratio, table

WORKERS = 2
ROUNDS = 5
OURS, EXECUTOR, TO_PROCESS = "aioproc", "run_in_executor(ProcessPoolExecutor)", "anyio.to_process"
Call = Callable[..., Awaitable[Any]]


def small(number: int) -> int:
    """As little work as can be."""
    return number + 1


async def small_async(number: int) -> int:
    """The same, for pools of coroutines."""
    return number + 1


def length(data: bytes) -> int:
    """Takes a large argument."""
    return len(data)


async def length_async(data: bytes) -> int:
    """The same, for pools of coroutines."""
    return len(data)


async def contenders(stack: AsyncExitStack) -> dict[str, Call]:
    """A function that awaits one call, for each pool there is."""
    pool = await stack.enter_async_context(aioproc.AsyncPool(WORKERS))
    ppe = stack.enter_context(ProcessPoolExecutor(WORKERS, multiprocessing.get_context("spawn")))
    loop, limiter = asyncio.get_running_loop(), anyio.CapacityLimiter(WORKERS)
    found: dict[str, Call] = {
        OURS: lambda func, arg: pool.apply(func, (arg,)),
        EXECUTOR: lambda func, arg: loop.run_in_executor(ppe, func, arg),
        TO_PROCESS: lambda func, arg: anyio.to_process.run_sync(func, arg, limiter=limiter),
    }
    try:
        import aiomultiprocess

        amp = await stack.enter_async_context(
            aiomultiprocess.Pool(WORKERS, loop_initializer=asyncio.new_event_loop)
        )
        asynchronous = {small: small_async, length: length_async}
        found["aiomultiprocess"] = lambda func, arg: amp.apply(asynchronous[func], (arg,))
    except ImportError:
        pass
    try:
        import loky

        executor = loky.ProcessPoolExecutor(WORKERS)
        stack.callback(executor.shutdown)
        found["loky"] = lambda func, arg: asyncio.wrap_future(executor.submit(func, arg))
    except ImportError:
        pass
    try:
        import pebble

        pebbles = stack.enter_context(pebble.ProcessPool(WORKERS))
        found["pebble"] = lambda func, arg: asyncio.wrap_future(pebbles.submit(func, None, arg))
    except ImportError:
        pass
    return found


def one_after_another(call: Call, count: int) -> Callable[[], Awaitable[float]]:
    """Seconds of one call, of many in series."""

    async def run() -> float:
        before = time.perf_counter()
        for number in range(count):
            await call(small, number)
        return (time.perf_counter() - before) / count

    return run


def all_at_once(call: Call, count: int) -> Callable[[], Awaitable[float]]:
    """Seconds of one call, of many that wait together."""

    async def run() -> float:
        before = time.perf_counter()
        await asyncio.gather(*[call(small, number) for number in range(count)])
        return (time.perf_counter() - before) / count

    return run


def large(call: Call, data: bytes) -> Callable[[], Awaitable[float]]:
    """Seconds of one call with a large argument."""

    async def run() -> float:
        before = time.perf_counter()
        for _ in range(3):
            await call(length, data)
        return (time.perf_counter() - before) / 3

    return run


async def trio_parallel_times() -> Times:
    """trio-parallel has no asyncio side, so it is measured by itself, right after the others."""
    import trio_parallel

    limiter = trio.CapacityLimiter(WORKERS)
    times: Times = {"round trip": [], "at once": []}
    await trio_parallel.run_sync(small, 1, limiter=limiter)
    for _ in range(ROUNDS):
        before = time.perf_counter()
        for number in range(200):
            await trio_parallel.run_sync(small, number, limiter=limiter)
        times["round trip"].append((time.perf_counter() - before) / 200)
        before = time.perf_counter()
        async with trio.open_nursery() as nursery:
            for number in range(500):
                nursery.start_soon(lambda n: trio_parallel.run_sync(small, n, limiter=limiter), number)
        times["at once"].append((time.perf_counter() - before) / 500)
    return times


async def maps() -> Times:
    """map over 100,000 small items, against multiprocessing's own."""
    async with aioproc.AsyncPool(WORKERS) as pool:
        with multiprocessing.get_context("spawn").Pool(WORKERS) as theirs:
            items = range(100_000)
            return await alternate(
                {
                    OURS: lambda: _done(pool.map(small, items)),
                    "multiprocessing.Pool": lambda: _no(theirs.map(small, items)),
                },
                ROUNDS,
            )


async def _done(waited: Awaitable[Any]) -> None:
    await waited


def _no(_: object) -> None:
    return None


def _show(title: str, times: Times, scale: float = 1e6, unit: str = "us") -> None:
    print(f"\n{title}\n{table(times, OURS, scale, unit)}", flush=True)


async def main() -> None:
    """Print medians and ratios."""
    async with AsyncExitStack() as stack:
        calls = await contenders(stack)
        slow = {"aiomultiprocess"}  # it polls: a call is 10 ms
        trips = await alternate(
            {name: one_after_another(call, 20 if name in slow else 200) for name, call in calls.items()},
            ROUNDS,
        )
        _show("Round trip of a call", trips)
        rates = await alternate({name: all_at_once(call, 1000) for name, call in calls.items()}, ROUNDS)
        _show("A small call of 1,000 at once", rates)
        data = bytes(8 << 20)
        larges = await alternate({name: large(call, data) for name, call in calls.items()}, ROUNDS)
        _show("A call with 8 MB", larges, 1e3, "ms")
    mapped = await maps()
    _show("map over 100,000 items", mapped, 1e3, "ms")
    print("\nthe promises:")
    for what, times, peer, least in (
        ("round trip", trips, EXECUTOR, 4),
        ("round trip", trips, TO_PROCESS, 1.5),
        ("calls per second", rates, EXECUTOR, 6),
        ("calls per second", rates, TO_PROCESS, 4),
        ("8 MB", larges, EXECUTOR, 1),
        ("8 MB", larges, TO_PROCESS, 1),
    ):
        found = ratio(times, peer, OURS)
        verdict = "holds" if found >= least else "DOES NOT"
        print(f"{what:17} {found:5.1f} times {peer}, at least {least}: {verdict}")


if __name__ == "__main__":
    uvloop = "--uvloop" in sys.argv
    aioproc.run(main, use_uvloop=uvloop)
    try:
        alone = trio.run(trio_parallel_times)
        print(
            "\ntrio-parallel alone: ", {k: f"{sorted(v)[len(v) // 2] * 1e6:.0f} us" for k, v in alone.items()}
        )
    except ImportError:
        pass
