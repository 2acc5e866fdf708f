"""Processes that take from a semaphore until they are killed."""

from __future__ import annotations

import anyio

from aioproc import Semaphore
from aioproc.local.semaphore import SyncSemaphore
from tests.shared import Shared


def take(semaphore: SyncSemaphore, shared: Shared, number: int) -> None:
    """Count what is taken in one's own place; every fourth gives up now and then."""
    while True:
        if semaphore.acquire(timeout=None if number % 4 else 0.002):
            shared[number] += 1


async def take_async(semaphore: Semaphore, shared: Shared, number: int) -> None:
    async def one(timeout: float | None) -> None:
        while True:
            if await semaphore.acquire(timeout=timeout):
                shared[number] += 1
                await anyio.lowlevel.checkpoint()

    async with anyio.create_task_group() as group:
        for timeout in (None, None, 0.002):
            group.start_soon(one, timeout)
