"""Every public name, on every loop and by its twin: what docs/reference/matrix.md says, done."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import re
import signal
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio
import psutil
import pytest
import sniffio

import aioproc
from aioproc import AsyncPool, JoinableQueue, Process, Queue
from tests.conftest import BACKENDS
from tests.local import process_targets as targets
from tests.local.test_process_programs import ended

PAGE = Path(__file__).parent.parent / "docs" / "reference" / "matrix.md"
Program = Callable[[], Awaitable[object]]
ASYNC: dict[str, Program] = {}
TWINS: dict[str, Callable[[], object]] = {}
PLAIN: dict[str, Callable[[], object]] = {}


def asynchronous(name: str) -> Callable[[Program], Program]:
    """The program that shows a name in a loop."""
    return lambda program: ASYNC.setdefault(name, program)


def twin(name: str) -> Callable[[Callable[[], object]], Callable[[], object]]:
    """The program that shows the twin of a name, where no loop runs."""
    return lambda program: TWINS.setdefault(name, program)


def plain(name: str) -> Callable[[Callable[[], object]], Callable[[], object]]:
    """The program that shows a name which waits for nothing."""
    return lambda program: PLAIN.setdefault(name, program)


# Processes


@asynchronous("Process")
async def _process() -> None:
    async with Process(target=pow, args=(2, 5)) as p:
        assert await p.result() == 32
    assert await Process(target=targets.async_add, args=(1, 2)) == 3


@asynchronous("ProcessGroup")
async def _group() -> None:
    async with aioproc.ProcessGroup() as group:
        p = await group.start(pow, 2, 5)
    assert await p.result() == 32


@asynchronous("ProcessDied")
async def _died() -> None:
    with pytest.raises(aioproc.ProcessDied) as caught:
        await Process(target=os.abort)
    assert caught.value.exitcode == -signal.SIGABRT


@asynchronous("RemoteError")
async def _remote_error() -> None:
    with pytest.raises(aioproc.RemoteError, match="Unpicklable"):
        await Process(target=targets.raise_unpicklable)


@asynchronous("RemoteTraceback")
async def _remote_traceback() -> None:
    with pytest.raises(KeyError) as caught:
        await Process(target=targets.plain_raise, args=(KeyError("x"),))
    assert isinstance(caught.value.__cause__, aioproc.RemoteTraceback)


# The pool


@asynchronous("AsyncPool")
async def _pool() -> None:
    async with AsyncPool(1) as pool:
        assert await pool.apply(pow, (2, 5)) == 32
        assert [n async for n in pool.imap(abs, [-1, -2])] == [1, 2]
        with pytest.raises(aioproc.WorkerDied):
            await pool.apply(os.abort)


ASYNC["WorkerDied"] = _pool


@asynchronous("AsyncResult")
async def _result() -> None:
    async with AsyncPool(1) as pool:
        result = pool.submit(pow, 2, 5)
        assert isinstance(result, aioproc.AsyncResult)
        assert await result == await result.get(timeout=20) == 32
        stats = pool.stats()
    assert isinstance(stats, aioproc.PoolStats)
    assert isinstance(stats.workers[0], aioproc.WorkerStats)
    assert (stats.done, stats.workers[0].done) == (1, 1)


ASYNC["PoolStats"] = ASYNC["WorkerStats"] = _result


# Queues and pipes


def _queue_of(kind: Any) -> None:
    async def use() -> None:
        queue = kind()
        async with anyio.create_task_group() as group:
            group.start_soon(queue.put, 1)
            assert await queue.get() == 1

    def use_twin() -> None:
        queue = kind().sync
        queue.put(1)
        assert queue.get() == 1

    ASYNC[kind.__name__], TWINS[kind.__name__] = use, use_twin


for each in (aioproc.Queue, aioproc.JoinableQueue, aioproc.SimpleQueue):
    _queue_of(each)


@asynchronous("QueueEmpty")
async def _empty() -> None:
    with pytest.raises(aioproc.QueueEmpty):
        await Queue().get(timeout=0.001)


@twin("QueueEmpty")
def _empty_twin() -> None:
    with pytest.raises(aioproc.QueueEmpty):
        Queue().sync.get(timeout=0.001)


@asynchronous("QueueFull")
async def _full() -> None:
    queue: Queue[int] = Queue(1)
    await queue.put(1)
    with pytest.raises(aioproc.QueueFull):
        await queue.put(2, timeout=0.001)


@twin("QueueFull")
def _full_twin() -> None:
    queue = Queue[int](1).sync
    queue.put(1)
    with pytest.raises(aioproc.QueueFull):
        queue.put(2, timeout=0.001)


@asynchronous("QueueShutDown")
async def _shut_down() -> None:
    queue: Queue[int] = Queue()
    queue.shutdown()
    with pytest.raises(aioproc.QueueShutDown):
        await queue.get()


@twin("QueueShutDown")
def _shut_down_twin() -> None:
    queue = Queue[int]().sync
    queue.shutdown()
    with pytest.raises(aioproc.QueueShutDown):
        queue.get()


@asynchronous("TasksLost")
async def _lost() -> None:
    queue: JoinableQueue[int] = JoinableQueue()
    await queue.put(1)
    await Process(target=queue.sync.get)
    with pytest.raises(aioproc.TasksLost):
        await queue.join()


@twin("TasksLost")
def _lost_twin() -> None:
    queue = JoinableQueue[int]().sync
    queue.put(1)
    child = multiprocessing.get_context("fork").Process(target=queue.get)
    child.start()
    child.join()
    child.close()
    with pytest.raises(aioproc.TasksLost):
        queue.join()


@asynchronous("Pipe")
async def _pipe() -> None:
    here, there = aioproc.Pipe()
    assert isinstance(here, aioproc.Connection)
    async with anyio.create_task_group() as group:
        group.start_soon(here.send, 1)
        assert await there.recv() == 1


@twin("Pipe")
def _pipe_twin() -> None:
    here, there = aioproc.Pipe()
    here.sync.send(1)
    assert there.sync.recv() == 1


ASYNC["Connection"], TWINS["Connection"] = _pipe, _pipe_twin


@asynchronous("wait")
async def _wait() -> None:
    here, there = aioproc.Pipe()
    await there.send(1)
    assert await aioproc.wait([here]) == [here]


@twin("wait")
def _wait_twin() -> None:
    here, there = aioproc.Pipe()
    there.sync.send(1)
    assert aioproc.wait.sync([here]) == [here]


# Synchronisation


def _lock_of(kind: Any) -> None:
    async def use() -> None:
        lock = kind()
        async with lock:
            assert lock.locked()
        assert await lock.acquire(timeout=1)
        lock.release()

    def use_twin() -> None:
        lock = kind().sync
        with lock:
            assert lock.locked()
        assert lock.acquire(timeout=1)
        lock.release()

    ASYNC[kind.__name__], TWINS[kind.__name__] = use, use_twin


for kind in (aioproc.Lock, aioproc.RLock, aioproc.Semaphore, aioproc.BoundedSemaphore):
    _lock_of(kind)


@asynchronous("Event")
async def _event() -> None:
    event = aioproc.Event()
    async with anyio.create_task_group() as group:
        group.start_soon(event.wait)
        event.set()


@twin("Event")
def _event_twin() -> None:
    event = aioproc.Event().sync
    assert not event.wait(0.001)
    event.set()
    assert event.wait()


@asynchronous("Condition")
async def _condition() -> None:
    condition = aioproc.Condition()

    async def notify() -> None:
        async with condition:
            condition.notify()

    async with condition, anyio.create_task_group() as group:
        group.start_soon(notify)
        assert await condition.wait(20)


@twin("Condition")
def _condition_twin() -> None:
    condition = aioproc.Condition().sync
    with condition:
        assert not condition.wait(0.001)


@asynchronous("NotOwner")
async def _not_owner() -> None:
    with pytest.raises(aioproc.NotOwner):
        await aioproc.Condition().wait()


@twin("NotOwner")
def _not_owner_twin() -> None:
    with pytest.raises(aioproc.NotOwner):
        aioproc.Condition().sync.wait()


@asynchronous("Barrier")
async def _barrier() -> None:
    barrier = aioproc.Barrier(2)
    async with anyio.create_task_group() as group:
        group.start_soon(barrier.wait)
        await barrier.wait()


@twin("Barrier")
def _barrier_twin() -> None:
    assert aioproc.Barrier(1).sync.wait() == 0


@asynchronous("meet")
async def _meet() -> None:
    with tempfile.TemporaryDirectory() as folder:
        async with aioproc.meet(f"{folder}/hub") as hub, hub.Lock("one"):
            pass
        _hub_ended(folder)


@twin("meet")
def _meet_sync() -> None:
    with tempfile.TemporaryDirectory() as folder:
        with aioproc.meet_sync(f"{folder}/hub") as hub, hub.Lock("one"):
            pass
        _hub_ended(folder)


TWINS["meet_sync"] = _meet_sync


def _hub_ended(folder: str) -> None:
    """Wait for the hub, which is a child of nobody here, so that the folder is empty."""
    for process in psutil.process_iter(["cmdline"]):
        if f"{folder}/hub" in (process.info["cmdline"] or ()):
            assert ended(process.pid, within=20)


# What waits for nothing


@plain("Context")
def _context() -> None:
    context = aioproc.get_context("spawn")
    assert isinstance(context, aioproc.Context)
    assert context.Queue is Queue


PLAIN["get_context"] = _context


@plain("get_start_method")
def _start_method() -> None:
    before = aioproc.get_start_method(allow_none=True)
    try:
        aioproc.set_start_method("spawn", force=True)
        assert aioproc.get_start_method() == "spawn"
    finally:
        aioproc.set_start_method(before, force=True)
    assert aioproc.get_start_method() in aioproc.get_all_start_methods()


PLAIN["set_start_method"] = PLAIN["get_all_start_methods"] = _start_method


@plain("current_process")
def _who_runs() -> None:
    assert aioproc.current_process().pid == os.getpid()
    assert aioproc.parent_process() is None
    assert aioproc.active_children() == []
    assert aioproc.cpu_count() >= 1
    aioproc.freeze_support()
    aioproc.set_forkserver_preload([])


for function in (
    "parent_process",
    "active_children",
    "cpu_count",
    "freeze_support",
    "set_forkserver_preload",
):
    PLAIN[function] = _who_runs


# The tests


@pytest.mark.anyio
async def test_in_a_loop(anyio_backend: Any) -> None:
    """Every name that has something to await does its work on each loop."""
    for program in dict.fromkeys(ASYNC.values()):
        with anyio.fail_after(30):
            await program()


def test_by_its_twin() -> None:
    """Every twin does the same where no loop runs."""
    for program in dict.fromkeys(TWINS.values()):
        program()


def test_without_a_loop() -> None:
    """What waits for nothing needs no loop."""
    for program in dict.fromkeys(PLAIN.values()):
        program()


@pytest.mark.anyio
async def test_beside_a_loop(anyio_backend: Any) -> None:
    """And it works in each."""
    test_without_a_loop()


@pytest.mark.parametrize("loop", BACKENDS)
def test_run(loop: str) -> None:
    """`run` makes each kind of loop."""
    backend, options = BACKENDS[loop]
    kwargs: Any = {"backend": backend, **options}
    assert aioproc.run(_kind_of_loop, **kwargs) == loop


async def _kind_of_loop() -> str:
    if sniffio.current_async_library() == "trio":
        return "trio"
    return type(asyncio.get_running_loop()).__module__.partition(".")[0]


def rows() -> dict[str, tuple[str, ...]]:
    """The page's table: for each name its cells."""
    found = re.findall(r"^\| \{py:obj\}`~aioproc\.(\w+)` \| (.*) \|$", PAGE.read_text(), re.MULTILINE)
    assert len(found) == len(dict(found)), "a name stands there twice"
    return {name: tuple(cell.strip() for cell in cells.split("|")) for name, cells in found}


def test_the_page() -> None:
    """The page has every public name, and says of each what is tested here."""
    table = rows()
    assert set(table) == set(aioproc.__all__)
    for name, cells in table.items():
        in_loop = name in ASYNC or name in PLAIN or name == "run"
        expected = ["yes" if name in ASYNC else "no", "yes" if name in TWINS else "no"]
        assert list(cells[:5]) == expected + ["yes" if in_loop else "no"] * 3, name
