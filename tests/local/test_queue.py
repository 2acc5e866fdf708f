"""Queue and its twin: every item once, in order, whoever waits, however it travels."""

from __future__ import annotations

import fcntl
import multiprocessing
import queue as stdlib
import threading
from contextlib import ExitStack
from multiprocessing import forkserver
from typing import Any

import anyio
import anyio.lowlevel
import pytest

import aioproc
from aioproc import Queue, QueueEmpty, QueueFull, QueueShutDown
from aioproc._kernel import store
from aioproc._kernel.watch import hung_up
from tests.local import queue_children as children
from tests.shared import Wire

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module", autouse=True)
def _stdlib_server() -> None:
    """The stdlib's fork server, once started, stays."""
    forkserver.ensure_running()


KINDS = [aioproc.Queue, aioproc.JoinableQueue]


@pytest.mark.parametrize("maxsize", [0, 3, -1])
@pytest.mark.parametrize("kind", KINDS)
async def test_items_come_out_in_order(kind: type[Queue[Any]], maxsize: int) -> None:
    """First in, first out; qsize, empty and full tell the truth all along."""
    queue = kind(maxsize)
    assert (queue.qsize(), queue.empty(), queue.full()) == (0, True, False)
    for number in range(3):
        await queue.put(number)
        assert queue.qsize() == number + 1
    assert (queue.empty(), queue.full()) == (False, maxsize == 3)
    assert [await queue.get() for _ in range(3)] == [0, 1, 2]
    assert (queue.qsize(), queue.empty(), queue.full()) == (0, True, False)


async def test_nothing_to_get() -> None:
    """QueueEmpty at once or in time, and it is both the stdlib's exceptions."""
    queue: Queue[int] = Queue()
    with pytest.raises(QueueEmpty) as caught:
        queue.get_nowait()
    assert isinstance(caught.value, stdlib.Empty)
    for arguments in ({"block": False}, {"timeout": 0}, {"timeout": 0.01}, {"timeout": -1}):
        with pytest.raises(QueueEmpty):
            await queue.get(**arguments)


async def test_no_place_to_put() -> None:
    """QueueFull at once or in time; nothing was put, and the twin says the same."""
    queue: Queue[int] = Queue(1)
    await queue.put(1)
    with pytest.raises(QueueFull) as caught:
        queue.put_nowait(2)
    assert isinstance(caught.value, stdlib.Full)
    for arguments in ({"block": False}, {"timeout": 0}, {"timeout": 0.01}):
        with pytest.raises(QueueFull):
            await queue.put(2, **arguments)
        with pytest.raises(stdlib.Full):
            queue.sync.put(2, **arguments)
    assert (await queue.get(), queue.qsize()) == (1, 0)


async def test_a_waiting_put_goes_on_when_there_is_a_place() -> None:
    """One item taken lets one waiting putter go on."""
    queue: Queue[int] = Queue(2)
    await queue.put_many([0, 1])
    async with anyio.create_task_group() as group:
        for number in (2, 3):
            group.start_soon(queue.put, number)
            await anyio.wait_all_tasks_blocked()
        assert queue.qsize() == 2
        assert await queue.get() == 0
        with anyio.fail_after(5):
            while not queue.full():
                await anyio.lowlevel.checkpoint()
        assert queue.qsize() == 2
        assert [await queue.get() for _ in range(3)] == [1, 2, 3]


async def test_many_at_once() -> None:
    """get_many takes what is there, at least one and at most so many."""
    queue: Queue[int] = Queue()
    await queue.put_many(range(10))
    assert await queue.get_many(4) == [0, 1, 2, 3]
    assert queue.sync.get_many(100) == [4, 5, 6, 7, 8, 9]
    queue.sync.put_many([1, 2])
    assert await queue.get_many(1) == [1]


@pytest.mark.parametrize("maxsize", [0, 100])
async def test_to_and_from_children(start_method: str, maxsize: int) -> None:
    """Plain and async children send everything back, to an async parent, by every start method."""
    context = aioproc.get_context(start_method)
    for target, twin in ((children.echo, True), (children.aecho, False)):
        there, back = Queue[Any](maxsize), Queue[Any](maxsize)
        args = (there.sync, back.sync) if twin else (there, back)
        process = context.Process(target=target, args=args)
        await process.start()
        for number in range(500):
            await there.put(number)
            assert await back.get() == number
        there.shutdown()
        await process.join()
        assert process.exitcode == 0


async def test_a_stdlib_process_takes_it(start_method: str) -> None:
    """A plain multiprocessing.Process gets a queue as any other argument."""
    queue: Queue[int] = Queue()
    context: Any = multiprocessing.get_context(start_method)
    process = context.Process(target=children.put_all, args=(queue.sync, [1, 2]))
    await anyio.to_thread.run_sync(process.start)
    assert [await queue.get(), await queue.get()] == [1, 2]
    await anyio.to_thread.run_sync(process.join)
    process.close()


async def test_shutdown_ends_getters_after_what_is_left() -> None:
    """What was put before is still handed out; then QueueShutDown, everywhere."""
    queue: Queue[int] = Queue()
    await queue.put_many([1, 2])
    queue.shutdown()
    with pytest.raises(QueueShutDown):
        await queue.put(3)
    with pytest.raises(QueueShutDown):
        queue.put_nowait(3)
    assert [item async for item in queue] == [1, 2]
    for _ in range(2):
        with pytest.raises(QueueShutDown):
            await queue.get()
        with pytest.raises(QueueShutDown):
            queue.sync.get()
    assert list(queue.sync) == []


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("maxsize", [0, 1])
async def test_shutdown_wakes_waiters_of_all_processes(kind: type[Queue[Any]], maxsize: int) -> None:
    """Those that wait to get, or to put, in this process and others, learn of it."""
    empty, full = kind(maxsize), kind(1)
    await full.put("one")
    got, put = Wire(), Wire()
    processes = [
        aioproc.Process(target=children.tell_end, args=(empty.sync, got)),
        aioproc.Process(target=children.tell_refusal, args=(full.sync, put)),
    ]
    for process in processes:
        await process.start()
    for wire in (got, put):
        assert await wire.ahear() == "waiting"

    async def here(wait: Any) -> None:
        with pytest.raises(QueueShutDown):
            await wait

    async with anyio.create_task_group() as group:
        group.start_soon(here, empty.get())
        group.start_soon(here, full.put("two"))
        await anyio.wait_all_tasks_blocked()
        empty.shutdown()
        full.shutdown()
    for wire in (got, put):
        assert "ShutDown" in await wire.ahear()
    for process in processes:
        await process.join()
    assert await full.get() == "one"


async def test_the_last_item_before_the_end_is_had(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put, and the queue shut down, while a getter looks whether that is the end: it gets the item first."""
    queue: Queue[str] = Queue(2)

    def ends(*descriptors: int) -> list[int]:
        monkeypatch.undo()
        queue.put_nowait("the last")
        queue.shutdown()
        return hung_up(*descriptors)

    monkeypatch.setattr(store, "hung_up", ends)
    assert queue.get_nowait() == "the last"
    with pytest.raises(QueueShutDown):
        queue.get_nowait()


@pytest.mark.parametrize("kind", KINDS)
async def test_many_in_a_row_and_then_none(kind: type[Queue[Any]]) -> None:
    """What went well for a while, and so is tried without a look first, fails as it would with one."""
    queue = kind(9)
    for _ in range(2):
        for number in range(9):
            queue.put_nowait(number)
        with pytest.raises(QueueFull):
            queue.put_nowait("too much")
        assert queue.qsize() == 9
        assert [queue.get_nowait() for _ in range(9)] == list(range(9))
        with pytest.raises(QueueEmpty):
            queue.get_nowait()
        assert queue.qsize() == 0
    await queue.put_many(range(8))
    queue.shutdown()
    with pytest.raises(QueueShutDown):
        await queue.put("after the end")
    assert await queue.get_many(9) == list(range(8))
    with pytest.raises(QueueShutDown):
        await queue.get()


async def test_immediate_shutdown_throws_away() -> None:
    """Nothing is left after it, and join returns."""
    for maxsize in (0, 5):
        queue: aioproc.JoinableQueue[int] = aioproc.JoinableQueue(maxsize)
        await queue.put_many([1, 2, 3])
        queue.shutdown(immediate=True)
        with pytest.raises(QueueShutDown):
            await queue.get()
        assert queue.qsize() == 0
        await queue.join()


@pytest.mark.parametrize("maxsize", [0, 5])
async def test_immediate_shutdown_throws_away_what_came_back(maxsize: int) -> None:
    """Also an item that a cancelled get gave back to this process counts as done."""
    queue: aioproc.JoinableQueue[int] = aioproc.JoinableQueue(maxsize)
    await queue.put_many([1, 2])
    queue._store.give_back(await queue.get())
    queue.shutdown(immediate=True)
    assert queue.empty()
    with anyio.fail_after(10):
        await queue.join()


@pytest.mark.parametrize("maxsize", [0, 5])
async def test_immediate_shutdown_while_counts_are_looked_through(
    maxsize: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It waits for that, and then throws away all."""
    queue: aioproc.JoinableQueue[int] = aioproc.JoinableQueue(maxsize)
    await queue.put_many([1, 2])
    other, flock = ExitStack(), fcntl.flock
    other.enter_context(queue._store.ledger.alone())

    def until_refused(fd: int, how: int) -> None:
        try:
            flock(fd, how)
        except BlockingIOError:
            other.close()
            raise

    monkeypatch.setattr(fcntl, "flock", until_refused)
    queue.shutdown(immediate=True)
    assert queue.empty()
    with anyio.fail_after(10):
        await queue.join()


async def test_unbounded_is_unbounded() -> None:
    """100,000 puts without a reader return, and all arrive."""
    queue: Queue[int] = Queue()
    for number in range(100_000):
        await queue.put(number)
    assert queue.qsize() == 100_000
    for number in range(100_000):
        assert await queue.get() == number
    assert queue.empty()


async def test_unbounded_is_not_full_while_counts_are_looked_through() -> None:
    """A put that comes while somebody makes sure that all tasks are done waits for that, on either face."""
    queue: aioproc.JoinableQueue[str] = aioproc.JoinableQueue()
    async with anyio.create_task_group() as tasks:
        with queue._store.ledger.alone():
            twins = [
                threading.Thread(target=queue.put_nowait, args=("at once",)),
                threading.Thread(target=queue.sync.put, args=("by the twin",)),
                threading.Thread(target=queue.sync.put, args=("not to wait", False)),
            ]
            for thread in twins:
                thread.start()
            tasks.start_soon(queue.put, "awaited")
            await anyio.wait_all_tasks_blocked()
            assert queue.empty()
    for thread in twins:
        thread.join()
    found = sorted([queue.get_nowait() for _ in range(4)])
    assert found == ["at once", "awaited", "by the twin", "not to wait"]


@pytest.mark.parametrize(
    ("kind", "maxsize"), [(Queue, 5), (aioproc.JoinableQueue, 5), (aioproc.JoinableQueue, 0)]
)
async def test_who_asks_how_many_there_are_keeps_nobody_out(
    kind: type[Queue[Any]], maxsize: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A look at the size while another is in the midst of a put or get locks nothing."""
    queue = kind(maxsize)
    await queue.put(1)
    ledger = queue._store.ledger
    entry = ledger.enter()
    with monkeypatch.context() as without_locks:
        without_locks.setattr(fcntl, "flock", None)
        assert (queue.qsize(), queue.full()) == (1, False)
    ledger.leave(entry)
    assert queue.qsize() == 1


async def test_flush_waits_for_a_reader() -> None:
    """flush() returns once the kernel has everything, cancelled or not."""
    queue: Queue[bytes] = Queue()
    await queue.put_many([bytes(60_000)] * 200)
    with anyio.move_on_after(0.01) as scope:
        await queue.flush()
    assert scope.cancelled_caught
    async with anyio.create_task_group() as group:
        group.start_soon(queue.flush)
        for _ in range(200):
            assert await queue.get() == bytes(60_000)


@pytest.mark.parametrize("target", [children.put_numbers, children.aput_numbers])
@pytest.mark.parametrize("maxsize", [0, 20_000])
async def test_who_ends_at_once_loses_nothing(target: Any, maxsize: int, start_method: str) -> None:
    """A producer that puts more than the kernel holds and ends: everything arrives, in order."""
    queue: Queue[Any] = Queue(maxsize)
    handed = queue if target is children.aput_numbers else queue.sync
    process = aioproc.get_context(start_method).Process(target=target, args=(handed, 10_000))
    await process.start()
    with anyio.fail_after(30):
        assert [(await queue.get())[1] for _ in range(10_000)] == list(range(10_000))
        await process.join()
    assert (process.exitcode, queue.qsize()) == (0, 0)


@pytest.mark.parametrize("target", [children.leave_behind, children.aleave_behind])
@pytest.mark.parametrize("maxsize", [0, 200])
async def test_cancel_join_thread(target: Any, maxsize: int) -> None:
    """A process ends when all that it put is written; after cancel_join_thread it ends at once."""
    for cancel in (True, False):
        queue, told = Queue[Any](maxsize), Wire()
        handed = queue if target is children.aleave_behind else queue.sync
        process = aioproc.Process(target=target, args=(handed, told, cancel))
        await process.start()
        behind = await told.ahear()
        assert behind > 10
        if cancel:
            with anyio.fail_after(20):
                await process.join()
        else:
            await process.join(timeout=0.1)
            assert process.is_alive()
        assert await queue.get() == "first"
        for _ in range(100 - behind if cancel else 100):
            assert len(await queue.get(timeout=20)) == 60_000
        assert queue.empty()
        if maxsize:
            assert queue.qsize() == 0
        await process.join()
        assert process.exitcode == 0


async def test_close() -> None:
    """A closed queue refuses everything in this process; what was put is still written."""
    queue: Queue[int] = Queue()
    await queue.put_many(range(5000))
    other = queue.sync
    copy: Queue[Queue[int]] = Queue()
    await copy.put(queue)
    arrived = await copy.get()
    with pytest.raises(AssertionError, match="close"):
        await queue.join_thread()
    queue.close()
    queue.close()
    for refused in (queue.get_nowait, queue.qsize, lambda: queue.put_nowait(1), other.get):
        with pytest.raises(ValueError, match="closed"):
            refused()
    assert [await arrived.get() for _ in range(5000)] == list(range(5000))
    await queue.join_thread()
    assert repr(queue) == "<Queue closed>"


async def test_threads_share_the_twin() -> None:
    """Ten threads put and ten get; every item arrives once."""
    twin = Queue[int]().sync
    got: list[int] = []

    def put(start: int) -> None:
        for number in range(start, start + 200):
            twin.put(number)

    def get() -> None:
        got.extend(twin.get(timeout=30) for _ in range(200))

    threads = [threading.Thread(target=put, args=(200 * n,)) for n in range(10)]
    threads += [threading.Thread(target=get) for _ in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        await anyio.to_thread.run_sync(thread.join)
    assert sorted(got) == list(range(2000))


def test_a_lean_child_imports_no_loop() -> None:
    """A plain child that uses the twin imports neither asyncio nor anyio."""
    twin = Queue[Any]().sync
    process = multiprocessing.get_context("spawn").Process(target=children.loaded, args=(twin,))
    process.start()
    process.join()
    process.close()
    assert twin.get() == []
