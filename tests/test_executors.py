"""AsyncPool over executors, each against the real thing."""

from __future__ import annotations

import concurrent.futures
import multiprocessing
import os
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from aioproc import AsyncPool, AsyncResult, Queue, RemoteError, RemoteTraceback, WorkerDied
from aioproc._kernel import stuck, there
from tests import tasks

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.leaks_allowed,
]  # executors keep threads and semaphores of their own


def processes() -> ProcessPoolExecutor:
    """A process pool of the stdlib's."""
    return ProcessPoolExecutor(2, multiprocessing.get_context("forkserver"))


def threads() -> ThreadPoolExecutor:
    """A thread pool."""
    return ThreadPoolExecutor(2)


def loky_pool() -> Executor:
    """loky's process pool."""
    import loky

    made: Executor = loky.ProcessPoolExecutor(2)
    return made


def interpreters(**kwargs: Any) -> Executor:
    """A pool of subinterpreters."""
    kind: Any = getattr(concurrent.futures, "InterpreterPoolExecutor", None)
    made: Executor = kind(2, **kwargs)
    return made


FACTORIES = {"processes": processes, "threads": threads, "loky": loky_pool, "interpreters": interpreters}


def _need(name: str) -> None:
    if name == "loky":
        pytest.importorskip("loky", reason="loky is not installed")
    if name == "interpreters" and sys.version_info < (3, 14):
        pytest.skip("InterpreterPoolExecutor came with Python 3.14")


@pytest.fixture(params=list(FACTORIES))
def make(request: pytest.FixtureRequest) -> Callable[[], Executor]:
    """A function that makes an executor."""
    _need(request.param)
    return FACTORIES[request.param]


@pytest.fixture
def executor(make: Callable[[], Executor]) -> Iterator[Executor]:
    """An executor that somebody else made and shuts down."""
    made = make()
    yield made
    made.shutdown()


async def _everything(pool: AsyncPool) -> None:
    assert await pool.apply(tasks.add, (1,), {"b": 2}) == 3
    assert await pool.apply(tasks.square_later, (3,)) == 9
    assert await pool.map(tasks.square, range(20)) == [n * n for n in range(20)]
    assert await pool.starmap(tasks.add, [(1, 2), (3, 4)], 1) == [3, 7]
    assert [r async for r in pool.imap(tasks.square, range(5))] == [0, 1, 4, 9, 16]
    assert sorted([r async for r in pool.imap_unordered(tasks.square, range(5))]) == [0, 1, 4, 9, 16]
    heard: list[int] = []
    result = pool.apply_async(tasks.square, (5,), callback=heard.append)
    assert await result == 25
    assert heard == [25]
    assert (result.pid is not None, result.started, result.elapsed is not None) == (True, True, True)
    with pytest.raises(LookupError, match="so it is") as caught:
        await pool.apply(tasks.fail, ("so it is",))
    assert isinstance(caught.value.__cause__, RemoteTraceback)
    assert "in fail" in str(caught.value.__cause__)
    assert pool.stats().done > 10


async def test_an_instance(executor: Executor) -> None:
    """Everything works over an executor; it stays its owner's."""
    async with AsyncPool(executor=executor) as pool:
        await _everything(pool)
    assert executor.submit(tasks.square, 2).result() == 4


async def test_a_factory(make: Callable[[], Executor]) -> None:
    """Everything works over an executor that the pool makes, and shuts down."""
    made: list[Executor] = []

    def once() -> Executor:
        made.append(make())
        return made[0]

    async with AsyncPool(executor=once) as pool:
        await _everything(pool)
    with pytest.raises(RuntimeError):
        made[0].submit(tasks.square, 2)


async def test_a_factory_of_something_else() -> None:
    """Each call says what was made instead."""
    wrong: Any = object
    async with AsyncPool(executor=wrong) as pool:
        with pytest.raises(TypeError, match="object was to make an Executor, not <object"):
            await pool.apply(tasks.square, (1,))


async def test_a_shutdown_that_raises(caplog: pytest.LogCaptureFixture) -> None:
    """It is told to the log: nobody awaits it, and the loop goes on."""

    class Odd(ThreadPoolExecutor):
        def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
            super().shutdown(wait, cancel_futures=cancel_futures)
            raise LookupError("in shutdown")

    async with AsyncPool(executor=Odd) as pool:
        assert await pool.apply(tasks.square, (2,)) == 4
    assert "could not shut down Odd" in caplog.text
    assert "in shutdown" in caplog.text


async def test_what_an_executor_cannot_do(executor: Executor, tmp_path: Path) -> None:
    """It is refused at the call, naming the executor."""
    name = type(executor).__name__
    async with AsyncPool(executor=executor) as pool:
        for options in ({"timeout": 1.0}, {"grace": 1.0}, {"retries": 1}):
            with pytest.raises(NotImplementedError, match=name):
                pool.options(**options).submit(tasks.square, 1)
        with pytest.raises(NotImplementedError, match=name):
            pool.stream(tasks.count_to, 3)
        started = tmp_path / "started"
        running = pool.submit(tasks.announce_and_wait, str(started), str(tmp_path / "mark"), 0.5)
        with anyio.fail_after(10):
            while not started.exists():
                await anyio.sleep(0.01)
        with pytest.raises(NotImplementedError, match=name):
            running.cancel()
        await running
        assert running.successful()


async def test_queued_call_is_never_started(executor: Executor, tmp_path: Path) -> None:
    """A call that waits can be cancelled, and is not run."""
    async with AsyncPool(executor=executor) as pool:
        for _ in range(2):
            pool.submit(tasks.sleep, 0.3)
        waiting = pool.submit(tasks.touch, str(tmp_path / "mark"))
        assert waiting.cancel()
        with anyio.move_on_after(0.05):
            await pool.apply(tasks.touch, (str(tmp_path / "mark"),))
    assert not (tmp_path / "mark").exists()


async def test_arguments_of_our_own_workers_are_refused() -> None:
    """What belongs to our own workers is not silently ignored."""
    given: dict[str, Any] = {"processes": 2, "initializer": print, "initargs": (1,), "maxtasksperchild": 1}
    given |= {"tasks_per_worker": 2, "context": multiprocessing.get_context("spawn")}
    for name, value in given.items():
        with pytest.raises(ValueError, match=f"{name} belongs to our own workers"):
            AsyncPool(executor=threads, **{name: value})


async def test_a_death_breaks_an_instance() -> None:
    """One death breaks a ProcessPoolExecutor whole: each call says so, and none hangs."""
    with processes() as executor:
        async with AsyncPool(executor=executor) as pool:
            with anyio.fail_after(20):
                with pytest.raises(WorkerDied) as caught:
                    await pool.apply(tasks.die)
                assert isinstance(caught.value.__cause__, concurrent.futures.BrokenExecutor)
                with pytest.raises(WorkerDied):
                    await pool.apply(tasks.square, (1,))


async def test_broken_before_the_first_call() -> None:
    """An instance raises WorkerDied, as one that breaks later; of a factory there is another."""

    kept: list[Executor] = []  # the stdlib's cannot be collected just anywhere

    def broken() -> ProcessPoolExecutor:
        executor = processes()
        kept.append(executor)
        with pytest.raises(concurrent.futures.BrokenExecutor):
            executor.submit(os._exit, 1).result()
        return executor

    async with AsyncPool(executor=await anyio.to_thread.run_sync(broken)) as pool:
        for _ in range(2):
            with pytest.raises(WorkerDied):
                await pool.apply(abs, (-1,))
    makers = iter((broken, processes))
    async with AsyncPool(executor=lambda: next(makers)()) as pool:
        assert await pool.options(retries=1).apply(abs, (-1,)) == 1
    for executor in kept:
        executor.shutdown()


@pytest.mark.parametrize("chunksize", [1, 2])
async def test_a_plain_function_that_returns_a_coroutine(executor: Executor, chunksize: int) -> None:
    """It is awaited there, alone and in a chunk."""
    async with AsyncPool(executor=executor) as pool:
        assert await pool.map(tasks.begin_to_square, [1, 2, 3], chunksize) == [1, 4, 9]


async def test_room_in_an_executor_that_turns_out_larger() -> None:
    """Who waits for room before it is made goes on when it has more workers than there are CPUs."""
    release, made = threading.Event(), threading.Event()
    count = 2 * (os.cpu_count() or 1)

    def make() -> ThreadPoolExecutor:
        made.wait(30)
        return ThreadPoolExecutor(count)

    async with AsyncPool(executor=make, max_pending=0) as pool, anyio.create_task_group() as group:
        for _ in range(count - 1):
            group.start_soon(pool.apply, release.wait, (30,))
        await anyio.lowlevel.checkpoint()
        with anyio.fail_after(20):
            async with anyio.create_task_group() as last:
                last.start_soon(pool.apply, abs, (-1,))
                await anyio.lowlevel.checkpoint()
                made.set()
        release.set()


async def test_what_would_end_the_program() -> None:
    """What opens as a KeyboardInterrupt, or is one, raised by pickling a result, comes as its text."""
    executor = processes()
    async with AsyncPool(executor=executor) as pool:
        with pytest.raises(RemoteError, match="OpensAsSomethingElse: odd"):
            await pool.apply(tasks.raise_what_opens_as_something_else)
        with pytest.raises(RemoteError, match="KeyboardInterrupt: while it is pickled"):
            await pool.apply(tasks.return_what_interrupts)
    await anyio.to_thread.run_sync(executor.shutdown)


async def test_many_calls_wait_for_an_instance_that_breaks() -> None:
    """Each of them fails, however many there are."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("forkserver")) as executor:
        async with AsyncPool(executor=executor) as pool:
            results: list[AsyncResult[object]] = [pool.submit(tasks.die)]
            results += [pool.submit(tasks.square, number) for number in range(sys.getrecursionlimit())]
            with anyio.fail_after(20):
                for result in results:
                    with pytest.raises(WorkerDied):
                        await result


async def test_exception_that_is_frozen(executor: Executor) -> None:
    """It comes with its traceback as any other, although nothing can be assigned to it."""
    async with AsyncPool(executor=executor) as pool:
        with anyio.fail_after(20), pytest.raises(tasks.FrozenError) as caught:
            await pool.submit(tasks.fail_frozen).get()
        assert "fail_frozen" in str(caught.value.__cause__)


async def test_each_call_of_a_factory_that_fails_raises_its_own() -> None:
    """One exception for all would grow a traceback, and keep the frames, of every call."""

    def make() -> Executor:
        raise LookupError("no executor")

    async with AsyncPool(executor=make) as pool:
        failures = []
        for _ in range(3):
            with pytest.raises(LookupError, match="no executor") as caught:
                await pool.apply(tasks.square, (1,))
            failures.append(caught.value)
    assert len({id(failure) for failure in failures}) == 3
    assert all(traceback.extract_tb(failure.__traceback__)[-1].name == "make" for failure in failures)
    assert len({len(traceback.extract_tb(failure.__traceback__)) for failure in failures[1:]}) == 1


@pytest.mark.parametrize("name", ["processes", "loky"])
async def test_a_factory_recovers(name: str, tmp_path: Path) -> None:
    """After a death the pool has a new executor; what waited here is not lost, and retries run again."""
    _need(name)
    async with AsyncPool(executor=FACTORIES[name]) as pool:
        with anyio.fail_after(40):
            with pytest.raises(WorkerDied):
                await pool.apply(tasks.die)
            assert await pool.apply(tasks.square, (3,)) == 9
            mark = str(tmp_path / "mark")
            assert await pool.options(retries=1).apply(tasks.die_the_first_time, (mark,)) == "done"
        assert pool.stats().restarts >= 2


@pytest.mark.parametrize("name", ["processes", "loky"])
async def test_a_death_half_way_through_a_result(name: str) -> None:
    """An executor waits for the rest for ever: its pool breaks it, what ran fails, a new one takes over."""
    _need(name)
    async with AsyncPool(executor=FACTORIES[name]) as pool:
        with anyio.fail_after(20):
            with pytest.raises(WorkerDied):
                await pool.apply(tasks.die_inside_a_result)
            assert await pool.apply(tasks.square, (3,)) == 9
        assert pool.stats().restarts == 1


async def test_a_death_half_way_through_a_result_breaks_an_instance() -> None:
    """What runs and what comes later fails, and its owner can shut it down."""
    executor = processes()
    async with AsyncPool(executor=executor) as pool:
        with anyio.fail_after(20):
            beside, torn, later = (
                pool.submit(tasks.sleep, 60),
                pool.submit(tasks.die_inside_a_result),
                pool.submit(tasks.square, 1),
            )
            for result in (beside, torn, later):
                with pytest.raises(WorkerDied):
                    await result
    await anyio.to_thread.run_sync(executor.shutdown)


async def test_the_pools_end_waits_for_what_looks_after_its_executor(monkeypatch: pytest.MonkeyPatch) -> None:
    """No thread of the pool's is at work on an executor when its owner has it back."""
    looked_after = threading.Event()

    def break_slowly(dead: int, executor: Any) -> None:
        break_if_stuck(dead, executor)
        time.sleep(0.3)
        looked_after.set()

    break_if_stuck = stuck._break_if_stuck
    monkeypatch.setattr(stuck, "_break_if_stuck", break_slowly)
    executor = processes()
    async with AsyncPool(executor=executor) as pool:
        with pytest.raises(WorkerDied):
            await pool.submit(tasks.die_inside_a_result)
    assert looked_after.is_set()
    await anyio.to_thread.run_sync(executor.shutdown)


async def test_a_worker_killed_while_it_was_never_watched() -> None:
    """All workers are started before use, so the death of any one is noticed while others are busy."""
    with processes() as executor:
        async with AsyncPool(executor=executor) as pool:
            busy = pool.submit(tasks.sleep, 8.0)
            with anyio.fail_after(6):
                with pytest.raises(WorkerDied):
                    await pool.apply(tasks.die)
                with pytest.raises(WorkerDied):
                    await busy


async def test_coroutines_run_in_threads() -> None:
    """An async def runs in a loop of its own in the thread."""
    async with AsyncPool(executor=threads) as pool:
        assert await pool.map(tasks.square_later, range(6)) == [n * n for n in range(6)]
        assert await pool.apply(threading.get_ident) != threading.get_ident()
        assert await pool.apply(tasks.pid_of) == os.getpid()


def test_a_worker_without_uvloop(monkeypatch: pytest.MonkeyPatch) -> None:
    """An async def runs in asyncio's own loop where uvloop is not installed, or does not load."""
    monkeypatch.setitem(sys.modules, "uvloop", None)
    monkeypatch.setattr(there, "_uvloop_loads", there._uvloop_loads.__wrapped__)
    answer = there.call_there(tasks.kind_of_loop, (), {}, ("asyncio", {"use_uvloop": True}))
    assert answer[2:] == (True, "asyncio.unix_events", "")


async def test_each_interpreter_has_its_own_modules() -> None:
    """Calls run in this process, beside its modules: plain ones, and an async def in a loop of its own."""
    _need("interpreters")
    async with AsyncPool(executor=interpreters) as pool:
        for number, pid in (
            await pool.apply(tasks.interpreter),
            await pool.apply(tasks.interpreter_of_a_task),
        ):
            assert (number > 0, pid) == (True, os.getpid())
        assert tasks.interpreter()[0] == 0


async def test_initializer_of_an_interpreter() -> None:
    """It is the executor's affair; one that fails breaks the executor; the pool makes one new."""
    _need("interpreters")
    async with AsyncPool(executor=lambda: interpreters(initializer=tasks.remember, initargs=(7,))) as pool:
        assert await pool.map(tasks.remembered, range(4)) == [7] * 4
    async with AsyncPool(executor=lambda: interpreters(initializer=tasks.fail, initargs=("no",))) as pool:
        with anyio.fail_after(20):
            for count in (1, 2):
                with pytest.raises(WorkerDied, match="InterpreterPoolExecutor died") as caught:
                    await pool.apply(tasks.square, (1,))
                assert isinstance(caught.value.__cause__, concurrent.futures.BrokenExecutor)
                assert pool.stats().restarts == count


async def test_what_does_not_travel_to_an_interpreter() -> None:
    """What cannot be pickled is refused, so are objects of aioproc; the pool works on."""
    _need("interpreters")
    factor = 3
    async with AsyncPool(executor=interpreters) as pool:
        for function, argument in ((lambda n: n * factor, 1), (tasks.pid_of, Queue[int]())):
            with pytest.raises(TypeError, match="does not support cross-interpreter data"):
                await pool.apply(function, (argument,))
        with pytest.raises(TypeError, match="does not support cross-interpreter data"):
            await pool.apply(threading.Lock)
        assert await pool.apply(tasks.square, (3,)) == 9


async def test_a_cancelled_wait_for_an_interpreter(tmp_path: Path) -> None:
    """The wait ends, the call goes on unheard; the other interpreter takes what comes."""
    _need("interpreters")
    (started, going_on), (waiting, let_go) = os.pipe(), os.pipe()
    mark = tmp_path / "mark"
    async with AsyncPool(executor=interpreters) as pool:
        async with anyio.create_task_group() as group:
            group.start_soon(pool.apply, tasks.tell_and_wait, (going_on, waiting, str(mark)))
            with anyio.fail_after(10):
                await anyio.wait_readable(started)
            group.cancel_scope.cancel()
        assert await pool.map(tasks.square, range(4)) == [0, 1, 4, 9]
        assert not mark.exists()
        os.write(let_go, b"x")
    assert mark.exists()
    for fd in (started, going_on, waiting, let_go):
        os.close(fd)


DASK_PROGRAM = Path(__file__).parent.parent / "docs" / "howto" / "pool_on_dask.py"


def test_dask_cluster() -> None:
    """The program of the how-to page: the same code on our own workers and on a Dask cluster."""
    pytest.importorskip("distributed", reason="distributed is not installed")
    path = os.pathsep.join([str(DASK_PROGRAM.parent.parent.parent), *sys.path])
    done = subprocess.run(
        [sys.executable, str(DASK_PROGRAM)],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": path},
        timeout=50,
    )
    assert done.stdout == "own workers: [0, 1, 4, 9, 16]\nDask cluster: [0, 1, 4, 9, 16]\n", done.stderr
    assert done.returncode == 0


CONTRAST = """
import os, sys, multiprocessing
from concurrent.futures import ProcessPoolExecutor, TimeoutError
from multiprocessing import TimeoutError as PoolTimeoutError
from tests import tasks

class Pool:
    def __init__(self):
        self.pool = multiprocessing.get_context("forkserver").Pool(1)
    def submit(self, func, arg):
        self.waited = self.pool.apply_async(func, (arg,))
        return self
    def result(self, timeout=None):
        return self.waited.get(timeout)

def make():
    if sys.argv[1] == "Pool":
        return Pool()
    if sys.argv[1] == "loky":
        import loky
        return loky.ProcessPoolExecutor(1)
    return ProcessPoolExecutor(1, multiprocessing.get_context("forkserver"))

if __name__ == "__main__":
    for attempt in range(12):
        executor = make()
        executor.submit(tasks.square, 1).result()
        try:
            executor.submit(tasks.die_while_sending, 0.01 * (attempt + 1)).result(timeout=4)
        except (TimeoutError, PoolTimeoutError):
            print("hangs", flush=True)
            os._exit(0)
        except Exception as error:
            print(type(error).__name__, flush=True)
    os._exit(1)
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", ["processes", "loky", "Pool"])
def test_contrast_a_death_half_way_through_a_result(name: str) -> None:
    """The executors themselves hang for ever on it; our workers do not, at any moment of the same deaths."""
    _need(name)
    done = subprocess.run([sys.executable, "-c", CONTRAST, name], capture_output=True, text=True, timeout=55)
    assert "hangs" in done.stdout.split(), (done.stdout, done.stderr)


@pytest.mark.slow
async def test_our_workers_where_executors_hang() -> None:
    """The same deaths, and each call ends with WorkerDied or whole."""
    async with AsyncPool(1) as pool:
        await pool.apply(tasks.square, (1,))
        for attempt in range(12):
            with anyio.fail_after(20):
                try:
                    await pool.apply(tasks.die_while_sending, (0.01 * (attempt + 1),))
                except WorkerDied:
                    pass
        assert await pool.apply(tasks.square, (3,)) == 9
