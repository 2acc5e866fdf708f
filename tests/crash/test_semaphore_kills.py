"""Processes killed at random while they take from a semaphore: nothing is lost, and nobody stands still."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Any

import anyio
import pytest

import aioproc
from aioproc import Process, Semaphore
from tests.crash import semaphore_workers
from tests.shared import Shared

WORKERS = 6
SECONDS = 20  # what is not taken by then lies there for ever


def worker(method: str, semaphore: Semaphore, shared: Shared, number: int) -> Process[Any]:
    target: Callable[..., Any] = semaphore_workers.take_async if number % 2 else semaphore_workers.take
    handed = semaphore if number % 2 else semaphore.sync
    return aioproc.get_context(method).Process(target=target, args=(handed, shared, number))


async def kill_at_random(method: str, kills: int) -> None:
    """Kill a worker, or several, at work; others take all that is there, and what follows.

    Each of the killed may have taken one more than it has counted.
    """
    semaphore, shared, dice = Semaphore(0), Shared(WORKERS), random.Random(kills)
    workers = [worker(method, semaphore, shared, number) for number in range(WORKERS)]
    for process in workers:
        await process.start()
    killed = released = 0
    while killed < kills:
        burst = dice.choice((1, 2, 5, 20, 50))
        semaphore.release(burst)
        await anyio.sleep(dice.uniform(0, 0.01))
        chosen = dice.sample(range(WORKERS), dice.choice((1, 1, 2, WORKERS)))
        for number in chosen:
            workers[number].kill()
        for number in chosen:
            await workers[number].join()
            workers[number].close()
            workers[number] = worker(method, semaphore, shared, number)
            await workers[number].start()
        semaphore.release()
        killed, released = killed + len(chosen), released + burst + 1
        await all_is_taken(semaphore)
    for process in workers:
        process.kill()
        await process.join()
    assert released - killed - WORKERS <= sum(shared[number] for number in range(WORKERS)) <= released
    for _ in range(3):
        semaphore.release()
        assert await semaphore.acquire(timeout=SECONDS)
    assert semaphore.get_value() == 0


async def all_is_taken(semaphore: Semaphore) -> None:
    limit = time.monotonic() + SECONDS
    while semaphore.get_value():
        assert time.monotonic() < limit, "nobody takes what is there"
        await anyio.sleep(0.001)


@pytest.mark.anyio
@pytest.mark.parametrize("method", ["fork", "forkserver"])
async def test_random_kills(anyio_backend: Any, method: str) -> None:
    """Heads and those behind them, async and plain, killed at any instant leave the rest to the others."""
    await kill_at_random(method, 100)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.anyio
async def test_many_random_kills(anyio_backend: Any) -> None:
    """Two thousand of them on each loop."""
    await kill_at_random("forkserver", 2000)
