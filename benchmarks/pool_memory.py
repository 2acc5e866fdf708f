"""What an idle worker of a pool costs in memory, and how long 64 of them take to start.

``python -m benchmarks.pool_memory``
"""

from __future__ import annotations

import time

import anyio
import psutil

import aioproc


def small(number: int) -> int:
    """As little work as can be."""
    return number + 1


async def small_async(number: int) -> int:
    """The same in an event loop."""
    return number + 1


async def all_idle(pool: aioproc.AsyncPool) -> None:
    """Until every worker has started and has nothing to do."""
    while {worker.state for worker in pool.stats().workers} != {"idle"}:
        await anyio.sleep(0.005)


def megabytes(pool: aioproc.AsyncPool, kind: str) -> float:
    """The workers' mean: "uss" is what a worker has for itself, "pss" adds its share of what is shared."""
    found = [psutil.Process(worker.pid).memory_full_info() for worker in pool.stats().workers]
    return float(sum(getattr(each, kind) for each in found) / len(found) / 1e6)


async def main() -> None:
    """Print a line for each way to start workers."""
    for method in ("forkserver", "spawn"):
        async with aioproc.AsyncPool(8, context=aioproc.get_context(method)) as pool:
            for what, func in (("plain functions", small), ("with an event loop", small_async)):
                await pool.map(func, range(200), 1)
                await all_idle(pool)
                own, share = megabytes(pool, "uss"), megabytes(pool, "pss")
                print(f"{method}, {what}: {own:.1f} MB of its own, {share:.1f} MB with its share")
    before = time.perf_counter()
    async with aioproc.AsyncPool(64) as pool:
        await pool.apply(small, (1,))
        first = time.perf_counter() - before
        await all_idle(pool)
        ready = time.perf_counter() - before
        print(f"64 workers: first result after {first:.2f} s, all ready after {ready:.2f} s")


if __name__ == "__main__":
    aioproc.run(main, use_uvloop=False)
