"""From start to joined, of a trivial target, and how long the loop is held up while thirty processes start.

``python -m benchmarks start``
"""

from __future__ import annotations

import asyncio
import multiprocessing
import time
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from typing import Any, Final

import anyio

import aioproc
from benchmarks import as_part, loops
from benchmarks.loops import LOOPS, named
from benchmarks.record import OURS, Record

METHODS: Final = ("fork", "forkserver", "spawn")
STARTED_AT_ONCE: Final = 30


def measure(record: Record) -> None:
    """Both tables."""
    record.measurement("start.joined", "From start to joined, of a trivial target", "ms a process")
    runs: dict[str, Callable[[], float]] = {
        named(OURS, loop): partial(ours, loop, trivial_async, None) for loop in LOOPS
    }
    runs["aioproc, plain target"] = partial(ours, "asyncio", trivial, None)
    runs |= {
        f"aioproc, {method}": partial(ours, "asyncio", trivial_async, method) for method in ("fork", "spawn")
    }
    runs |= {f"multiprocessing, {method}": partial(stdlib, method) for method in METHODS}
    runs["multiprocessing, forkserver, in threads"] = lambda: loops.run("asyncio", in_threads())
    if find_spec("aioprocessing"):
        runs["aioprocessing, forkserver"] = lambda: loops.run("asyncio", aioprocessing_process())
    else:
        record.leave_out("aioprocessing", "not installed")
    if find_spec("aiomultiprocess"):
        runs["aiomultiprocess, spawn"] = lambda: loops.run("asyncio", aiomultiprocess_process())
    else:
        record.leave_out("aiomultiprocess", "not installed")
    record.take("start.joined", runs, 7)
    title = f"Longest gap of a task that wakes each millisecond, while {STARTED_AT_ONCE} start"
    record.measurement("start.gap", title, "ms")
    record.take(
        "start.gap",
        {
            f"aioproc, {method}": lambda method=method: loops.run("asyncio", longest_gap(method))  # type: ignore[misc]
            for method in METHODS
        },
        3,
    )


async def trivial_async() -> None:
    """Nothing, in an event loop."""


def trivial() -> None:
    """Nothing, without one."""


def ours(loop: str, target: Callable[[], Any], method: str | None) -> float:
    """One of our processes, from start to joined."""

    async def start_and_join() -> float:
        before = time.perf_counter()
        p = aioproc.get_context(method).Process(target=target)
        await p.start()
        await p.join()
        assert p.exitcode == 0
        p.close()
        return time.perf_counter() - before

    return loops.run(loop, start_and_join())


def stdlib(method: str) -> float:
    """The stdlib's process, which holds up whoever calls, from start to joined."""
    before = time.perf_counter()
    context: Any = multiprocessing.get_context(method)
    p = context.Process(target=trivial)
    p.start()
    p.join()
    assert p.exitcode == 0
    p.close()
    return time.perf_counter() - before


async def in_threads() -> float:
    """The same, each call in a thread of the loop's."""
    before = time.perf_counter()
    p = multiprocessing.get_context("forkserver").Process(target=trivial)
    await asyncio.to_thread(p.start)
    await asyncio.to_thread(p.join)
    assert p.exitcode == 0
    return time.perf_counter() - before


async def aioprocessing_process() -> float:
    """aioprocessing, whose start holds up the loop."""
    import aioprocessing

    before = time.perf_counter()
    p = aioprocessing.AioProcess(target=trivial, context=multiprocessing.get_context("forkserver"))
    p.start()
    await p.coro_join()
    assert p.exitcode == 0
    return time.perf_counter() - before


async def aiomultiprocess_process() -> float:
    """aiomultiprocess as it is: spawn."""
    import aiomultiprocess

    before = time.perf_counter()
    p = aiomultiprocess.Process(target=trivial_async)
    p.start()
    await p.join()
    assert p.exitcode == 0
    return time.perf_counter() - before


async def longest_gap(method: str) -> float:
    """The longest time that a task which wakes each millisecond sleeps while thirty processes start."""
    gaps = [0.0]

    async def tick() -> None:
        while True:
            before = anyio.current_time()
            await anyio.sleep(0.001)
            gaps.append(anyio.current_time() - before)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(tick)
        await anyio.sleep(0.05)
        async with aioproc.ProcessGroup() as group:
            async with anyio.create_task_group() as starts:
                for _ in range(STARTED_AT_ONCE):
                    starts.start_soon(group.start, aioproc.get_context(method).Process(target=trivial_async))
        tasks.cancel_scope.cancel()
    return max(gaps)


if __name__ == "__main__":
    as_part("start")
