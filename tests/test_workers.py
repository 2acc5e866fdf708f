"""Our own workers: deaths, cancellation, sending ahead, streams, starts and ends."""

from __future__ import annotations

import asyncio
import os
import pickle
import random
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import CancelledError, ProcessPoolExecutor
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import numpy as np
import psutil
import pytest
import sniffio

import aioproc
from aioproc import AsyncPool, AsyncResult, RemoteError, WorkerDied
from tests import tasks
from tests.local import process_targets

pytestmark = pytest.mark.anyio


@pytest.fixture
async def pool() -> AsyncIterator[AsyncPool]:
    """A pool of two workers."""
    async with AsyncPool(2) as pool:
        yield pool


async def told(path: Path) -> None:
    """Until a task has written into a named pipe."""
    await anyio.to_thread.run_sync(path.read_bytes)


async def exists(path: Path) -> None:
    """Until a file is there."""
    with anyio.fail_after(10):
        while not path.exists():
            await anyio.sleep(0.005)


async def asleep(pid: int | None) -> None:
    """Until a process sleeps."""
    with anyio.fail_after(10):
        while psutil.Process(pid).status() != psutil.STATUS_SLEEPING:
            await anyio.sleep(0.005)


# Deaths


async def test_one_in_ten_kills_its_worker(pool: AsyncPool) -> None:
    """Of many tasks each death fails its own task; every other result is right."""
    count = 100
    results = [pool.submit(tasks.die_if_tenth, number) for number in range(count)]
    for number, result in enumerate(results):
        if number % 10 == 0:
            with pytest.raises(WorkerDied) as caught:
                await result
            assert caught.value.exitcode == -signal.SIGKILL
            assert caught.value.pid is not None
        else:
            assert await result == number
    assert pool.stats().failed == count // 10


@pytest.mark.slow
async def test_one_in_ten_of_a_thousand_kills_its_worker(pool: AsyncPool) -> None:
    """The same with 1,000 tasks, without and with a retry that is in vain."""
    for view in (pool, pool.options(retries=1)):
        results = [view.submit(tasks.die_if_tenth, number) for number in range(1000)]
        for number, result in enumerate(results):
            if number % 10 == 0:
                with pytest.raises(WorkerDied):
                    await result
            else:
                assert await result == number


@pytest.mark.parametrize("leave", [tasks.leave, tasks.leave_async])
@pytest.mark.parametrize("code", [0, 3])
async def test_exit_in_a_task(pool: AsyncPool, leave: Any, code: int, capfd: Any) -> None:
    """sys.exit in a task ends its worker with that code, quietly, whether or not a loop runs there."""
    for _ in range(2):
        with pytest.raises(WorkerDied, match=f"exit code {code}") as caught:
            await pool.apply(leave, (code,))
        assert caught.value.exitcode == code
        assert await pool.map(tasks.square_later, range(8)) == [n * n for n in range(8)]  # with a loop now
    assert capfd.readouterr().err == ""


async def test_exit_beside_other_tasks() -> None:
    """What the same worker had in hand is lost with it, and is run again where that is wished."""
    async with AsyncPool(1, tasks_per_worker=3) as pool:
        begun, again = aioproc.Event(), aioproc.Event()
        lost = pool.submit(tasks.begin_and_wait, begun)
        retried = pool.options(retries=1).submit(tasks.begin_and_wait, again)
        await begun.wait()
        with pytest.raises(WorkerDied, match="exit code 3"):
            await pool.apply(tasks.leave_beside, (3, again))
        with pytest.raises(WorkerDied, match="exit code 3"):
            await lost
        assert await retried == "again"


async def test_retries(pool: AsyncPool, tmp_path: Path) -> None:
    """A task whose worker died is run again, at most so often."""
    once = pool.options(retries=1)
    assert await once.apply(tasks.die_the_first_time, (str(tmp_path / "mark"),)) == "done"
    with pytest.raises(WorkerDied):
        await once.apply(tasks.die)


async def test_idle_worker_killed(pool: AsyncPool) -> None:
    """An idle worker that is killed is replaced, and nobody notices."""
    first = await pool.apply(tasks.pid_of)
    os.kill(first, signal.SIGKILL)
    for number in range(20):
        assert await pool.apply(tasks.square, (number,)) == number**2
    assert pool.stats().failed == 0


async def test_killed_while_large_results_are_sent(pool: AsyncPool) -> None:
    """Workers killed at random while they send large results: each call ends, whole or with WorkerDied."""
    chance = random.Random(3)
    whole = died = 0
    done = anyio.Event()

    async def kill_now_and_then() -> None:
        while not done.is_set():
            await anyio.sleep(chance.uniform(0, 0.02))
            workers = [worker.pid for worker in pool.stats().workers if worker.state == "busy"]
            if workers:
                try:
                    os.kill(chance.choice(workers), signal.SIGKILL)  # type: ignore[arg-type]
                except ProcessLookupError:
                    pass

    async with anyio.create_task_group() as group:
        group.start_soon(kill_now_and_then)
        results = [pool.submit(bytes, 2_000_000) for _ in range(150)]
        for result in results:
            with anyio.fail_after(30):
                try:
                    assert len(await result) == 2_000_000
                    whole += 1
                except WorkerDied:
                    died += 1
        done.set()
    assert whole + died == 150
    assert died
    assert await pool.apply(tasks.square, (3,)) == 9


# Stopping


async def test_timeout_of_a_plain_function(pool: AsyncPool, tmp_path: Path) -> None:
    """Its worker is killed and replaced; what it would have done later is never done."""
    await pool.map(tasks.square, range(10))  # a call that no worker is ready for is never begun
    before = time.monotonic()
    mark = tmp_path / "mark"
    with pytest.raises(TimeoutError, match=r"announce_and_wait did not end within 0.3 s"):
        await pool.options(timeout=0.3).apply(
            tasks.announce_and_wait, (str(tmp_path / "started"), str(mark), 1.0)
        )
    assert time.monotonic() - before < 0.9
    assert await pool.map(tasks.square, range(10)) == [n * n for n in range(10)]
    await anyio.sleep(1.2 - (time.monotonic() - before))
    assert not mark.exists()
    assert pool.stats().restarts == 1


async def test_cancelled_plain_function(pool: AsyncPool, pipe: Callable[[str], Path], tmp_path: Path) -> None:
    """Cancelling the await of a running call kills its worker, at once."""
    started, mark = pipe("started"), tmp_path / "mark"
    victim = None
    with anyio.CancelScope() as scope:
        async with anyio.create_task_group() as group:
            group.start_soon(pool.apply, tasks.announce_and_wait, (str(started), str(mark)))
            await told(started)
            victim = next(w.pid for w in pool.stats().workers if w.state == "busy")
            scope.cancel()
    assert victim is not None
    with anyio.fail_after(5):
        while psutil.pid_exists(victim):
            await anyio.sleep(0.005)
    assert not mark.exists()


async def test_cancelled_coroutine(pool: AsyncPool, pipe: Callable[[str], Path], tmp_path: Path) -> None:
    """A coroutine is cancelled in its worker, which lives on."""
    started, mark, ended = pipe("started"), tmp_path / "mark", tmp_path / "ended"
    result = pool.submit(tasks.announce_and_wait_async, str(started), str(mark), str(ended))
    await told(started)
    assert result.cancel()
    assert result.cancelled()
    assert not result.cancel()
    await exists(ended)
    assert not mark.exists()
    assert await pool.map(tasks.square, range(4)) == [0, 1, 4, 9]
    assert pool.stats().restarts == 0


async def test_timeout_of_a_coroutine(pool: AsyncPool, tmp_path: Path) -> None:
    """It is cancelled in its worker when its time is over."""
    paths = [str(tmp_path / name) for name in ("started", "mark", "ended")]
    with pytest.raises(TimeoutError):
        await pool.options(timeout=0.3).apply(tasks.announce_and_wait_async, paths)
    await exists(tmp_path / "ended")
    assert not (tmp_path / "mark").exists()
    assert pool.stats().restarts == 0


async def test_queued_task_is_never_started(pipe: Callable[[str], Path], tmp_path: Path) -> None:
    """Cancelled while it waits, here or already in a worker's inbox, a task is not started."""
    started, ahead, mark = pipe("started"), tmp_path / "ahead", tmp_path / "mark"
    gate = pipe("gate")
    async with AsyncPool(1) as pool:
        await pool.map(tasks.square, range(200), 1)  # short ones, so that more will be sent ahead
        running = pool.submit(tasks.wait_for, str(gate))
        waiting = [pool.submit(tasks.touch, str(path)) for path in (ahead, mark)]
        for result in waiting:
            assert result.cancel()
        gate.write_text("go on")
        assert await running == "go on"
        assert await pool.apply(tasks.square, (3,)) == 9
        assert not ahead.exists()
        assert not mark.exists()
        assert not started.is_file()
        assert pool.stats().restarts == 0


async def test_cancelling_spares_those_behind(pipe: Callable[[str], Path], tmp_path: Path) -> None:
    """What was sent ahead behind a task that is killed runs elsewhere, once."""
    started = pipe("started")
    async with AsyncPool(1) as pool:
        await pool.map(tasks.square, range(200), 1)
        running = pool.submit(tasks.announce_and_wait, str(started), str(tmp_path / "mark"))
        behind = [pool.submit(tasks.square, number) for number in range(20)]
        await told(started)
        running.cancel()
        assert [await result for result in behind] == [n * n for n in range(20)]
        assert pool.stats().restarts == 1


@pytest.mark.parametrize("with_a_loop", [False, True])
async def test_grace(pool: AsyncPool, pipe: Callable[[str], Path], tmp_path: Path, with_a_loop: bool) -> None:
    """With grace a plain task's `finally` runs, and the worker lives on; the caller hears at once."""
    if with_a_loop:
        await pool.map(tasks.square_later, range(20))
    started, cleaned = pipe("started"), tmp_path / "cleaned"
    result = pool.options(grace=5).submit(tasks.announce_and_clean_up, str(started), str(cleaned))
    await told(started)
    result.cancel()
    assert result.cancelled()
    await exists(cleaned)
    assert await pool.map(tasks.square, range(4)) == [0, 1, 4, 9]
    assert pool.stats().restarts == 0


@pytest.mark.parametrize("with_a_loop", [False, True])
@pytest.mark.parametrize(
    ("func", "ends"),
    [
        (tasks.wait_amid_acquire, True),
        (tasks.wait_amid_put, True),
        (tasks.acquire_and_wait, True),
        (tasks.wait_with_lock, False),
        (tasks.wait_for_item, False),
    ],
)
async def test_grace_gives_back_what_is_shared(
    pipe: Callable[[str], Path], func: Any, ends: bool, with_a_loop: bool
) -> None:
    """A worker ends if the interrupt may have left a lock or a place taken; no task is lost by that."""
    started, lock, queue = pipe("started"), aioproc.Lock(), aioproc.Queue[int](1)
    async with AsyncPool(1) as pool:
        await pool.map(tasks.square_later if with_a_loop else tasks.square, range(50), 1)
        result = pool.options(grace=10).submit(func, (lock.sync, queue.sync), str(started))
        behind = [pool.submit(tasks.square, number) for number in range(20)]
        await told(started)
        await asleep(pool.stats().workers[0].pid)
        result.cancel()
        assert [await each for each in behind] == [n * n for n in range(20)]
        assert pool.stats().restarts == ends
        assert await lock.acquire(timeout=10)
        await queue.put(2, timeout=10)
        assert await queue.get() == 2
        lock.release()
    queue.close()


# Who waits for whom


async def test_short_tasks_do_not_wait_behind_a_long_one(pool: AsyncPool) -> None:
    """Of many short tasks and a few long ones, the short ones are done while the long ones run."""
    await pool.map(tasks.sleep, [0.0005] * 100, 1)  # so that short ones are sent ahead
    short = [pool.submit(tasks.sleep, 0.001) for _ in range(30)]
    long = pool.submit(tasks.sleep, 2.0)
    short += [pool.submit(tasks.sleep, 0.001) for _ in range(100)]
    before = time.monotonic()
    for result in short:
        await result
    assert time.monotonic() - before < 1.5
    assert not long.ready()
    long.cancel()


async def test_worker_whose_inbox_was_emptied_is_not_forgotten() -> None:
    """What was sent to a worker that does not begin goes to others; later it gets its share again."""
    async with AsyncPool(2) as pool:
        await pool.map(tasks.sleep, [0.0005] * 100, 1)  # so that short ones are sent ahead
        stops: aioproc.AsyncResult[Any] = pool.submit(tasks.stops_afterwards)
        short = [pool.submit(tasks.sleep, 0.001) for _ in range(60)]
        assert repr(await stops) == "1"  # that is what it is made anew as
        with anyio.fail_after(20):
            while pool.stats().done < 140:
                await anyio.sleep(0.005)
            os.kill(stops.pid or 0, signal.SIGCONT)
            for result in short:
                await result
            two = [pool.submit(tasks.slow_pid) for _ in range(2)]
            assert len({await result for result in two}) == 2


async def test_coroutines_at_a_time(tmp_path: Path) -> None:
    """A worker runs tasks_per_worker coroutines at once, and no more."""
    gate = tmp_path / "gate"
    async with AsyncPool(1, tasks_per_worker=3) as pool:
        results = [pool.submit(tasks.meet_others, str(gate)) for _ in range(5)]
        with anyio.fail_after(20):
            while pool.stats().running < 3 or not results[2].started:
                await anyio.sleep(0.005)
        await anyio.sleep(0.1)
        assert [result.started for result in results] == [True, True, True, False, False]
        gate.touch()
        assert max([await result for result in results]) == 3
        assert await pool.apply(tasks.square, (3,)) == 9


async def test_plain_functions_beside_coroutines() -> None:
    """Both kinds get done in one pool, whatever their order."""
    async with AsyncPool(2, tasks_per_worker=4) as pool:
        results = [
            pool.submit(func, number) for number in range(50) for func in (tasks.square, tasks.square_later)
        ]
        assert [await result for result in results] == [n * n for n in range(50) for _ in range(2)]


async def test_coroutines_that_do_not_let_go(tmp_path: Path) -> None:
    """Their worker is replaced, but not before the one that was not stopped has ended."""
    started, go = [tmp_path / name for name in "abc"], tmp_path / "go"
    async with AsyncPool(1, tasks_per_worker=3) as pool:
        stopped = [pool.submit(tasks.hold_on, str(path)) for path in started[:2]]
        spared = pool.submit(tasks.wait_for_file, str(go), str(started[2]))
        for path in started:
            await exists(path)
        for result in stopped:
            result.cancel()
        behind = pool.submit(tasks.square, 3)
        with anyio.fail_after(10):
            while pool.stats().workers[0].state != "ending":
                await anyio.sleep(0.005)
            go.touch()
            assert await spared == spared.pid
            assert await behind == 9
            assert behind.pid != spared.pid


async def test_a_plain_function_with_its_own_loop() -> None:
    """It may have one whether its worker has run coroutines before or not."""
    if sniffio.current_async_library() == "trio":
        pytest.skip("trio has no way to run a loop within its own")
    async with AsyncPool(1) as pool:
        for _ in range(2):
            assert await pool.apply(tasks.run_a_loop, (3,)) == 9
            assert await pool.apply(tasks.square_later, (4,)) == 16


# Streams


@pytest.mark.parametrize("func", [tasks.count_to, tasks.count_to_async])
async def test_generator_that_is_no_stream(pool: AsyncPool, func: Any) -> None:
    """A generator given to `apply` is an error that names what it is for."""
    with pytest.raises(TypeError, match=r"is a generator: AsyncPool\.stream\(\)"):
        await pool.apply(func, (3,))


@pytest.mark.parametrize("func", [tasks.count_to, tasks.count_to_async])
async def test_stream(pool: AsyncPool, func: Any) -> None:
    """Everything that a generator yields arrives in order, several streams beside each other."""
    assert [item async for item in pool.stream(func, 100)] == list(range(100))
    first, second = pool.stream(func, 20), pool.stream(func, 20)
    for number in range(20):
        assert (await anext(first), await anext(second)) == (number, number)
    with pytest.raises(StopAsyncIteration):
        await anext(first)
    assert await pool.apply(tasks.square, (3,)) == 9
    await second.aclose()


@pytest.mark.parametrize("func", [tasks.count_and_note, tasks.count_and_note_async])
async def test_stream_back_pressure_and_stop(pool: AsyncPool, func: Any, tmp_path: Path) -> None:
    """The generator is a few items ahead of its consumer at most; when that leaves, it is closed there."""
    notes, ended = tmp_path / "notes", tmp_path / "ended"
    taken = 0
    async for item in pool.stream(func, str(notes), str(ended)):
        taken += 1
        assert item == taken - 1
        if taken == 20:
            break
    assert int(notes.read_text()) <= taken + 9
    await exists(ended)
    assert int(notes.read_text()) <= taken + 9
    assert await pool.map(tasks.square, range(4)) == [0, 1, 4, 9]
    assert pool.stats().restarts == 0


async def test_stream_that_fails(pool: AsyncPool) -> None:
    """Items come first, then the generator's exception, or WorkerDied."""
    for func, error in ((tasks.count_then_fail, LookupError), (tasks.count_then_die, WorkerDied)):
        seen: list[int] = []

        async def read(func: Any = func, seen: list[int] = seen) -> None:
            async for item in pool.stream(func, 3):
                seen.append(item)

        with pytest.raises(error):
            await read()
        assert seen == [0, 1, 2]


async def test_stream_of_several_consumers(pipe: Callable[[str], Path]) -> None:
    """Each item goes to one of them, also when all of them had to wait for room before it began."""
    waiting = pipe("waiting")
    seen: list[int] = []
    async with AsyncPool(1, max_pending=0) as pool:
        running = pool.submit(tasks.wait_for, str(waiting))
        items = pool.stream(tasks.count_to, 20)

        async def read() -> None:
            async for item in items:
                seen.append(item)

        with anyio.fail_after(10):
            async with anyio.create_task_group() as group:
                for _ in range(3):
                    group.start_soon(read)
                await anyio.wait_all_tasks_blocked()
                await anyio.to_thread.run_sync(waiting.write_text, "go on")
        await running
    assert seen == list(range(20))


@pytest.mark.parametrize("begun", [True, False])
async def test_stream_that_another_task_leaves(begun: bool, pipe: Callable[[str], Path]) -> None:
    """For the one that waits it has ended; one that had not begun never does."""
    before, inside = pipe("before"), pipe("inside")
    async with AsyncPool(1, max_pending=0) as pool:
        if not begun:
            running = pool.submit(tasks.wait_for, str(before))
        items = pool.stream(tasks.wait_and_yield, str(inside))
        seen: list[Any] = []

        async def read() -> None:
            async for item in items:
                seen.append(item)

        with anyio.fail_after(10):
            async with anyio.create_task_group() as group:
                group.start_soon(read)
                await anyio.wait_all_tasks_blocked()
                await items.aclose()
                if not begun:
                    await anyio.to_thread.run_sync(before.write_text, "go on")
                    await running
            assert await pool.apply(tasks.square, (3,)) == 9
        assert seen == []


async def test_stream_is_run_again_only_before_its_first_item(pool: AsyncPool, tmp_path: Path) -> None:
    """Its consumer gets no item twice."""
    stream = pool.options(retries=9).stream(tasks.yield_and_die, 3, str(tmp_path / "mark"))
    assert [await anext(stream) for _ in range(3)] == [0, 1, 2]
    with anyio.fail_after(10), pytest.raises(WorkerDied):
        await anext(stream)


# Starts and ends


async def test_initializer() -> None:
    """It runs first in every worker, also in one that replaces another."""
    async with AsyncPool(1, tasks.initialize, (5,)) as pool:
        assert await pool.apply(tasks.initialized) == "5"
        with pytest.raises(WorkerDied):
            await pool.apply(tasks.die)
        assert await pool.apply(tasks.initialized) == "5"


async def test_initializer_that_raises() -> None:
    """The first use shows its traceback; no worker is started again and again."""
    async with AsyncPool(2, tasks.fail, ("in the initializer",)) as pool:
        for _ in range(3):
            with pytest.raises(WorkerDied, match=r"initializer raised LookupError: .*in the init") as caught:
                await pool.apply(tasks.square, (1,))
        cause = caught.value.__cause__
        assert isinstance(cause, LookupError)
        assert "def fail" in str(cause.__cause__) or "in fail" in str(cause.__cause__)
        assert pool.stats().restarts == 0


async def test_exception_without_a_text() -> None:
    """Its call, or the pool whose initializer raised it, fails as with any other."""
    with anyio.fail_after(10):
        async with AsyncPool(1) as pool:
            with pytest.raises(RemoteError, match="WordlessError"):
                await pool.apply(tasks.fail_without_words)
            assert await pool.apply(tasks.square, (3,)) == 9
        async with AsyncPool(1, tasks.fail_without_words) as pool:
            with pytest.raises(WorkerDied, match=r"initializer raised .*WordlessError"):
                await pool.apply(tasks.square, (3,))


@pytest.mark.parametrize("retries", [0, 1])
async def test_what_a_broken_pool_takes_back_fails(
    pipe: Callable[[str], Path], tmp_path: Path, retries: int
) -> None:
    """A call that a worker had in hand when no worker can start any more fails with the reason of that."""
    mark, waiting = tmp_path / "mark", pipe("waiting")
    pool = AsyncPool(2, initializer=tasks.initialize_unless, initargs=(str(mark),))
    await pool.map(tasks.square, range(4), 1)
    result = pool.options(retries=retries).submit(tasks.wait_for, str(waiting))
    mark.touch()
    with pytest.raises(WorkerDied):
        await pool.apply(tasks.die)
    with anyio.fail_after(10), pytest.raises(WorkerDied, match="initializer raised LookupError: no more"):
        await result
    pool.close()
    await pool.join()


async def test_initializer_that_cannot_travel() -> None:
    """The reason comes out of the first call."""
    async with AsyncPool(1, tasks.square, (threading.Lock(),)) as pool:
        with pytest.raises((TypeError, pickle.PicklingError)):
            await pool.apply(tasks.square, (1,))


@pytest.mark.parametrize("initializer", [tasks.die, tasks.leave])
async def test_workers_that_crash_on_start(initializer: Any) -> None:
    """After a few in a row the pool gives up, with the reason."""
    async with AsyncPool(2, initializer, (3,)) as pool:
        with pytest.raises(WorkerDied, match=r"in a row died before they could work.*(SIGKILL|exit code 3)"):
            await pool.apply(tasks.square, (1,))
        with pytest.raises(WorkerDied):
            await pool.map(tasks.square, [1, 2])


SOMEBODY_CANCELS: dict[str, tuple[str, Callable[[AsyncPool], AsyncResult[Any]]]] = {
    "while the first worker starts": ("start a worker", lambda pool: pool.submit(tasks.square, 2)),
    "while a large argument is packed": ("pack", lambda pool: pool.submit(len, bytes(40 << 20))),
    "while a large result is opened": ("open", lambda pool: pool.submit(bytes, 40 << 20)),
    "while a map goes on": ("map", lambda pool: pool.map_async(tasks.sleep, [0.1] * 4)),
    "while an executor starts": ("start the workers", lambda pool: pool.submit(tasks.square, 2)),
}


@pytest.mark.parametrize("begun", [True, False])
@pytest.mark.parametrize("when", SOMEBODY_CANCELS)
async def test_somebody_cancels_all_tasks(when: str, begun: bool) -> None:
    """As many an asyncio program does before its end: who waits for the pool goes on all the same."""
    if sniffio.current_async_library() == "trio":
        pytest.skip("nobody can do that there")
    name, call = SOMEBODY_CANCELS[when]
    pool = AsyncPool(executor=lambda: ProcessPoolExecutor(1)) if "executor" in when else AsyncPool(1)
    try:
        if "large" in when:
            await pool.apply(tasks.square, (1,))
        result = call(pool)
        with anyio.fail_after(10):
            while not (found := [t for t in asyncio.all_tasks() if t.get_name().startswith(name)]):
                await anyio.sleep(0)
            if begun:
                await anyio.sleep(0)
            for task in found:
                task.cancel()
            if "large" in when:
                assert await result in (40 << 20, bytes(40 << 20))
            else:
                with pytest.raises(CancelledError):
                    await result
            pool.close()
            await pool.join()
    finally:
        pool.terminate()


async def test_maxtasksperchild() -> None:
    """A worker is replaced after so many calls, and no call is lost."""
    async with AsyncPool(1, maxtasksperchild=3) as pool:
        pids = await pool.map(tasks.pid_of, range(9), 1)
        assert [pids.count(pid) for pid in dict.fromkeys(pids)] == [3, 3, 3]


async def test_many_workers_start_in_parallel() -> None:
    """64 workers all start, together."""
    async with AsyncPool(64) as pool:
        await pool.apply(tasks.square, (1,))
        with anyio.fail_after(40):
            while {worker.state for worker in pool.stats().workers} != {"idle"}:
                await anyio.sleep(0.01)
        assert len({worker.pid for worker in pool.stats().workers}) == 64


async def test_idle_pool_makes_no_system_calls(pool: AsyncPool) -> None:
    """While nothing is asked of it, no worker is ever scheduled, and the parent wakes for its sleep only."""
    await pool.map(tasks.square, range(10), 1)
    await pool.map(tasks.square_later, range(10), 1)
    with anyio.fail_after(10):
        while {worker.state for worker in pool.stats().workers} != {"idle"}:
            await anyio.sleep(0.01)
    workers = [psutil.Process(worker.pid) for worker in pool.stats().workers]
    await anyio.sleep(0.1)
    before = [sum(worker.num_ctx_switches()) for worker in workers]
    slept, worked = _switches_of_this_thread(), time.thread_time()
    await anyio.sleep(0.5)
    assert _switches_of_this_thread() - slept <= 5  # its own sleep, from which a loop may wake too early
    assert time.thread_time() - worked < 0.05
    assert [sum(worker.num_ctx_switches()) for worker in workers] == before


def _switches_of_this_thread() -> int:
    return resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw


def test_plain_workers_stay_lean() -> None:
    """What a worker runs for plain functions imports no event loop."""
    program = """
import sys
from aioproc._kernel import worker
assert not {"asyncio", "anyio", "trio", "uvloop"} & set(sys.modules), sys.modules
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True)
    assert (done.returncode, done.stderr) == (0, b"")


# What travels


async def test_large_arrays_travel_out_of_band(pool: AsyncPool) -> None:
    """An array of several MB arrives, writable, and comes back."""
    array = np.ones(1_000_000)
    assert await pool.apply(tasks.total, (array,)) == 1_000_001
    back = await pool.apply(tasks.give, (array,))
    back[0] = 5
    assert back.sum() == 1_000_004


async def test_primitives_travel(pool: AsyncPool) -> None:
    """Queues, locks and connections may be arguments and results."""
    queue: Any = aioproc.Queue()
    lock = aioproc.Lock()
    given, locked = await pool.apply(tasks.give, ((queue, lock),))
    await queue.put(5)
    assert await given.get() == 5
    async with lock:
        assert locked.locked()
    for each in (queue, given):
        each.close()


@pytest.mark.parametrize(
    "fail",
    [
        process_targets.raise_what_exits,
        process_targets.raise_what_interrupts,
        process_targets.raise_what_is_none,
        process_targets.raise_what_is_fatal,
    ],
)
async def test_exception_that_opens_as_something_else(pool: AsyncPool, fail: Any) -> None:
    """It comes as text, and its worker lives on."""
    with pytest.raises(RemoteError, match="OpensAs: as something else"):
        await pool.apply(fail)
    assert pool.stats().restarts == 0


async def test_what_cannot_be_pickled(pool: AsyncPool) -> None:
    """It fails its own task only, whichever way it goes and on whichever side it shows."""
    good = [pool.submit(tasks.square, number) for number in range(10)]
    with pytest.raises((TypeError, pickle.PicklingError)):
        await pool.apply(tasks.give, (threading.Lock(),))
    with pytest.raises(LookupError, match="cannot be opened"):
        await pool.apply(tasks.give, (tasks.CannotBeOpened(),))
    with pytest.raises(LookupError, match="cannot be opened"):
        await pool.apply(tasks.give_unopenable)
    with pytest.raises(Exception, match=r"generator|pickle"):
        await pool.apply(tasks.lambda_back)
    assert [await result for result in good] == [n * n for n in range(10)]
    assert pool.stats().restarts == 0
