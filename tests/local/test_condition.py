"""Condition and RLock: notifications go to the living, in order, and one wake-up brings the lock along."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import threading
from collections import deque
from typing import Any

import anyio
import anyio.lowlevel
import pytest

import aioproc
from aioproc import Condition, Lock, NotOwner, Process, RLock
from aioproc._kernel.ticket import Ticket
from aioproc._kernel.token import LEFT_TICKETS
from tests.conftest import ONE_LOOP
from tests.crash.killing import died, forked
from tests.local import sync_children as children
from tests.local.lock_children import voluntary_switches
from tests.shared import Shared, Wire, spare_descriptors

pytestmark = pytest.mark.anyio


async def waiting(condition: Condition, count: int) -> None:
    """Return when so many tickets wait for a notification."""
    while condition._notices.waiting != count:
        await anyio.sleep(0.001)


@pytest.mark.parametrize("kind", [Lock, RLock])
async def test_notified_in_order(anyio_backend: Any, start_method: str, kind: Any) -> None:
    """notify(n) lets the n go on that have waited longest, tasks and processes alike."""
    condition, wire = Condition(kind()), Wire()
    context = aioproc.get_context(start_method)
    async with anyio.create_task_group() as group:
        group.start_soon(children.wait_once_async, condition, wire, [0])
        await waiting(condition, 1)
        plain = context.Process(target=children.wait_once, args=(condition.sync, wire, 1))
        await plain.start()
        await waiting(condition, 2)
        tasks = context.Process(target=children.wait_once_async, args=(condition, wire, [2, 3]))
        await tasks.start()
        await waiting(condition, 4)
        for n in (1, 2):
            async with condition:
                condition.notify(n)
        assert [await wire.ahear() for _ in range(3)] == [0, 1, 2]
        async with condition:
            condition.notify_all()
            condition.notify()
    assert await wire.ahear() == 3
    await plain.result()
    await tasks.result()


async def test_a_killed_waiter_swallows_no_notification(anyio_backend: Any) -> None:
    """Killed before the notification, or after it but before it had the lock: the next one gets it."""
    condition, wire = Condition(), Wire()
    work = [Process(target=children.wait_once, args=(condition.sync, wire, number)) for number in range(5)]
    for number, process in enumerate(work):
        await process.start()
        await waiting(condition, number + 1)
    work[0].kill()
    await work[0].join()
    async with condition:
        condition.notify()
    assert await wire.ahear() == 1
    async with condition:
        condition.notify()
        work[2].kill()
        await work[2].join()
    assert await wire.ahear() == 3
    async with condition:
        condition.notify(5)
    assert await wire.ahear() == 4
    for process in work:
        await process.join()


async def test_death_with_the_lock_wakes_who_waits(anyio_backend: Any) -> None:
    """What a killed holder did not announce, those who wait look for themselves."""
    condition, wire, words = Condition(), Wire(), Wire()
    work = [Process(target=children.wait_once, args=(condition.sync, words, number)) for number in range(3)]
    for number, process in enumerate(work):
        await process.start()
        await waiting(condition, number + 1)
    holder = Process(target=children.hold_condition, args=(condition.sync, wire))
    await holder.start()
    await wire.ahear()
    holder.kill()
    assert sorted([await words.ahear() for _ in work]) == [0, 1, 2]
    for process in (holder, *work):
        await process.join()


async def test_a_death_that_others_saw_first_wakes_who_waits(anyio_backend: Any) -> None:
    """Also who can look only when somebody has had the lock since; a death before the wait wakes nobody."""
    lock, wire = Lock(), Wire()
    conditions = Condition(lock), Condition(lock)
    for _ in range(2):
        async with anyio.create_task_group() as group:
            for number, condition in enumerate(conditions):
                group.start_soon(children.wait_once_async, condition, wire, [number])
                await waiting(condition, 1)
            assert not died(forked(lock.sync.acquire))
            assert lock.sync.acquire(False)
            assert lock.abandoned
            lock.release()
            assert sorted([await wire.ahear() for _ in conditions]) == [0, 1]
        for condition in conditions:
            async with condition:
                assert not await condition.wait(timeout=0)
                condition.notify_all()  # the tickets of waits in vain leave the line


async def test_random_kills_of_consumers(anyio_backend: Any) -> None:
    """Consumers that are killed at any time do not leave an announced item lying while others wait."""
    condition, shared, dice = Condition(), Shared(16), random.Random(4)
    work = [consumer(condition, shared, number) for number in range(4)]
    for process in work:
        await process.start()
    for _ in range(40):
        number, when = dice.randrange(len(work)), dice.randrange(3)
        async with condition:
            shared[0] += dice.randrange(1, 4)
            condition.notify(shared[0])
            if when == 0:
                work[number].kill()
        if when == 1:
            work[number].kill()
        with anyio.fail_after(20):
            while True:
                async with condition:
                    if not shared[0]:
                        break
                await anyio.sleep(0.001)
        if when < 2:
            await work[number].join()
            work[number] = consumer(condition, shared, number)
            await work[number].start()
    for process in work:
        process.kill()
        await process.join()
    assert await condition.acquire(timeout=20)
    condition.release()


def consumer(condition: Condition, shared: Shared, number: int) -> Process[Any]:
    if number % 2:
        return Process(target=children.consume, args=(condition.sync, shared, number))
    return Process(target=children.consume_async, args=(condition, shared, number))


async def test_timed_out_and_cancelled_waits_hold_the_lock(anyio_backend: Any) -> None:
    """Afterwards the lock is held again, and a notification that came too late for them goes on to others."""
    condition = Condition()
    for timeout in (0, -1, 0.01):
        async with condition:
            assert not await condition.wait(timeout)
            assert condition.locked()
        with condition.sync:
            assert not condition.sync.wait(timeout)
    assert not condition.locked()
    notified: list[int] = []

    async def one(number: int, scope: anyio.CancelScope) -> None:
        with scope:
            async with condition:
                await condition.wait()
                notified.append(number)

    for turn in range(60):
        notified.clear()
        scopes = [anyio.CancelScope() for _ in range(2)]
        with anyio.fail_after(20):
            async with anyio.create_task_group() as group:
                for number, scope in enumerate(scopes):
                    group.start_soon(one, number, scope)
                    await anyio.wait_all_tasks_blocked()
                async with condition:
                    condition.notify()
                    if turn % 2:
                        scopes[0].cancel()
                for _ in range(turn % 5):
                    await anyio.lowlevel.checkpoint()
                scopes[0].cancel()
                if not notified:
                    await anyio.wait_all_tasks_blocked()
                if notified == [0]:
                    scopes[1].cancel()
        assert notified in ([0], [1])
        assert not condition.locked()


async def test_cancelled_waits_swallow_no_notification(anyio_backend: Any) -> None:
    """A crowd of tasks waits and is cancelled at any moment; each announced item is taken all the same."""
    await cancel_at_random(500)


@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_many_cancelled_waits(anyio_backend: Any) -> None:
    """The same, a hundred thousand times."""
    await cancel_at_random(100_000)


async def cancel_at_random(times: int) -> None:
    """One item at a time is announced; a task here or another process, which is never cancelled, takes it."""
    condition, shared, dice = Condition(), Shared(16), random.Random(times)
    waits: deque[anyio.CancelScope] = deque()
    cancelled = announced = taken = 0

    async def take() -> None:
        nonlocal cancelled, taken
        while cancelled < times:
            with anyio.CancelScope() as scope:
                waits.append(scope)
                async with condition:
                    await condition.wait_for(lambda: shared[0] > 0)
                    shared[0] -= 1
                    taken += 1
            cancelled += scope.cancelled_caught

    other = consumer(condition, shared, 1)
    await other.start()
    await waiting(condition, 1)
    async with anyio.create_task_group() as group:
        for _ in range(20):
            group.start_soon(take)
        while cancelled < times:
            async with condition:
                announced += 1
                shared[0] += 1
                condition.notify()
            with anyio.fail_after(20):
                while shared[0]:
                    for _ in range(dice.randrange(len(waits) + 1)):
                        waits.popleft().cancel()
                    await anyio.lowlevel.checkpoint()
        group.cancel_scope.cancel()
    async with condition:
        assert taken + shared[5] == announced
    other.kill()
    await other.join()
    assert await condition.acquire(timeout=20)
    condition.release()


async def test_more_waits_in_vain_than_fit_into_the_line(anyio_backend: Any) -> None:
    """Their tickets leave the line when it is full: no wait returns unnotified, who lives keeps his place."""
    condition, notified = Condition(), list[int]()

    async def one(number: int) -> None:
        async with condition:
            await condition.wait()
            notified.append(number)

    with anyio.fail_after(60):
        async with anyio.create_task_group() as group:
            group.start_soon(one, 1)
            await waiting(condition, 1)
            with condition.sync:
                for _ in range(700):
                    assert not condition.sync.wait(0)
            async with condition:
                condition.notify()
        async with condition:
            for _ in range(700):
                assert not await condition.wait(0.0001)
    assert notified == [1]


async def test_more_who_wait_than_fit_into_the_line(anyio_backend: Any) -> None:
    """A place that finds no room says so, in place of waking all the time."""
    condition = Condition()
    async with condition:
        place = condition._notices.places.of_thread()
        for _ in range(700):
            place.join()
        with pytest.raises(OSError, match="too many wait"):
            await condition.wait(0)
        assert condition.locked()
        place.drop()
        assert not await condition.wait(0)


@pytest.mark.parametrize("kind", [Lock, RLock])
async def test_cancelled_again_while_it_takes_the_lock_back(anyio_backend: Any, kind: Any) -> None:
    """A task that asyncio cancels twice holds the lock at the end of its wait, and releases it."""
    condition = Condition(kind())

    async def one() -> None:
        async with condition:
            await condition.wait()

    async def main() -> None:
        task = asyncio.create_task(one())
        await waiting(condition, 1)
        async with condition:
            for _ in range(3):
                task.cancel()
                await asyncio.sleep(0.02)
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await condition.acquire(timeout=5)

    await anyio.to_thread.run_sync(asyncio.run, main())


async def test_an_interrupted_waiter_swallows_no_notification(anyio_backend: Any) -> None:
    """One that SIGTERM unwinds just when lock and notification have come gives both to the next one."""
    condition, wire = Condition(), Wire()
    first, second = (Process(target=children.wait_once, args=(condition.sync, wire, n)) for n in (1, 2))
    for count, process in enumerate((first, second), 1):
        await process.start()
        await waiting(condition, count)
    async with condition:
        condition.notify()
        os.kill(first.pid or 0, signal.SIGSTOP)
    first.terminate()
    os.kill(first.pid or 0, signal.SIGCONT)
    await first.join()
    assert await wire.ahear(timeout=10) == 2
    await second.result()


async def test_no_descriptor_for_a_notification(anyio_backend: Any) -> None:
    """Who notifies with no descriptor to spare is told, and the one who waits is not left asleep."""
    condition = Condition()
    woken = list[bool]()

    def wait() -> None:
        with condition.sync:
            woken.append(condition.sync.wait(timeout=10))

    waiter = threading.Thread(target=wait)
    waiter.start()
    await waiting(condition, 1)
    with condition.sync, spare_descriptors(2), pytest.raises(OSError, match="Too many open files"):
        condition.notify()  # which takes them for the ticket
    waiter.join()
    assert woken == [True]


@pytest.mark.parametrize("kind", [Lock, RLock])
async def test_released_while_the_line_is_swept(
    anyio_backend: Any, kind: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who was notified gets the lock, also if another has his ticket in its hands just then."""
    condition, put = Condition(kind()), Ticket.put
    lock = condition._lock
    woken = list[bool]()
    gaps = 0

    async def one() -> None:
        async with condition:
            woken.append(await condition.wait(timeout=10))

    def put_late(ticket: Ticket, line: Any) -> bool:
        nonlocal gaps
        if not gaps and sweeping:
            gaps += 1
            condition.release()
        return put(ticket, line)

    sweeping = False
    monkeypatch.setattr(Ticket, "put", put_late)
    async with anyio.create_task_group() as group:
        group.start_soon(one)
        await waiting(condition, 1)
        await condition.acquire()
        condition.notify()
        sweeping = True
        for _ in range(LEFT_TICKETS):
            place = lock._tokens._places.of_thread()
            lock._tokens._places.leave(place)
    assert gaps
    assert woken == [True]


async def test_wait_for(anyio_backend: Any) -> None:
    """It returns what the predicate returned last, in time or not."""
    condition, state = Condition(), {"ready": 0}

    async def announce() -> None:
        for _ in range(3):
            async with condition:
                state["ready"] += 1
                condition.notify()

    async with anyio.create_task_group() as group:
        async with condition:
            assert not await condition.wait_for(lambda: state["ready"] == 3, timeout=0.01)
            group.start_soon(announce)
            assert await condition.wait_for(lambda: state["ready"] == 3, timeout=20)
            assert condition.sync.wait_for(lambda: True)


async def test_errors(anyio_backend: Any) -> None:
    """Without the lock nothing may be done; the exception is multiprocessing's kind and threading's."""
    for condition in (Condition(), Condition(Lock())):
        for error in (AssertionError, RuntimeError, NotOwner):
            with pytest.raises(error, match="not held"):
                condition.notify()
            with pytest.raises(error, match="not held"):
                condition.sync.notify_all()
            with pytest.raises(error, match="not held"):
                await condition.wait()
            with pytest.raises(error, match="not held"):
                condition.sync.wait()
    with pytest.raises(AssertionError):
        Condition().release()
    with pytest.raises(ValueError, match="does not hold"):
        Condition(Lock()).release()


async def test_an_rlock_is_its_tasks(anyio_backend: Any) -> None:
    """The task takes it again at will; another task or thread neither gets nor releases it."""
    lock, seen = RLock(), []

    async def another() -> None:
        seen.append(await lock.acquire(False))
        with pytest.raises(NotOwner):
            lock.release()

    def in_a_thread() -> None:
        seen.append(lock.sync.acquire(timeout=0.01))
        with pytest.raises(AssertionError):
            lock.sync.release()

    async with lock:
        assert await lock.acquire()
        with lock.sync:
            assert lock.is_mine()
        async with anyio.create_task_group() as group:
            group.start_soon(another)
        thread = threading.Thread(target=in_a_thread)
        thread.start()
        await anyio.to_thread.run_sync(thread.join)
        lock.release()
        assert lock.locked()
        assert "depth 1" in repr(lock)
    assert seen == [False, False]
    with pytest.raises(NotOwner):
        lock.release()
    assert not lock.locked()


async def test_an_rlock_in_a_forked_child(anyio_backend: Any) -> None:
    """A child that was forked while its parent had the lock has nothing."""
    lock, wire = RLock(), Wire()
    async with lock, lock:
        child = aioproc.get_context("fork").Process(target=tries, args=(lock.sync, wire))
        await child.start()
        assert await wire.ahear() == [False, "NotOwner"]
    assert await wire.ahear() is True
    await child.result()


def tries(lock: Any, wire: Wire) -> None:
    found: list[object] = [lock.acquire(False)]
    try:
        lock.release()
    except AssertionError as error:
        found.append(type(error).__name__)
    wire.say(found)
    wire.say(lock.acquire(timeout=20))
    lock.release()


def test_a_forked_child_does_not_own_what_its_parent_did() -> None:
    """Its main thread, which has the number of the parent's, does not own what a thread takes."""
    lock = RLock()
    lock.sync.acquire()
    hears, speaks = os.pipe()
    child = os.fork()
    if not child:
        os.read(hears, 1)
        lock._tokens.try_take()  # another thread, which is just about to note that it is the owner
        os._exit(lock.is_mine())
    lock.release()
    os.write(speaks, b"f")
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    os.close(hears)
    os.close(speaks)


async def test_a_forked_child_waits_where_its_parent_has(anyio_backend: Any) -> None:
    """A condition for which its parent has waited is a forked child's as well."""
    condition, wire, context = Condition(), Wire(), aioproc.get_context("fork")
    async with anyio.create_task_group() as group:
        group.start_soon(children.wait_once_async, condition, wire, [0])
        await waiting(condition, 1)
        async with condition:
            condition.notify()
    plain = context.Process(target=children.wait_once, args=(condition.sync, wire, 1))
    tasks = context.Process(target=children.wait_once_async, args=(condition, wire, [2]))
    await plain.start()
    await tasks.start()
    with anyio.move_on_after(20):
        await waiting(condition, 2)
    async with condition:
        condition.notify_all()
    await plain.result()
    await tasks.result()
    assert {await wire.ahear() for _ in range(3)} == {0, 1, 2}


async def test_a_lock_and_its_condition_travel_apart(anyio_backend: Any) -> None:
    """In a process, a lock that came twice is one lock."""
    lock, wire = RLock(), Wire()
    condition = Condition(lock)
    child = Process(target=both, args=(lock.sync, wire))
    await child.start()
    wire.say(condition.sync)
    await child.result()


def both(lock: Any, wire: Wire) -> None:
    condition = wire.hear()
    with lock:
        condition.notify()
        assert not condition.wait(0.01)


@ONE_LOOP
async def test_each_notification_wakes_one(anyio_backend: Any) -> None:
    """Among 32 processes that notify each other, shares are the same, and each sleeps about once a turn."""
    condition, shared, many = Condition(), Shared(2 + 2 * 32), 32
    work = [
        aioproc.get_context("fork").Process(
            target=children.pass_on, args=(condition.sync, shared, number, many - 1)
        )
        for number in range(many)
    ]
    for process in work:
        await process.start()
    await waiting(condition, many)
    before = sum(voluntary_switches(process.pid or 0) for process in work)
    async with condition:
        condition.notify()
    await anyio.sleep(1)
    async with condition:
        shared[0] = 1
        turns = [shared[1 + number] for number in range(many)]
        sleeps = sum(shared[1 + len(shared) // 2 + number] for number in range(many)) - before
        condition.notify_all()
    for process in work:
        await process.result()
    assert max(turns) - min(turns) <= 1, turns
    assert min(turns) > 0
    assert sleeps / sum(turns) < 1.2, (sleeps, sum(turns))


async def test_waiting_wakes_one_and_idles_otherwise(anyio_backend: Any) -> None:
    """A notification wakes the one it is for, once; who is not notified makes no system call."""
    condition, wire = Condition(), Wire()
    work = [Process(target=children.wait_once, args=(condition.sync, wire, number)) for number in range(4)]
    for number, process in enumerate(work):
        await process.start()
        await waiting(condition, number + 1)
    await anyio.sleep(0.1)
    before = [voluntary_switches(process.pid or 0) for process in work]
    async with condition:
        condition.notify()
    assert await wire.ahear() == 0
    await anyio.sleep(0.1)
    assert [voluntary_switches(process.pid or 0) for process in work[1:]] == before[1:]
    async with condition:
        condition.notify_all()
    assert [await wire.ahear() for _ in range(3)] == [1, 2, 3]
    for process in work:
        await process.result()
