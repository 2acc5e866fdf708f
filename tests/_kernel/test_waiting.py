"""Try first, then wait: in turn, cancellable, fair, and the same in a loop and in a thread."""

from __future__ import annotations

import asyncio
import gc
import math
import multiprocessing
import os
import queue
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from aioproc import Event, Queue, RLock, get_context
from aioproc._kernel.handle import Handle
from aioproc._kernel.waiting import BUDGET_OPERATIONS, asyncio_loop, in_thread, until, until_blocking

pytestmark = pytest.mark.anyio


class Counter:
    """An eventfd that hands out one unit per attempt."""

    def __init__(self, value: int = 0) -> None:
        self.handle = Handle(os.eventfd(value, os.EFD_CLOEXEC | os.EFD_NONBLOCK | os.EFD_SEMAPHORE))
        self.attempts = 0

    def take(self) -> int:
        self.attempts += 1
        return os.eventfd_read(self.handle.fileno())

    def give(self, units: int = 1) -> None:
        os.eventfd_write(self.handle.fileno(), units)


@pytest.fixture
def counter() -> Iterator[Counter]:
    made = Counter()
    yield made
    made.handle.close()


async def test_ready_needs_no_wait(counter: Counter) -> None:
    """What is ready is taken with one attempt."""
    counter.give()
    assert await until(counter.take, counter.handle) == 1
    assert counter.attempts == 1


async def test_waiters_are_served_in_order_of_arrival(counter: Counter) -> None:
    """Each unit goes to the task that has waited longest, and wakes no other."""
    served: list[int] = []

    async def one(number: int) -> None:
        await until(counter.take, counter.handle)
        served.append(number)

    async with anyio.create_task_group() as group:
        for number in range(50):
            group.start_soon(one, number)
            await anyio.wait_all_tasks_blocked()
        before = counter.attempts
        for _ in range(50):
            counter.give()
    assert served == sorted(served)
    assert counter.attempts - before <= 2 * 50
    assert not counter.handle.lines


async def test_cancelled_first_waiter_hands_over_its_turn(counter: Counter) -> None:
    """A cancelled wait takes nothing, and the next in line goes on."""
    got: list[str] = []

    async def one(name: str, scope: anyio.CancelScope) -> None:
        with scope:
            await until(counter.take, counter.handle)
            got.append(name)

    scopes = [anyio.CancelScope() for _ in range(3)]
    async with anyio.create_task_group() as group:
        for name, scope in zip("abc", scopes, strict=True):
            group.start_soon(one, name, scope)
            await anyio.wait_all_tasks_blocked()
        scopes[0].cancel()
        counter.give()
        await anyio.wait_all_tasks_blocked()
        assert got == ["b"]
        counter.give()
    assert got == ["b", "c"]


async def test_timeout_leaves_nothing_behind(counter: Counter) -> None:
    """A timed-out wait raises TimeoutError and the next unit is there for somebody else."""
    with pytest.raises(TimeoutError):
        await until(counter.take, counter.handle, timeout=0)
    with pytest.raises(TimeoutError):
        await until(counter.take, counter.handle, timeout=0.01)
    counter.give()
    assert await until(counter.take, counter.handle, timeout=0) == 1


async def test_closing_wakes_every_waiter(counter: Counter) -> None:
    """All tasks that wait for a handle learn that it was closed."""
    errors: list[ValueError] = []

    async def one() -> None:
        try:
            await until(counter.take, counter.handle)
        except ValueError as error:
            errors.append(error)

    async with anyio.create_task_group() as group:
        for _ in range(3):
            group.start_soon(one)
        await anyio.wait_all_tasks_blocked()
        counter.handle.close()
    assert len(errors) == 3


async def test_a_busy_task_yields_and_can_be_cancelled(counter: Counter) -> None:
    """Operations that never have to wait still let others run, and are cancellation points."""
    counter.give(10 * BUDGET_OPERATIONS)
    with anyio.CancelScope() as scope:
        scope.cancel()
        for _ in range(2 * BUDGET_OPERATIONS):
            await until(counter.take, counter.handle)
        pytest.fail("never yielded")
    assert scope.cancelled_caught


def test_blocking_face_waits_in_the_thread(counter: Counter) -> None:
    """The synchronous face runs the same attempt, asleep in poll(2)."""
    with pytest.raises(TimeoutError):
        until_blocking(counter.take, counter.handle, timeout=0.01)
    taken: list[int] = []
    thread = threading.Thread(
        target=lambda: taken.append(until_blocking(counter.take, counter.handle, timeout=10))
    )
    thread.start()
    counter.give()
    thread.join()
    assert taken == [1]


async def test_two_loops_wait_for_one_handle(counter: Counter) -> None:
    """A second loop, in another thread, waits for the same handle without disturbing the first."""
    got: list[int] = []

    def elsewhere() -> None:
        async def take() -> None:
            got.append(await until(counter.take, counter.handle))

        anyio.run(take)

    thread = threading.Thread(target=elsewhere)
    async with anyio.create_task_group() as group:

        async def here() -> None:
            got.append(await until(counter.take, counter.handle))

        group.start_soon(here)
        thread.start()
        counter.give()
        counter.give()
    await anyio.to_thread.run_sync(thread.join)
    assert got == [1, 1]


async def test_a_wait_that_follows_another_registers_nothing(counter: Counter) -> None:
    """The registration of a wait that succeeded serves the next one."""
    loop = asyncio_loop()
    if loop is None:
        pytest.skip("trio registers each wait itself")
    calls: list[str] = []

    class Spy:
        def __getattr__(self, name: str) -> Any:
            if name in ("add_reader", "remove_reader"):
                calls.append(name)
            return getattr(loop, name)

    async with anyio.create_task_group() as group:

        async def three() -> None:
            for _ in range(3):
                await until(counter.take, counter.handle)

        group.start_soon(three)
        await anyio.wait_all_tasks_blocked()
        (line,) = counter.handle.lines.values()
        line._loop = Spy()
        for _ in range(3):
            counter.give()
            await anyio.wait_all_tasks_blocked()
    assert calls.count("add_reader") == 0
    counter.give()  # and now nobody waits: told once, it registers no more
    while counter.handle.standing is not None and counter.handle.standing._fd >= 0:
        await anyio.lowlevel.checkpoint()
    assert calls.count("remove_reader") == 1


async def test_the_number_of_a_closed_descriptor_serves_another(counter: Counter) -> None:
    """What stayed registered is undone by closing, so the next of that number can be waited for."""
    for _ in range(3):
        one = Counter()
        number = one.handle.fileno()
        async with anyio.create_task_group() as group:
            group.start_soon(until, one.take, one.handle)
            await anyio.wait_all_tasks_blocked()
            one.give()
        one.handle.close()
        with one_at(number) as other, anyio.fail_after(10):
            async with anyio.create_task_group() as group:
                group.start_soon(until, other.take, other.handle)
                await anyio.wait_all_tasks_blocked()
                other.give()


@contextmanager
def one_at(number: int) -> Iterator[Counter]:
    """A counter whose descriptor has this number."""
    other = Counter()
    assert other.handle.fileno() == number
    try:
        yield other
    finally:
        other.handle.close()


async def test_closed_in_another_thread(counter: Counter) -> None:
    """A descriptor that a loop knows is closed by the loop, so that its number is not another's too soon."""
    if asyncio_loop() is None:
        pytest.skip("trio registers each wait itself")
    async with anyio.create_task_group() as group:
        group.start_soon(until, counter.take, counter.handle)
        await anyio.wait_all_tasks_blocked()
        counter.give()
    number = counter.handle.fileno()
    thread = threading.Thread(target=counter.handle.close)
    thread.start()
    thread.join()
    os.fstat(number)
    await anyio.lowlevel.checkpoint()
    while True:
        try:
            os.fstat(number)
        except OSError:
            break
        await anyio.lowlevel.checkpoint()


async def test_those_who_wait_hear_when_another_thread_closes_it(counter: Counter) -> None:
    """Tasks that wait for what another thread closes are told, in every loop."""
    failed = []

    async def wait() -> None:
        with pytest.raises(ValueError, match="closed"), anyio.fail_after(10):
            await until(counter.take, counter.handle)
        failed.append(True)

    async with anyio.create_task_group() as group:
        for _ in range(3):
            group.start_soon(wait)
        await anyio.wait_all_tasks_blocked()
        thread = threading.Thread(target=counter.handle.close)
        thread.start()
        thread.join()
    assert failed == [True] * 3


async def test_a_forked_child_does_not_touch_the_loop_of_its_parent(counter: Counter) -> None:
    """What its parent's loop knows is closed there without a word to that loop."""
    async with anyio.create_task_group() as group:
        group.start_soon(until, counter.take, counter.handle)
        await anyio.wait_all_tasks_blocked()
        counter.give()
    context = multiprocessing.get_context("fork")
    child = context.Process(target=counter.handle.close)
    await anyio.to_thread.run_sync(child.start)
    await anyio.to_thread.run_sync(child.join)
    assert child.exitcode == 0
    with anyio.fail_after(10):
        async with anyio.create_task_group() as group:
            group.start_soon(until, counter.take, counter.handle)
            await anyio.wait_all_tasks_blocked()
            counter.give()


def test_tasks_that_outlive_their_loop() -> None:
    """Waits whose loop was closed under them are thrown away in silence."""
    counter = Counter()
    loop = asyncio.new_event_loop()
    loop.set_exception_handler(lambda *_: None)  # asyncio says that the task was pending
    waits = [loop.create_task(until(counter.take, counter.handle)) for _ in range(3)]
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()
    del waits, counter
    with pytest.MonkeyPatch.context() as patch:
        ignored: list[Any] = []
        patch.setattr(sys, "unraisablehook", ignored.append)
        gc.collect()
    assert not ignored


async def test_a_thread_keeps_nothing_of_its_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a thread has worked on is freed with its owner, also before the thread forgets what it ran."""
    real, remembered = anyio.to_thread.run_sync, []

    async def remembering(run: Callable[[], object], **options: Any) -> None:
        remembered.append((run, await real(run, **options)))

    monkeypatch.setattr(anyio.to_thread, "run_sync", remembering)
    work = {"large"}
    alive = weakref.ref(work)
    await in_thread(partial(work.copy))
    del work
    assert remembered
    assert alive() is None


@pytest.mark.parametrize("timeout", [30 * 86400, threading.TIMEOUT_MAX, math.inf])
def test_longer_than_poll_can(timeout: float) -> None:
    """A timeout of a month, or the longest that threading knows, is waited for, as multiprocessing does."""
    event = Event()
    later = threading.Timer(0.05, event.set)
    later.start()
    assert event.sync.wait(timeout)
    later.join()


@pytest.fixture
def half_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another thread has begun to import asyncio and trio's lowlevel; in a forked child, for ever."""
    module, spec = ModuleType("asyncio"), ModuleSpec("asyncio", None)
    vars(spec)["_initializing"], module.__spec__ = True, spec
    monkeypatch.setitem(sys.modules, "asyncio", module)
    monkeypatch.delitem(sys.modules, "trio.lowlevel", raising=False)


def test_twins_while_a_loop_is_imported(half_imported: None) -> None:
    """They need nothing of a module that is half imported, and do not import it themselves."""
    with RLock().sync as taken:
        assert taken
    with pytest.raises(queue.Empty) as caught:
        Queue[int]().sync.get(timeout=0)
    assert caught.type is queue.Empty


@pytest.mark.parametrize("anyio_backend", ["trio"])
async def test_trio_while_asyncio_is_imported(monkeypatch: pytest.MonkeyPatch, counter: Counter) -> None:
    """Who waits under trio, or forks, needs nothing of asyncio."""
    monkeypatch.setitem(sys.modules, "asyncio", ModuleType("asyncio"))
    with pytest.raises(TimeoutError):
        await until(counter.take, counter.handle, timeout=0)
    assert await get_context("fork").Process(target=pow, args=(2, 3)) == 8
