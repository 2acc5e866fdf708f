"""Barrier: all or none, also when one of them dies."""

from __future__ import annotations

import asyncio
from threading import BrokenBarrierError
from typing import Any

import anyio
import anyio.lowlevel
import pytest

import aioproc
from aioproc import Barrier, Process
from tests.local import sync_children as children
from tests.shared import Wire, spare_descriptors

pytestmark = pytest.mark.anyio


async def here(barrier: Barrier, count: int) -> None:
    while barrier.n_waiting != count:
        await anyio.sleep(0.001)


async def test_all_go_on_together(anyio_backend: Any, start_method: str) -> None:
    """Tasks, async and plain children meet, round after round, and each has an index of its own."""
    barrier, wire = Barrier(5), Wire()
    context = aioproc.get_context(start_method)
    for _ in range(3):
        work = [context.Process(target=children.meet, args=(barrier.sync, wire)) for _ in range(2)]
        work.append(context.Process(target=children.meet_async, args=(barrier, wire)))
        for process in work:
            await process.start()
        async with anyio.create_task_group() as group:
            for _ in range(2):
                group.start_soon(children.meet_async, barrier, wire)
        for process in work:
            await process.result()
        assert sorted([await wire.ahear() for _ in range(5)]) == [0, 1, 2, 3, 4]
        assert barrier.n_waiting == 0


@pytest.mark.parametrize("victim", [0, 1, 2])
async def test_a_killed_member_breaks_it(anyio_backend: Any, start_method: str, victim: int) -> None:
    """Whichever of those who wait is killed, the others are told at once, and so is who comes later."""
    barrier, wire = Barrier(5), Wire()
    context = aioproc.get_context(start_method)
    work = [
        context.Process(target=children.meet, args=(barrier.sync, wire)),
        context.Process(target=children.meet_async, args=(barrier, wire)),
        context.Process(target=children.meet, args=(barrier.sync, wire)),
    ]
    for number, process in enumerate(work):
        await process.start()
        await here(barrier, number + 1)
    work[victim].kill()
    assert [await wire.ahear() for _ in range(2)] == ["BrokenBarrierError"] * 2
    for process in work:
        await process.join()
    assert barrier.broken
    with pytest.raises(BrokenBarrierError):
        await barrier.wait()
    barrier.reset()
    await meet_here(barrier)


async def meet_here(barrier: Barrier) -> None:
    async with anyio.create_task_group() as group:
        for _ in range(barrier.parties):
            group.start_soon(barrier.wait)


async def test_a_dead_first_one_is_noticed(anyio_backend: Any) -> None:
    """The only one who waited has died: the next to come, the last of the round, finds it broken."""
    barrier, wire = Barrier(2), Wire()
    first = Process(target=children.meet, args=(barrier.sync, wire))
    await first.start()
    await here(barrier, 1)
    first.kill()
    await first.join()
    with pytest.raises(BrokenBarrierError):
        await barrier.wait()


async def test_death_in_the_action_breaks_it(anyio_backend: Any) -> None:
    """The last one dies in the action: nobody waits for ever."""
    barrier = Barrier(3, action=children.die)
    wire = Wire()
    work = [Process(target=children.meet, args=(barrier.sync, wire)) for _ in range(3)]
    for process in work:
        await process.start()
    assert [await wire.ahear() for _ in range(2)] == ["BrokenBarrierError"] * 2
    for process in work:
        await process.join()
    assert barrier.broken


async def test_timeout_cancellation_and_abort_break_it(anyio_backend: Any) -> None:
    """One who does not wait to the end breaks it for all, until `reset`."""
    barrier, wire = Barrier(3, timeout=0.05), Wire()
    with pytest.raises(BrokenBarrierError):
        await barrier.wait()
    assert barrier.broken
    barrier.reset()
    with pytest.raises(BrokenBarrierError):
        barrier.sync.wait(-1)
    barrier.reset()
    patient = Barrier(3)
    other = Process(target=children.meet_async, args=(patient, wire))
    await other.start()
    await here(patient, 1)
    with anyio.move_on_after(0.02) as scope:
        await patient.wait()
    assert scope.cancelled_caught
    assert await wire.ahear() == "BrokenBarrierError"
    await other.result()
    patient.reset()
    async with anyio.create_task_group() as group:
        group.start_soon(children.meet_async, patient, wire)
        await here(patient, 1)
        patient.abort()
    assert await wire.ahear() == "BrokenBarrierError"
    with pytest.raises(BrokenBarrierError):
        patient.sync.wait()
    patient.sync.reset()
    async with anyio.create_task_group() as group:
        group.start_soon(children.meet_async, patient, wire)
        await here(patient, 1)
        patient.reset()
    assert await wire.ahear() == "BrokenBarrierError"
    await meet_here(patient)


async def test_cancelled_again_while_another_arrives(anyio_backend: Any) -> None:
    """A member that asyncio cancels twice breaks the barrier, and leaves its lock to the others."""
    barrier = Barrier(2)

    async def main() -> None:
        task = asyncio.create_task(barrier.wait())
        await here(barrier, 1)
        await barrier._lock.acquire()
        for _ in range(3):
            task.cancel()
            await asyncio.sleep(0.02)
        barrier._lock.release()
        with pytest.raises(asyncio.CancelledError):
            await task

    await anyio.to_thread.run_sync(asyncio.run, main())
    assert barrier._lock.free
    assert barrier.broken


@pytest.mark.anyio
async def test_cancelled_on_the_way_in(anyio_backend: Any) -> None:
    """Who is cancelled while it waits to be counted will not be there either."""
    barrier = Barrier(2)
    await barrier._lock.acquire()
    async with anyio.create_task_group() as group:
        group.start_soon(barrier.wait)
        while not barrier._lock.waiting:
            await anyio.lowlevel.checkpoint()
        group.cancel_scope.cancel()
        barrier._lock.release()
    assert barrier.broken
    with pytest.raises(BrokenBarrierError):
        await barrier.wait()


def test_no_descriptor_to_break_it_with() -> None:
    """It is broken also if the one whose time runs out has no descriptor to spare for the round."""
    barrier = Barrier(2)
    round_ = barrier._slot.arrive(2)
    with spare_descriptors(1), pytest.raises(OSError, match="no free file descriptor"):
        barrier.abort()
    assert barrier.broken
    round_.drop()


async def test_action(anyio_backend: Any) -> None:
    """The last one calls it, once a round; it may be a coroutine function; its failure breaks the barrier.

    So does a coroutine function where the last one is a thread, which cannot await it.
    """
    called: list[int] = []

    async def note() -> None:
        called.append(1)

    def fail() -> None:
        raise TimeoutError("mine")

    for _ in range(2):
        await meet_here(Barrier(3, action=note))
    assert called == [1, 1]
    failing = Barrier(1, action=fail)
    with pytest.raises(TimeoutError, match="mine"):
        await failing.wait()
    assert failing.broken
    awaited = Barrier(1, action=note)
    with pytest.raises(TypeError, match="plain function"):
        awaited.sync.wait()
    assert awaited.broken
    assert called == [1, 1]


async def test_errors_and_repr(anyio_backend: Any) -> None:
    """No parties are a ValueError; the state shows."""
    for parties in (0, -1):
        with pytest.raises(ValueError, match="1 or more"):
            Barrier(parties)
    barrier = Barrier(2)
    assert repr(barrier) == repr(barrier.sync) == "<Barrier 0/2 waiting>"
    barrier.abort()
    assert repr(barrier) == "<Barrier broken>"
    assert barrier.sync.aio is barrier
    assert await Barrier(1).wait() == 0


@pytest.mark.parametrize("end", ["reset", "abort"])
async def test_ended_by_a_task_while_another_is_about_to_arrive(anyio_backend: Any, end: str) -> None:
    """Who has just been given the barrier's lock in this loop, and has not run yet, does not hold it up."""
    barrier = Barrier(2)
    assert barrier._lock.try_take()  # somebody is just arriving
    async with anyio.create_task_group() as group:
        group.start_soon(barrier.wait)
        await anyio.wait_all_tasks_blocked()
        barrier._lock.release()
        getattr(barrier, end)()
        barrier.reset()
        assert await barrier.wait() in (0, 1)
