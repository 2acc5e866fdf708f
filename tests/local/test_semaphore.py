"""Semaphores: never more than the value inside, in order, and permits that come back from the dead."""

from __future__ import annotations

import os
import threading
from typing import Any

import anyio
import pytest

import aioproc
from aioproc import BoundedSemaphore, Process, Semaphore
from tests.conftest import BACKENDS, ONE_LOOP
from tests.crash.killing import died, forked
from tests.local import sync_children as children
from tests.local.lock_children import COUNT, TWICE, count_up_async, enter, leave
from tests.local.test_lock import cancel_at_random, competed
from tests.shared import Shared, Wire, spare_descriptors

pytestmark = pytest.mark.anyio
KINDS = pytest.mark.parametrize("kind", [Semaphore, BoundedSemaphore])


def line_of(semaphore: Any) -> Any:
    """The tokens that those who wait for it wait for."""
    return getattr(semaphore, "_tokens", None) or semaphore._line


async def standing(semaphore: Any, count: int) -> None:
    while line_of(semaphore).waiting != count:
        await anyio.sleep(0.001)


@KINDS
async def test_never_more_than_its_value(anyio_backend: Any, start_method: str, kind: Any) -> None:
    """Async and plain children together: at most three are inside, and three permits are left."""
    semaphore, shared = kind(3), Shared(64)
    context = aioproc.get_context(start_method)
    work = [
        context.Process(target=children.together, args=(semaphore.sync, shared, 200)),
        context.Process(target=children.together, args=(semaphore.sync, shared, 200)),
        context.Process(target=children.together_async, args=(semaphore, shared, 60)),
    ]
    for process in work:
        await process.start()
    await children.together_async(semaphore, shared, 60)
    for process in work:
        await process.result()
    assert 1 <= shared[1] <= 3
    assert semaphore.get_value() == 3


@KINDS
async def test_first_come_first_served(anyio_backend: Any, kind: Any) -> None:
    """Tasks and processes get it in order of arrival, and nobody who comes later passes them."""
    semaphore, wire = kind(1), Wire()
    async with anyio.create_task_group() as group:
        await semaphore.acquire()
        head = kind is Semaphore  # the first in a semaphore's line has taken its ticket
        group.start_soon(children.use_async, semaphore, wire, [0])
        await anyio.wait_all_tasks_blocked()
        plain = Process(target=children.use, args=(semaphore.sync, wire, 1))
        await plain.start()
        await standing(semaphore, 2 - head)
        tasks = Process(target=children.use_async, args=(semaphore, wire, [2, 3]))
        await tasks.start()
        await standing(semaphore, 4 - head)
        semaphore.release()
        assert not await semaphore.acquire(False)
    assert [await wire.ahear() for _ in range(4)] == [0, 1, 2, 3]
    await plain.result()
    await tasks.result()


async def test_a_killed_holders_permit_comes_back(anyio_backend: Any, start_method: str) -> None:
    """Each permit of a BoundedSemaphore returns as its holder dies, while the others are still held."""
    limit, wire = BoundedSemaphore(3), Wire()
    context = aioproc.get_context(start_method)
    holders = [
        context.Process(target=children.take_and_stay, args=(limit.sync, wire)),
        context.Process(target=children.take_and_stay_async, args=(limit, wire)),
        context.Process(target=children.take_and_stay, args=(limit.sync, wire)),
    ]
    for process in holders:
        await process.start()
        await wire.ahear()
    assert limit.get_value() == 0
    for victim in holders[:2]:
        async with anyio.create_task_group() as group:
            group.start_soon(limit.acquire)
            await anyio.wait_all_tasks_blocked()
            victim.kill()
        assert limit.abandoned
    assert not await limit.acquire(False)
    limit.release()
    limit.release()
    holders[2].kill()
    await holders[2].join()
    assert limit.get_value() == 3
    for process in holders:
        await process.join()


async def test_the_mark_of_a_permit_stays_until_it_is_given_back(anyio_backend: Any) -> None:
    """Another task of the process that gives back a permit of its own does not take the mark away."""
    semaphore = BoundedSemaphore(2)
    await semaphore.acquire()
    assert not died(forked(semaphore.sync.acquire))
    await semaphore.acquire()
    assert semaphore.abandoned
    semaphore.release()
    assert semaphore.abandoned
    semaphore.release()
    assert not semaphore.abandoned


async def test_more_permits_than_pipes(anyio_backend: Any) -> None:
    """Beyond 128, permits share their fate: all come back when all their holders are dead."""
    limit, wire = BoundedSemaphore(200), Wire()
    holder = Process(target=take_all, args=(limit.sync, wire, Wire()))
    await holder.start()
    assert await wire.ahear() == 200
    assert limit.get_value() == 0
    holder.kill()
    await holder.join()
    assert limit.get_value() == 200
    for _ in range(200):
        assert await limit.acquire(False)
    assert not await limit.acquire(False)


def take_all(limit: Any, wire: Wire, never: Wire) -> None:
    taken = 0
    while limit.acquire(False):
        taken += 1
    wire.say(taken)
    never.hear(None)


async def test_what_a_killed_process_took_of_a_semaphore_stays_taken(anyio_backend: Any) -> None:
    """A plain Semaphore has no owner: neither exit nor death gives anything back."""
    semaphore, wire = Semaphore(2), Wire()
    quiet = Process(target=children.take, args=(semaphore.sync, wire, "took"))
    await quiet.start()
    await quiet.result()
    killed = Process(target=children.take_and_stay, args=(semaphore.sync, wire))
    await killed.start()
    await wire.ahear()
    await wire.ahear()
    killed.kill()
    await killed.join()
    assert semaphore.get_value() == 0
    semaphore.release()
    assert await semaphore.acquire(timeout=5)


@KINDS
async def test_a_killed_waiter_takes_nothing(anyio_backend: Any, kind: Any) -> None:
    """At the head of the line or behind it, a waiter's death leaves the release to the next one."""
    semaphore, wire = kind(1), Wire()
    await semaphore.acquire()
    waiting = [Process(target=children.use, args=(semaphore.sync, wire, number)) for number in range(4)]
    for number, process in enumerate(waiting):
        await process.start()
        await standing(semaphore, number + (kind is BoundedSemaphore))  # a plain one's first has no ticket
        while kind is Semaphore and line_of(semaphore).free:
            await anyio.sleep(0.001)
    for victim in (waiting[2], waiting[0]):  # whoever is killed while it recovers a token delays another
        victim.kill()
        await victim.join()
    semaphore.release()
    assert [await wire.ahear(), await wire.ahear()] == [1, 3]
    await waiting[1].result()
    await waiting[3].result()
    assert semaphore.get_value() == 1


@KINDS
async def test_cancelled_and_timed_out_waits(anyio_backend: Any, kind: Any) -> None:
    """They take nothing and lose nothing."""
    semaphore = kind(1)
    await semaphore.acquire()
    for timeout in (0, -1, 0.001):
        assert not await semaphore.acquire(timeout=timeout)
        assert not semaphore.sync.acquire(timeout=timeout)
    for turn in range(300):
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as group:
                group.start_soon(semaphore.acquire)
                for _ in range(turn % 7):
                    await anyio.lowlevel.checkpoint()
                if turn % 3 == 0:
                    semaphore.release()
                scope.cancel()
        if turn % 3 == 0 and not semaphore.get_value():
            semaphore.release()
        if turn % 3 == 0:
            assert await semaphore.acquire(timeout=5)
        assert semaphore.get_value() == 0
    semaphore.release()
    assert semaphore.get_value() == 1


@KINDS
async def test_waits_cancelled_at_random(anyio_backend: Any, kind: Any) -> None:
    """At any moment, in a line that another process stands in as well: they lose and take nothing."""
    semaphore = kind(1)
    await cancel_at_random(semaphore, 3000)
    assert semaphore.get_value() == 1


@pytest.mark.slow
@pytest.mark.timeout(600)
@KINDS
async def test_many_cancelled_waits(anyio_backend: Any, kind: Any) -> None:
    """A hundred thousand waits that are cancelled lose and take none, while another process has its turns."""
    semaphore = kind(1)
    await cancel_at_random(semaphore, 100_000)
    assert semaphore.get_value() == 1


async def test_released_by_anybody(anyio_backend: Any) -> None:
    """A Semaphore is raised by processes that took nothing."""
    semaphore = Semaphore(0)
    async with Process(target=semaphore.sync.release) as other:
        await other.result()
    assert await semaphore.acquire(timeout=5)
    semaphore.release(3)
    assert semaphore.get_value() == 3


async def test_errors(anyio_backend: Any) -> None:
    """Negative values, and more releases than acquires of a bounded one, are ValueErrors."""
    for kind in (Semaphore, BoundedSemaphore):
        with pytest.raises(ValueError, match="0 or more"):
            kind(-1)
    with pytest.raises(ValueError, match="n must be 1 or more, not 0"):
        Semaphore().release(0)
    bounded = BoundedSemaphore(2)
    with pytest.raises(ValueError, match="does not hold"):
        bounded.release()
    assert bounded.sync.acquire()
    bounded.release()
    with pytest.raises(ValueError, match="does not hold"):
        bounded.sync.release()
    with pytest.raises(ValueError, match="no more fit"):
        BoundedSemaphore(1_000_000)
    assert not await BoundedSemaphore(0).acquire(timeout=0.01)


@ONE_LOOP
@KINDS
@pytest.mark.parametrize("value", [1, 2, 4])
async def test_fairness(anyio_backend: Any, kind: Any, value: int) -> None:
    """Among 32 processes that all want it, shares differ by less than a tenth; each hand-over wakes one.

    With several units the shares are not looked at: who gets no processor while it has one misses turns.
    """
    head = kind is Semaphore  # who has taken its ticket
    turns, sleeps = await competed(kind(value), 32 - value - head)
    assert value > 1 or max(turns) - min(turns) <= max(1, 0.1 * max(turns)), turns
    assert sleeps / sum(turns) < 1.2, (sleeps, sum(turns))


async def test_loops_in_threads(anyio_backend: Any) -> None:
    """Several loops and threads of a process, and another process, wait in one line."""
    semaphore, shared = Semaphore(1), Shared()

    def in_loop(name: str) -> None:
        backend, options = BACKENDS[name]
        anyio.run(count_up_async, semaphore, shared, 50, 3, backend=backend, backend_options=options)

    def in_thread() -> None:
        for _ in range(50):
            with semaphore.sync:
                enter(shared, False)
                leave(shared)

    threads = [threading.Thread(target=in_loop, args=(name,)) for name in BACKENDS]
    threads += [threading.Thread(target=in_thread) for _ in range(2)]
    other = Process(target=count_up_async, args=(semaphore, shared, 50, 3))
    await other.start()
    for thread in threads:
        thread.start()
    await count_up_async(semaphore, shared, 50, 3)
    for thread in threads:
        await anyio.to_thread.run_sync(thread.join)
    await other.result()
    assert shared[TWICE] == 0
    assert shared[COUNT] == 5 * 150 + 2 * 50
    assert semaphore.get_value() == 1


async def test_repr_and_twins(anyio_backend: Any) -> None:
    """The state shows; the twin leads back."""
    semaphore, limit = Semaphore(3), BoundedSemaphore(2)
    assert repr(semaphore) == repr(semaphore.sync) == "<Semaphore 3, 0 waiting>"
    async with limit:
        assert repr(limit) == repr(limit.sync) == "<BoundedSemaphore 1/2 free, 0 waiting>"
    assert semaphore.sync.aio is semaphore
    assert limit.sync.aio is limit
    assert not limit.locked()
    assert not semaphore.sync.locked()


def test_no_descriptors_for_all_pipes() -> None:
    """Who cannot have the pipes of all permits has none; later it has all, and makes no permit too many."""
    limit = BoundedSemaphore(10)
    with spare_descriptors(3), pytest.raises(OSError, match="no free file descriptors"):
        limit.get_value()
    child = os.fork()
    if not child:
        limit.sync.acquire()
        os._exit(0)
    os.waitpid(child, 0)
    assert limit.get_value() == 10
