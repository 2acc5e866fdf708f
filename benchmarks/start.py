"""From start to joined, of a trivial target: ``python -m benchmarks.start [rounds]``.

Also: how long the loop is held up while thirty processes start. aiomultiprocess is compared with when it is
installed.
"""

from __future__ import annotations

import multiprocessing
import sys
from functools import partial
from importlib.util import find_spec
from typing import Any

import anyio

import aioproc
from benchmarks.measuring import Contender, alternate, ratio, table

METHODS = ("fork", "forkserver", "spawn")
PEER = "aiomultiprocess, spawn, async"
DEFAULT = "aioproc, default, async"
STARTED_AT_ONCE = 30


async def trivial() -> None:
    """Nothing, in an event loop."""


def trivial_plain() -> None:
    """Nothing, without one."""


def ours(target: Any, method: str | None = None) -> Contender:
    """One of our processes, from start to joined."""

    async def start_and_join() -> None:
        p = aioproc.get_context(method).Process(target=target)
        await p.start()
        await p.join()
        assert p.exitcode == 0
        p.close()

    return start_and_join


def stdlib(method: str) -> Contender:
    """The stdlib's process, which holds up the loop from start to joined."""
    context: Any = multiprocessing.get_context(method)

    def start_and_join() -> None:
        p = context.Process(target=trivial_plain)
        p.start()
        p.join()
        assert p.exitcode == 0
        p.close()

    return start_and_join


def peer() -> Contender:
    """aiomultiprocess as it is: spawn."""
    import aiomultiprocess

    async def start_and_join() -> None:
        p = aiomultiprocess.Process(target=trivial)
        p.start()
        await p.join()
        assert p.exitcode == 0

    return start_and_join


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
                    starts.start_soon(group.start, aioproc.get_context(method).Process(target=trivial))
        tasks.cancel_scope.cancel()
    return max(gaps)


async def main(rounds: int = 15) -> None:
    """Print both tables."""
    contenders: dict[str, Contender] = {
        DEFAULT: ours(trivial),
        "aioproc, default, plain": ours(trivial_plain),
    }
    contenders |= {f"aioproc, {method}, async": ours(trivial, method) for method in METHODS}
    contenders |= {f"multiprocessing, {method}, plain": stdlib(method) for method in METHODS}
    if find_spec("aiomultiprocess"):
        contenders[PEER] = peer()
    times = await alternate(contenders, rounds)
    print("From start to joined")
    print(table(times, DEFAULT))
    if PEER in times:
        print(f"{ratio(times, PEER, DEFAULT):.1f} times faster than {PEER}\n")
    gaps = await alternate({method: partial(longest_gap, method) for method in METHODS}, 3)
    print(f"Longest gap of a task that wakes each millisecond, while {STARTED_AT_ONCE} processes start")
    print(table(gaps, "forkserver"))


if __name__ == "__main__":
    aioproc.run(main, *map(int, sys.argv[1:]))
