"""Processes killed at random while they use a lock: never two holders, never a standstill."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Any

import anyio
import pytest

import aioproc
from aioproc import Lock, Process
from tests.crash import lock_workers
from tests.local.lock_children import COUNT, TWICE
from tests.shared import Shared

WORKERS = 6
SECONDS = 20  # without any turn in that time, the lock is lost


def worker(method: str, lock: Lock, shared: Shared, number: int) -> Process[Any]:
    target: Callable[..., Any] = lock_workers.use_async if number % 2 else lock_workers.use
    handed = lock if number % 2 else lock.sync
    return aioproc.get_context(method).Process(target=target, args=(handed, shared, number))


async def kill_at_random(method: str, kills: int) -> None:
    """Kill a worker, or several, start others in their place, and see that turns are taken."""
    lock, shared, dice = Lock(), Shared(8 + WORKERS), random.Random(kills)
    workers = [worker(method, lock, shared, number) for number in range(WORKERS)]
    for process in workers:
        await process.start()
    killed = 0
    while killed < kills:
        await anyio.sleep(dice.uniform(0, 0.03))
        chosen = dice.sample(range(WORKERS), dice.choice((1, 1, 2, WORKERS)))
        for number in chosen:
            workers[number].kill()
        for number in chosen:
            await workers[number].join()
            workers[number].close()
            workers[number] = worker(method, lock, shared, number)
            await workers[number].start()
        killed += len(chosen)
        await a_turn_is_taken(shared)
        assert shared[TWICE] == 0
    for process in workers:
        process.kill()
        await process.join()
    for _ in range(3):
        assert await lock.acquire(timeout=SECONDS)
        lock.release()
    assert not lock.abandoned
    assert shared[TWICE] == 0


async def a_turn_is_taken(shared: Shared) -> None:
    before, limit = shared[COUNT], time.monotonic() + SECONDS
    while shared[COUNT] == before:
        assert time.monotonic() < limit, "nobody gets the lock any more"
        await anyio.sleep(0.001)


@pytest.mark.anyio
@pytest.mark.parametrize("method", ["fork", "forkserver"])
async def test_random_kills(anyio_backend: Any, method: str) -> None:
    """Holders and waiters, async and plain, killed at any instant leave the lock to the others."""
    await kill_at_random(method, 70)


@pytest.mark.anyio
async def test_random_kills_of_spawned_children(anyio_backend: Any) -> None:
    """The same with children of the third kind."""
    await kill_at_random("spawn", 8)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.anyio
async def test_many_random_kills(anyio_backend: Any) -> None:
    """Two thousand of them on each loop."""
    await kill_at_random("forkserver", 2000)
