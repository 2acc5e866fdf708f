"""Lock: one holder at a time, in order of arrival, and none lost by cancelling, killing or forking."""

from __future__ import annotations

import os
import random
import resource
import signal
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

import anyio
import pytest

import aioproc
from aioproc import JoinableQueue, Process
from aioproc._kernel import ledger, token
from aioproc._kernel.channel import Crowded, channel
from aioproc._kernel.handle import Handle
from aioproc._kernel.parcel import pack
from aioproc._kernel.place import MOST_TICKETS
from aioproc._kernel.rights import SEND_FLAGS, rights
from aioproc._kernel.ticket import TICKET, Ticket
from aioproc._kernel.token import LEFT_TICKETS
from aioproc._kernel.watch import hung_up
from aioproc.local.lock import Lock
from tests.conftest import BACKENDS, ONE_LOOP
from tests.crash.killing import died, forked, forks_after
from tests.local import lean_children
from tests.local import lock_children as children
from tests.local.lock_children import COUNT, INSIDE, TWICE
from tests.shared import Shared, Wire, become_another_user

pytestmark = pytest.mark.anyio


async def standing(lock: Lock, count: int) -> None:
    """Return when so many tickets stand in the lock's line."""
    while lock._tokens.waiting != count:
        await anyio.sleep(0.001)


def make(start_method: str, target: Callable[..., Any], *args: Any) -> Process[Any]:
    return aioproc.get_context(start_method).Process(target=target, args=args)


async def test_one_holder_at_a_time(anyio_backend: Any, start_method: str) -> None:
    """Tasks of async children and plain children never are inside together, and each gets all its turns."""
    lock, shared = Lock(), Shared()
    work = [
        make(start_method, children.count_up, lock.sync, shared, 300),
        make(start_method, children.count_up, lock.sync, shared, 300),
        make(start_method, children.count_up_async, lock, shared, 100, 3),
    ]
    for process in work:
        await process.start()
    await children.count_up_async(lock, shared, 100, 3)
    for process in work:
        await process.result()
    assert (shared[COUNT], shared[TWICE]) == (1200, 0)
    assert not lock.locked()


async def test_a_killed_holder_releases(anyio_backend: Any, start_method: str) -> None:
    """The next owner gets the lock of a killed one at once, and it alone sees that it was abandoned."""
    lock, wire = Lock(), Wire()
    for target, handed in ((children.hold_for_ever, lock.sync), (children.hold_for_ever_async, lock)):
        async with make(start_method, target, handed, wire) as holder:
            assert await wire.ahear() is False
            assert not await lock.acquire(timeout=0.01)
            async with anyio.create_task_group() as group:
                group.start_soon(partial(lock.acquire, timeout=30))
                await standing(lock, 2)  # the timed-out one's ticket is the other
                holder.kill()
            assert lock.abandoned
            lock.release()
        async with lock:
            assert not lock.abandoned


async def test_a_killed_holder_is_noticed_without_waiting(anyio_backend: Any) -> None:
    """Also `acquire(False)` and `locked` see that the holder has died."""
    lock, wire = Lock(), Wire()
    for twin in (False, True):
        async with Process(target=children.hold_for_ever, args=(lock.sync, wire)) as holder:
            await wire.ahear()
            assert lock.locked()
            assert not await lock.acquire(False)
            holder.kill()
        assert not lock.locked()
        assert lock.sync.acquire(False) if twin else await lock.acquire(False)
        assert lock.abandoned
        lock.release()


async def test_exactly_one_sees_it(anyio_backend: Any) -> None:
    """Of several processes that wait for a killed holder's lock, one finds it abandoned."""
    lock, wire, told, back = Lock(), Wire(), Wire(), Wire()
    async with Process(target=children.hold_for_ever, args=(lock.sync, wire)) as holder:
        await wire.ahear()
        waiting = [Process(target=children.hold, args=(lock.sync, told, back)) for _ in range(3)]
        waiting += [Process(target=children.hold_async, args=(lock, told, back)) for _ in range(2)]
        for process in waiting:
            await process.start()
        await standing(lock, 5)
        holder.kill()
        seen = []
        for _ in waiting:
            seen.append(await told.ahear())
            back.say()
        for process in waiting:
            await process.result()
    assert seen == [True, False, False, False, False]


async def test_a_killed_waiter_disturbs_nobody(anyio_backend: Any) -> None:
    """Its place in the line is passed over."""
    lock, wire = Lock(), Wire()
    async with lock:
        waiting = [Process(target=children.queue_up, args=(lock.sync, wire, n)) for n in range(3)]
        for number, process in enumerate(waiting):
            await process.start()
            await standing(lock, number + 1)
        waiting[0].kill()
        waiting[1].kill()
        await waiting[0].join()
        await waiting[1].join()
    assert await wire.ahear() == 2
    await waiting[2].result()
    async with lock:
        assert not lock.abandoned


async def test_first_come_first_served(anyio_backend: Any) -> None:
    """Tasks of this process and of others, and other processes, get the lock in order of arrival."""
    lock, wire = Lock(), Wire()
    async with anyio.create_task_group() as group:
        async with lock:
            group.start_soon(children.queue_up_async, lock, wire, [0, 1])
            await standing(lock, 2)
            plain = Process(target=children.queue_up, args=(lock.sync, wire, 2))
            await plain.start()
            await standing(lock, 3)
            tasks = Process(target=children.queue_up_async, args=(lock, wire, [3, 4, 5]))
            await tasks.start()
            await standing(lock, 6)
            group.start_soon(children.queue_up_async, lock, wire, [6])
            await standing(lock, 7)
    assert [await wire.ahear() for _ in range(7)] == list(range(7))
    await plain.result()
    await tasks.result()


async def test_many_tasks_have_few_tickets(anyio_backend: Any) -> None:
    """The descriptors that lie in the line are the user's, who may have few; all tasks have their turn."""
    lock, turns = Lock(), list[int]()

    async def turn(number: int) -> None:
        async with lock:
            turns.append(number)

    await lock.acquire()
    async with anyio.create_task_group() as group:
        for number in range(100):
            group.start_soon(turn, number)
        await anyio.wait_all_tasks_blocked()
        assert lock._tokens.waiting == MOST_TICKETS
        lock.release()
    assert sorted(turns) == list(range(100))


@pytest.mark.skipif(os.geteuid() != 0, reason="the limit is not for root, and only root can become another")
@pytest.mark.parametrize("loop", BACKENDS)
def test_of_a_user_with_few_descriptors(loop: str) -> None:
    """More tasks may wait for a lock than descriptors may be in flight; too many locks are an OSError."""

    async def main() -> None:
        lock = Lock()
        await lock.acquire()
        assert not await lock.acquire(timeout=0.001)  # all that is imported late is there
        become_another_user()
        resource.setrlimit(resource.RLIMIT_NOFILE, (128, 128))
        lock, turns = Lock(), 0

        async def turn() -> None:
            nonlocal turns
            async with lock:
                turns += 1

        await lock.acquire()
        async with anyio.create_task_group() as group:
            for _ in range(300):
                group.start_soon(turn)
            await anyio.wait_all_tasks_blocked()
            lock.release()
        assert turns == 300
        left, _right = channel()
        with suppress(Crowded):
            while True:
                left.send(pack([Handle(os.dup(0)) for _ in range(16)]))
        with pytest.raises(OSError, match=r"in flight \(ulimit -n\)"):
            Lock()

    def in_loop() -> None:
        backend, options = BACKENDS[loop]
        anyio.run(main, backend=backend, backend_options=options)

    assert not died(forked(in_loop))


async def test_a_cancelled_wait_takes_nothing_and_loses_nothing(anyio_backend: Any) -> None:
    """Waits cancelled at any moment leave the lock to others, in this process and in another."""
    await cancel_at_random(Lock(), 1500)


@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_many_cancelled_waits(anyio_backend: Any) -> None:
    """The same, a hundred thousand times."""
    await cancel_at_random(Lock(), 100_000)


async def cancel_at_random(lock: Any, times: int) -> None:
    """Of a lock, or a semaphore of one, while another process takes it as well."""
    shared, dice = Shared(), random.Random(times)
    done = anyio.Event()
    cancelled = 0

    async def give_up() -> None:
        nonlocal cancelled
        with anyio.CancelScope() as scope:
            wait = dice.choice((0, 0, 1, 2, 5))
            group.start_soon(later, scope, wait)
            async with lock:
                children.enter(shared, children.abandoned(lock))
                children.leave(shared)
                return
        cancelled += 1

    async def later(scope: anyio.CancelScope, turns: int) -> None:
        for _ in range(turns):
            await anyio.lowlevel.checkpoint()
        scope.cancel()

    async def share() -> None:
        while not done.is_set():
            async with lock:
                children.enter(shared, children.abandoned(lock))
                await anyio.lowlevel.checkpoint()
                children.leave(shared)

    other = Process(target=children.count_up_async, args=(lock, shared, times // 10 + 1, 2))
    await other.start()
    async with anyio.create_task_group() as group:
        group.start_soon(share)
        while cancelled < times:
            async with anyio.create_task_group() as some:
                for _ in range(50):
                    some.start_soon(give_up)
        done.set()
    await other.result()
    assert shared[TWICE] == 0
    assert not lock.locked()
    assert not (getattr(lock, "_tokens", None) or lock._line).held
    with anyio.fail_after(5):
        async with lock:
            assert not children.abandoned(lock)


async def test_timed_out_waits(anyio_backend: Any) -> None:
    """A wait that timed out returns False, takes nothing, and the lock goes to who still waits."""
    lock = Lock()
    async with lock:
        for timeout in (0, 0.001, -1):
            assert await lock.acquire(timeout=timeout) is False
            assert lock.sync.acquire(timeout=timeout) is False
        assert await lock.acquire(False) is False
        assert lock.sync.acquire(False, -5) is False
    assert await lock.acquire(timeout=0) is True
    lock.release()
    assert lock.sync.acquire(timeout=5) is True
    lock.release()


async def test_left_tickets_do_not_fill_the_line(anyio_backend: Any) -> None:
    """However many waits time out while the lock is held, the next one can still wait."""
    lock, wire = Lock(), Wire()
    async with lock:
        for _ in range(500):
            assert not lock.sync.acquire(timeout=0.0001)
        assert lock._tokens.waiting < 100
        waiter = Process(target=children.queue_up, args=(lock.sync, wire, 1))
        await waiter.start()
        while not lock._tokens.waiting:
            await anyio.sleep(0.001)
    assert await wire.ahear() == 1
    await waiter.result()


async def test_line_that_others_fill_while_it_is_swept(
    anyio_backend: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A wait that ran out of time says so, also if there is no room for a ticket that it had in its hands."""
    lock, put = Lock(), Ticket.put

    def put_late(ticket: Ticket, line: Any) -> bool:
        try:
            while True:
                line.sendmsg([TICKET], rights(*ticket._descriptors), SEND_FLAGS)
        except BlockingIOError:
            return put(ticket, line)

    monkeypatch.setattr(Ticket, "put", put_late)
    await lock.acquire()
    async with anyio.create_task_group() as group:
        group.start_soon(lock.acquire)
        await standing(lock, 1)
        for _ in range(LEFT_TICKETS):
            assert not await lock.acquire(timeout=0)
            assert not lock.sync.acquire(timeout=0.0001)
        lock.release()
    lock.release()


async def test_released_by_another_task_or_thread(anyio_backend: Any) -> None:
    """Any task or thread of the holder's process may release it."""
    lock = Lock()
    async with anyio.create_task_group() as group:
        group.start_soon(lock.acquire)
    lock.release()
    thread = threading.Thread(target=lock.sync.acquire)
    thread.start()
    await anyio.to_thread.run_sync(thread.join)
    lock.release()


async def test_released_by_who_does_not_hold_it(anyio_backend: Any, start_method: str) -> None:
    """Releasing a free lock, or another process's, is a ValueError."""
    lock = Lock()
    with pytest.raises(ValueError, match="does not hold"):
        lock.release()
    with pytest.raises(ValueError, match="does not hold"):
        lock.sync.release()
    async with lock, make(start_method, children.release_only, lock.sync) as other:
        await other.join()
        assert other.exitcode == 0


async def test_loops_in_threads(anyio_backend: Any) -> None:
    """Several loops, in several threads, and blocking threads of one process keep to one holder at a time."""
    lock, shared = Lock(), Shared()
    backend, options = anyio_backend

    def in_a_loop() -> None:
        anyio.run(children.count_up_async, lock, shared, 50, 3, backend=backend, backend_options=options)

    threads = [threading.Thread(target=in_a_loop) for _ in range(3)]
    threads += [threading.Thread(target=children.count_up, args=(lock.sync, shared, 150)) for _ in range(3)]
    for thread in threads:
        thread.start()
    await children.count_up_async(lock, shared, 50, 3)
    for thread in threads:
        await anyio.to_thread.run_sync(thread.join)
    assert (shared[COUNT], shared[TWICE]) == (1050, 0)


async def test_fork_while_held(anyio_backend: Any) -> None:
    """A forked child holds nothing of its parent's: it cannot release the lock, nor keep it held."""
    lock, wire = Lock(), Wire()
    async with lock:
        child = make("fork", children.hold_for_ever, lock.sync, wire)
        await child.start()
        bystander = make("fork", children.release_only, lock.sync)
        await bystander.start()
        await bystander.join()
        assert bystander.exitcode == 0
        await standing(lock, 1)
    assert await wire.ahear() is False
    assert lock.locked()
    child.kill()
    async with lock:
        assert lock.abandoned
    await child.join()


async def test_fork_by_a_holder_that_dies(anyio_backend: Any) -> None:
    """A killed holder's forked child, who lives on, does not keep the lock from the next one."""
    lock, wire, back = Lock(), Wire(), Wire()
    holder = Process(target=fork_and_hold, args=(lock.sync, wire, back))
    await holder.start()
    child = await wire.ahear()
    with anyio.fail_after(10):
        async with lock:
            assert lock.abandoned
            os.kill(child, 0)  # still there
    back.say()
    await holder.join()


def fork_and_hold(lock: Any, wire: Wire, back: Wire) -> None:
    lock.acquire()
    child = os.fork()
    if child == 0:
        back.hear()
        os._exit(0)
    wire.say(child)
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_fork_while_a_lock_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """A child that another thread forks while this one makes a lock does not keep it when its holder dies."""
    with forks_after(monkeypatch, token, "reopening_pipe") as forked_meanwhile:
        lock = Lock()
        forked_meanwhile()
        assert not died(forked(lock.sync.acquire))
        assert lock.sync.acquire(timeout=5)
        assert lock.abandoned


def test_a_fork_while_a_queue_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor does such a child keep a queue from learning that a task, or an entry, has ended."""
    with forks_after(monkeypatch, ledger, "reopening_pipe") as forked_meanwhile:
        store = JoinableQueue[int]()._store
        forked_meanwhile()
        assert store.tasks is not None
        assert len(hung_up(store.tasks.work.fileno(), store.ledger.gate.fileno())) == 2


async def test_a_twin_travels_by_itself(anyio_backend: Any) -> None:
    """A lean child that got only the twin imports no event loop."""
    lock, wire = Lock(), Wire()
    async with aioproc.get_context("spawn").Process(
        target=lean_children.imports_after_use, args=(lock.sync, wire)
    ):
        assert await wire.ahear() == []
    assert lock.sync.aio is lock


async def test_idle_waiting_makes_no_system_call(anyio_backend: Any) -> None:
    """A process that waits sleeps: it is not woken until the lock is its own."""
    lock, wire = Lock(), Wire()
    async with lock:
        waiter = Process(target=children.queue_up, args=(lock.sync, wire, 1))
        await waiter.start()
        await standing(lock, 1)
        await anyio.sleep(0.05)
        assert waiter.pid
        before = children.voluntary_switches(waiter.pid)
        await anyio.sleep(0.3)
        assert children.voluntary_switches(waiter.pid) == before
    assert await wire.ahear() == 1
    await waiter.result()


@ONE_LOOP
async def test_each_hand_over_wakes_one(anyio_backend: Any) -> None:
    """Among 32 processes that all want it, shares are the same, and each sleeps about once a turn."""
    lock = Lock()
    turns, sleeps = await competed(lock, 31)
    assert max(turns) - min(turns) <= 1, turns
    assert sleeps / sum(turns) < 1.2, (sleeps, sum(turns))


async def competed(kind: Any, others: int, seconds: float = 1.0) -> tuple[list[int], int]:
    """32 processes take turns: how many each had, and how often they slept in all."""
    shared = Shared(2 + 2 * 32)
    work = [make("fork", children.compete, kind.sync, shared, number, others) for number in range(32)]
    for process in work:
        await process.start()
    try:
        while not all(shared[1 + number] for number in range(32)):
            await anyio.sleep(0.01)
        await anyio.sleep(seconds)
    finally:
        shared[0] = 1
    for process in work:
        await process.result()
    half = 1 + len(shared) // 2
    return list(map(shared.__getitem__, range(1, 33))), sum(map(shared.__getitem__, range(half, half + 32)))


async def test_repr_shows_the_state(anyio_backend: Any) -> None:
    """The state is in the repr, of both faces."""
    lock = Lock()
    assert repr(lock) == "<Lock free>"
    async with lock:
        assert repr(lock.sync) == "<SyncLock held here>"
    assert Shared()[INSIDE] == 0
