"""Processes that use a lock until they are killed."""

from __future__ import annotations

import anyio

from aioproc import Lock
from aioproc.local.lock import SyncLock
from tests.local.lock_children import enter, leave
from tests.shared import Shared


def use(lock: SyncLock, shared: Shared, number: int) -> None:
    while True:
        if lock.acquire(timeout=None if number % 4 else 0.002):
            enter(shared, lock.abandoned)
            shared[8 + number] += 1
            leave(shared)
            lock.release()


async def use_async(lock: Lock, shared: Shared, number: int) -> None:
    async def one(timeout: float | None) -> None:
        while True:
            if await lock.acquire(timeout=timeout):
                enter(shared, lock.abandoned)
                await anyio.lowlevel.checkpoint()
                shared[8 + number] += 1
                leave(shared)
                lock.release()

    async with anyio.create_task_group() as group:
        for timeout in (None, None, 0.002):
            group.start_soon(one, timeout)
