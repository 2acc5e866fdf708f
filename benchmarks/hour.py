"""An hour's worth of tasks in one run: whether memory and descriptors stay where they are.

A hundred calls a second for an hour, as fast as they go: most are small, some carry a megabyte, raise, run in
the worker's event loop, are cancelled, or take a lock and put something into a queue; and each "minute" one
worker is killed. ``python -m benchmarks hour``
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any, Final

import anyio

import aioproc
from benchmarks import as_part, loops
from benchmarks.record import Record

WORKERS: Final = 2
MINUTES: Final = 60
CALLS_A_MINUTE: Final = 6000
AT_ONCE: Final = 100  # tasks that call, one call after another
PAGE_MB: Final = os.sysconf("SC_PAGE_SIZE") / 1e6


def measure(record: Record) -> None:
    """Run the hour; a row of figures for each minute."""
    calls_a_minute = CALLS_A_MINUTE // 20 if record.quick else CALLS_A_MINUTE
    rows = record.rows["hour"] = loops.run("asyncio", hour(calls_a_minute))
    first, last = rows[len(rows) // 6], rows[-1]
    print(
        f"{MINUTES * calls_a_minute:,} calls in {last['seconds']:.1f} s; after ten minutes, and at the end:"
    )
    for name in first:
        print(f"{name:24} {first[name]:10.1f} {last[name]:10.1f}")


# What is called


def small(number: int) -> int:
    """As little as can be."""
    return number


def large(data: bytes) -> bytes:
    """A large argument, a large result."""
    return data


def wrong() -> None:
    """Raise."""
    raise ValueError("wrong")


def die() -> None:
    """Kill the worker with the call in hand."""
    os.kill(os.getpid(), signal.SIGKILL)


async def in_a_loop(number: int) -> int:
    """In the worker's event loop."""
    await anyio.sleep(0)
    return number


async def long_in_a_loop() -> None:
    """Longer than anybody waits, and easy to cancel."""
    await anyio.sleep(60)


async def shared(lock: aioproc.Lock, queue: aioproc.Queue[int]) -> None:
    """Work with what came along with the call."""
    async with lock:
        await queue.put(1)


# The hour


async def hour(calls_a_minute: int) -> list[dict[str, Any]]:
    """All calls; the state after each minute."""
    rows: list[dict[str, Any]] = []
    lock, queue, began = aioproc.Lock(), aioproc.Queue[int](), time.perf_counter()
    async with aioproc.AsyncPool(WORKERS) as pool:
        for _ in range(MINUTES):
            numbers = iter(range(calls_a_minute))

            async def call_on(numbers: Any = numbers) -> None:
                for number in numbers:
                    await one_call(pool, number, lock, queue)

            async with anyio.create_task_group() as tasks:
                for _ in range(AT_ONCE):
                    tasks.start_soon(call_on)
            await kill_one(pool)
            rows.append({"seconds": time.perf_counter() - began, **state(pool)})
    return rows


async def one_call(
    pool: aioproc.AsyncPool, number: int, lock: aioproc.Lock, queue: aioproc.Queue[int]
) -> None:
    """One call: its kind goes by its number."""
    kind = number % 600
    if kind == 1:
        await pool.apply(large, (bytes(1 << 20),))
    elif kind in (2, 3):
        try:
            await pool.apply(wrong)
        except ValueError:
            pass
    elif kind in (4, 5):
        await pool.apply(shared, (lock, queue))
        await queue.get()
    elif kind == 6:
        with anyio.move_on_after(0.001):
            await pool.apply(long_in_a_loop)
    elif kind < 60:
        await pool.apply(in_a_loop, (number,))
    else:
        await pool.apply(small, (number,))


async def kill_one(pool: aioproc.AsyncPool) -> None:
    """Kill a worker, and wait until another has taken its place."""
    try:
        await pool.apply(die)
    except aioproc.WorkerDied:
        pass
    while {worker.state for worker in pool.stats().workers} != {"idle"}:
        await anyio.sleep(0.001)


def state(pool: aioproc.AsyncPool) -> dict[str, float]:
    """Memory in MB and open descriptors, of this process and of the workers."""
    workers = [worker.pid for worker in pool.stats().workers if worker.pid is not None]
    return {
        "memory": megabytes(os.getpid()),
        "memory of workers": sum(map(megabytes, workers)),
        "descriptors": descriptors(os.getpid()),
        "descriptors of workers": sum(map(descriptors, workers)),
        "tasks in the loop": len(anyio.get_running_tasks()),
        "workers replaced": pool.stats().restarts,
    }


def megabytes(pid: int) -> float:
    """What a process has in memory."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE_MB


def descriptors(pid: int) -> int:
    """How many descriptors a process has open."""
    return len(os.listdir(f"/proc/{pid}/fd"))


if __name__ == "__main__":
    as_part("hour")
