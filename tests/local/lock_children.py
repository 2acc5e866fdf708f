"""What the children of the lock's tests do."""

from __future__ import annotations

import os
import sys
import time
from typing import Any

import anyio

from aioproc.local.lock import Lock, SyncLock
from tests.shared import Shared, Wire

INSIDE, COUNT, TWICE, ABANDONED = range(4)  # places in Shared


def abandoned(lock: Any) -> bool:
    """Whether the one before died with it; of a plain semaphore nobody knows."""
    return bool(getattr(lock, "abandoned", False))


def enter(shared: Shared, abandoned: bool) -> None:
    """The first half of a critical section: note who else is inside."""
    if shared[INSIDE] and not abandoned:
        shared[TWICE] += 1
    shared[ABANDONED] += abandoned
    shared[INSIDE] = os.getpid()


def leave(shared: Shared) -> None:
    """The second half."""
    if shared[INSIDE] != os.getpid():
        shared[TWICE] += 1
    shared[COUNT] += 1
    shared[INSIDE] = 0


def count_up(lock: SyncLock, shared: Shared, rounds: int) -> None:
    for _ in range(rounds):
        with lock:
            enter(shared, lock.abandoned)
            leave(shared)


async def count_up_async(lock: Any, shared: Shared, rounds: int, tasks: int = 1) -> None:
    async def one() -> None:
        for number in range(rounds):
            async with lock:
                enter(shared, abandoned(lock))
                if number % 7 == 0:
                    await anyio.lowlevel.checkpoint()
                leave(shared)

    async with anyio.create_task_group() as group:
        for _ in range(tasks):
            group.start_soon(one)


def hold(lock: SyncLock, wire: Wire, back: Wire) -> None:
    """Take the lock, say so, hold it until told to release."""
    with lock:
        wire.say(lock.abandoned)
        back.hear()


async def hold_async(lock: Lock, wire: Wire, back: Wire) -> None:
    async with lock:
        wire.say(lock.abandoned)
        await back.ahear()


def hold_for_ever(lock: SyncLock, wire: Wire) -> None:
    with lock:
        wire.say(lock.abandoned)
        time.sleep(1000)


async def hold_for_ever_async(lock: Lock, wire: Wire) -> None:
    async with lock:
        wire.say(lock.abandoned)
        await anyio.sleep_forever()


def queue_up(lock: SyncLock, wire: Wire, number: int) -> None:
    """Wait for the lock, say one's number while holding it."""
    with lock:
        wire.say(number)


async def queue_up_async(lock: Lock, wire: Wire, numbers: list[int]) -> None:
    """A task for each number, in this order."""

    async def one(number: int) -> None:
        async with lock:
            wire.say(number)

    async with anyio.create_task_group() as group:
        for number in numbers:
            group.start_soon(one, number)
            await anyio.wait_all_tasks_blocked()


def release_only(lock: SyncLock) -> None:
    try:
        lock.release()
    except ValueError:
        sys.exit(0)
    sys.exit(1)


def compete(lock: Any, shared: Shared, number: int, others: int) -> None:
    """Take the lock over and over until Shared[0] says stop, only giving it up when all others wait.

    Count the turns, and the times this process slept.
    """
    line = getattr(lock, "_tokens", None) or lock.aio._line
    parent = os.getppid()
    while not shared[0] and os.getppid() == parent:
        with lock:
            shared[1 + number] += 1
            while line.waiting < others and not shared[0] and os.getppid() == parent:
                os.sched_yield()
    shared[1 + len(shared) // 2 + number] = voluntary_switches()


def voluntary_switches(pid: int | str = "self") -> int:
    """How often a process went to sleep of its own accord."""
    with open(f"/proc/{pid}/status") as status:
        for line in status:
            if line.startswith("voluntary_ctxt_switches"):
                return int(line.split()[1])
    raise AssertionError("no such line")
