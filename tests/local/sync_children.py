"""What the children of the tests of semaphores, events, conditions and barriers do."""

from __future__ import annotations

import os
import signal
import time
from typing import Any

import anyio

from aioproc import Barrier, BoundedSemaphore, Condition, Event, Semaphore
from tests.local.lock_children import voluntary_switches
from tests.shared import Shared, Wire


def take(semaphore: Any, wire: Wire, word: object) -> None:
    """Take one, say so, and end without giving it back."""
    semaphore.acquire()
    wire.say(word)


def use(semaphore: Any, wire: Wire, word: object) -> None:
    """Take one, say so, give it back."""
    with semaphore:
        wire.say(word)


async def use_async(semaphore: Semaphore | BoundedSemaphore, wire: Wire, words: list[int]) -> None:
    """A task for each word, in this order."""

    async def one(word: int) -> None:
        async with semaphore:
            wire.say(word)

    async with anyio.create_task_group() as group:
        for word in words:
            group.start_soon(one, word)
            await anyio.wait_all_tasks_blocked()


def take_and_stay(semaphore: Any, wire: Wire) -> None:
    semaphore.acquire()
    wire.say(os.getpid())
    time.sleep(1000)


async def take_and_stay_async(semaphore: Any, wire: Wire) -> None:
    await semaphore.acquire()
    wire.say(os.getpid())
    await anyio.sleep_forever()


def together(semaphore: Any, shared: Shared, rounds: int) -> None:
    """Note the most that were inside together: Shared[0] now, Shared[1] at most, Shared[2] in all."""
    for _ in range(rounds):
        with semaphore:
            inside(shared)


async def together_async(semaphore: Any, shared: Shared, rounds: int) -> None:
    async def one() -> None:
        for _ in range(rounds):
            async with semaphore:
                inside(shared)

    async with anyio.create_task_group() as group:
        for _ in range(3):
            group.start_soon(one)


def inside(shared: Shared) -> None:
    """Each process counts for itself, in its own place, so that no lock is needed."""
    mine = 4 + os.getpid() % (len(shared) - 4)
    shared[mine] += 1
    shared[1] = max(shared[1], sum(shared[place] for place in range(4, len(shared))))
    shared[mine] -= 1


def wait_for_event(event: Any, wire: Wire) -> None:
    wire.say(event.wait())


async def wait_for_event_async(event: Event, wire: Wire) -> None:
    wire.say(await event.wait())


async def say_and_wait(event: Event, wire: Wire) -> None:
    wire.say("here")
    await event.wait()


def set_and_die(event: Any) -> None:
    event.set()
    os.kill(os.getpid(), signal.SIGKILL)


def wait_once(condition: Any, wire: Wire, word: object) -> None:
    """Wait to be notified once, and say so."""
    with condition:
        condition.wait()
        wire.say(word)


async def wait_once_async(condition: Condition, wire: Wire, words: list[int]) -> None:
    async def one(word: int) -> None:
        async with condition:
            await condition.wait()
            wire.say(word)

    async with anyio.create_task_group() as group:
        for word in words:
            group.start_soon(one, word)
            await anyio.wait_all_tasks_blocked()


def hold_condition(condition: Any, wire: Wire) -> None:
    with condition:
        wire.say(os.getpid())
        time.sleep(1000)


def consume(condition: Any, shared: Shared, number: int) -> None:
    """Take items, counted in Shared[0], as they are announced; count them in one's own place."""
    while True:
        with condition:
            condition.wait_for(lambda: shared[0] > 0)
            shared[0] -= 1
            shared[4 + number] += 1


async def consume_async(condition: Condition, shared: Shared, number: int) -> None:
    async def one() -> None:
        while True:
            async with condition:
                await condition.wait_for(lambda: shared[0] > 0)
                shared[0] -= 1
                shared[4 + number] += 1

    async with anyio.create_task_group() as group:
        group.start_soon(one)
        group.start_soon(one)


def pass_on(condition: Any, shared: Shared, number: int, others: int) -> None:
    """Wait to be notified, count a turn and the sleeps so far, notify the next; until Shared[0] says stop."""
    notices = condition.aio._notices
    with condition:
        while not shared[0]:
            condition.wait()
            shared[1 + number] += 1
            shared[1 + len(shared) // 2 + number] = voluntary_switches()
            while notices.waiting < others and not shared[0]:
                os.sched_yield()
            condition.notify()


def meet(barrier: Any, wire: Wire) -> None:
    """Wait at the barrier; say the index, or the exception's name."""
    try:
        wire.say(barrier.wait())
    except Exception as error:
        wire.say(type(error).__name__)


async def meet_async(barrier: Barrier, wire: Wire) -> None:
    try:
        wire.say(await barrier.wait())
    except Exception as error:
        wire.say(type(error).__name__)


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
