"""AsyncPool's interface, over workers of our own."""

from __future__ import annotations

import asyncio
import concurrent.futures
import math
import os
import re
import threading
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextvars import Context
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest
import sniffio

import aioproc
from aioproc import AsyncPool, QueueFull, RemoteTraceback
from tests import tasks

pytestmark = pytest.mark.anyio


async def test_apply() -> None:
    """apply gives back what the function returns, in another process."""
    async with AsyncPool(2) as pool:
        assert await pool.apply(tasks.add, (1,), {"b": 2}) == 3
        assert await pool.apply(tasks.square_later, (3,)) == 9
        assert await pool.apply(tasks.pid_of) != os.getpid()


async def test_whatever_can_be_called() -> None:
    """Functions of C, methods, classes, partials; an object is sent as it is at the time of the call."""
    numbers = [1, 2]
    async with AsyncPool(1) as pool:
        for _ in range(2):
            assert await pool.apply(math.gcd, (12, 18)) == 6
            assert await pool.apply(numbers.count, (2,)) == len(numbers) - 1
            assert await pool.apply("-".join, (["a", "b"],)) == "a-b"
            assert await pool.apply(complex, (1, 2)) == 1 + 2j
            assert await pool.apply(partial(tasks.add, 1), (2,)) == 3
            numbers.append(2)


async def test_start_methods(start_method: str) -> None:
    """Workers start by fork, forkserver and spawn."""
    async with AsyncPool(2, context=aioproc.get_context(start_method)) as pool:
        assert await pool.map(tasks.square, range(5)) == [0, 1, 4, 9, 16]
        assert await pool.map(tasks.square_later, range(5)) == [0, 1, 4, 9, 16]


@pytest.mark.parametrize("method", ["forkserver", "spawn"])
async def test_the_pool_of_a_context(method: str) -> None:
    """A context's pool starts its workers in the context's way; a context given to it comes first."""
    context, other = aioproc.get_context(method), aioproc.get_context("fork")
    how = {"forkserver": "multiprocessing.forkserver", "spawn": "multiprocessing.spawn"}[method]
    for pool, is_so in (context.AsyncPool(1), True), (context.AsyncPool(1, context=other), False):
        assert isinstance(pool, AsyncPool)
        assert isinstance(pool, context.AsyncPool)
        async with pool:
            command = await pool.apply(Path.read_text, (Path("/proc/self/cmdline"),))
        assert (how in command) == is_so


async def test_without_a_block() -> None:
    """Workers start with the first call; close and join end them."""
    pool = AsyncPool(2)
    assert pool.stats().workers == ()
    result = pool.apply_async(tasks.square, (3,))
    assert not result.ready()
    assert await result.get() == 9
    pool.close()
    await pool.join()
    assert pool.stats().workers == ()


async def test_a_pool_that_was_never_used() -> None:
    """It ends without having started anything."""
    async with AsyncPool(2) as pool:
        pass
    assert pool.stats().workers == ()


async def test_results() -> None:
    """An AsyncResult knows its name, its worker, how long it took, and how it ended."""
    async with AsyncPool(1) as pool:
        good = pool.submit(tasks.add, 1, b=2)
        bad = pool.options(name="the bad one").submit(tasks.fail, "no")
        assert (good.pid, good.started, good.elapsed) == (None, False, None)
        with pytest.raises(ValueError, match="not ready"):
            good.successful()
        await bad.wait()
        assert (good.successful(), bad.successful(), bad.cancelled()) == (True, False, False)
        assert (good.pid, good.started) == (pool.stats().workers[0].pid, True)
        assert good.elapsed is not None
        assert 0 <= good.elapsed < 5
        assert (good.name, bad.name) == ("add", "the bad one")
        assert repr(bad) == "<AsyncResult the bad one raised LookupError>"


async def test_remote_traceback() -> None:
    """A call's own exception comes out, with the worker's traceback as its cause."""
    async with AsyncPool(1) as pool:
        for func in (tasks.fail, tasks.fail_later):
            with pytest.raises(LookupError, match="so it is") as caught:
                await pool.apply(func, ("so it is",))
            assert isinstance(caught.value.__cause__, RemoteTraceback)
            assert func.__name__ in "".join(traceback.format_exception(caught.value))


async def test_get_may_time_out_and_go_on() -> None:
    """get(timeout) that runs out stops nothing; wait returns either way."""
    async with AsyncPool(1) as pool:
        result = pool.submit(tasks.sleep, 0.3)
        with pytest.raises(TimeoutError):
            await result.get(timeout=0.01)
        await result.wait(timeout=0.01)
        assert not result.ready()
        assert await result == 0.3


async def test_map_and_starmap() -> None:
    """Results are in the order of the input, whatever the chunks."""
    async with AsyncPool(2) as pool:
        for chunksize in (None, 1, 3, 100):
            assert await pool.map(tasks.square, range(20), chunksize) == [n * n for n in range(20)]
            assert await pool.map(tasks.square_later, iter(range(9)), chunksize) == [n * n for n in range(9)]
            assert await pool.starmap(tasks.add, [(1, 2), (3,)], chunksize) == [3, 3]
        assert await pool.map(tasks.square, []) == []
        assert await pool.map(tasks.square, _asynchronously(5)) == [0, 1, 4, 9, 16]


async def test_map_async_and_starmap_async() -> None:
    """They return at once; callbacks get the whole list, or the first exception."""
    async with AsyncPool(2) as pool:
        heard: list[Any] = []
        failed: list[BaseException] = []
        first = pool.map_async(tasks.square, range(4), callback=heard.append)
        second = pool.starmap_async(tasks.add, [(1, 2)], callback=heard.append)
        third = pool.map_async(tasks.fail, ["no"], error_callback=failed.append)
        assert await first == [0, 1, 4, 9]
        assert await second == [3]
        with pytest.raises(LookupError):
            await third
        assert [error.args for error in failed] == [("no",)]
        assert sorted(heard) == [[0, 1, 4, 9], [3]]


async def test_close_waits_for_what_was_taken_on() -> None:
    """A map_async that was taken on before close is done to its end."""
    pool = AsyncPool(2)
    whole = pool.map_async(tasks.square, _asynchronously(30))
    pool.close()
    await pool.join()
    assert await whole == [n * n for n in range(30)]


async def test_close_during_a_map() -> None:
    """A map that is awaited is done to its end; an imap left half-way says that the pool is closed."""
    async with AsyncPool(1) as pool:
        found: list[list[int]] = []

        async def work() -> None:
            found.append(await pool.map(tasks.square, range(50), 1))

        half = pool.imap(tasks.square, range(50))
        assert await anext(half) == 0
        async with anyio.create_task_group() as group:
            group.start_soon(work)
            await anyio.wait_all_tasks_blocked()
            pool.close()
        assert found == [[n * n for n in range(50)]]
    with pytest.raises(ValueError, match="the pool is closed"):
        assert [r async for r in half]


async def _asynchronously(most: int) -> AsyncIterator[int]:
    for number in range(most):
        await anyio.lowlevel.checkpoint()
        yield number


@pytest.mark.parametrize("chunksize", [1, 4])
async def test_imap(chunksize: int) -> None:
    """imap keeps the order, imap_unordered does not promise it; both take either kind of input."""
    async with AsyncPool(2) as pool:
        expected = [n * n for n in range(10)]
        assert [r async for r in pool.imap(tasks.square, range(10), chunksize)] == expected
        assert [r async for r in pool.imap(tasks.square, _asynchronously(10), chunksize)] == expected
        found = [r async for r in pool.imap_unordered(tasks.square, _asynchronously(10), chunksize)]
        assert sorted(found) == expected


async def test_unordered_results_overtake() -> None:
    """A quick item's result comes before that of a slow one given earlier."""
    async with AsyncPool(2) as pool:
        assert [s async for s in pool.imap_unordered(tasks.sleep, [0.5, 0.0])] == [0.0, 0.5]


async def test_endless_input_is_read_as_results_are_taken() -> None:
    """Of an endless input no more is read than has been taken and a few beyond."""
    read = 0

    def endless() -> Iterator[int]:
        nonlocal read
        while True:
            read += 1
            yield read

    async def endless_async() -> AsyncIterator[int]:
        for number in endless():
            yield number

    async with AsyncPool(2) as pool:
        for source in (endless(), endless_async()):
            read, taken = 0, 0
            async with pool.imap(tasks.square, source) as results:
                async for _ in results:
                    taken += 1
                    assert read <= taken + 16
                    if taken == 50:
                        break


async def test_slow_input_holds_up_no_result() -> None:
    """A result is handed out while the input has nothing new."""
    more = anyio.Event()

    async def slow() -> AsyncIterator[int]:
        yield 1
        await more.wait()
        yield 2

    async with AsyncPool(1) as pool:
        results = pool.imap(tasks.square, slow())
        assert await anext(results) == 1
        more.set()
        assert await anext(results) == 4


@pytest.mark.parametrize("waits_for", ["the input", "the consumer"])
async def test_who_leaves_the_loop_ends_the_input(waits_for: str) -> None:
    """A consumer that breaks out of an `async for` closes the input, whatever its reader waits for."""
    closed = anyio.Event()

    async def numbers() -> AsyncIterator[int]:
        try:
            for number in range(100):
                if waits_for == "the input" and number == 10:
                    await anyio.sleep_forever()
                yield number
        finally:
            closed.set()

    async with AsyncPool(1) as pool:
        async for _ in pool.imap(tasks.square, numbers()):
            if waits_for == "the consumer":
                await anyio.wait_all_tasks_blocked()
            break
        with anyio.fail_after(10):
            await closed.wait()
        assert await pool.apply(tasks.square, (3,)) == 9


async def test_iterable_that_raises_midway() -> None:
    """The results before it come out, then its error."""

    def broken() -> Iterator[int]:
        yield 1
        yield 2
        raise LookupError("midway")

    async def broken_async() -> AsyncIterator[int]:
        for number in broken():
            yield number

    async with AsyncPool(2) as pool:
        for source in (broken(), broken_async()):
            results = pool.imap(tasks.square, source)
            assert [await anext(results), await anext(results)] == [1, 4]
            with pytest.raises(LookupError, match="midway"):
                await anext(results)
        with pytest.raises(LookupError, match="midway"):
            await pool.map(tasks.square, broken_async())


async def test_a_call_that_raises_stop_async_iteration() -> None:
    """It ends no iteration early: no result behind it is lost in silence."""
    async with AsyncPool(1) as pool:
        for chunksize in (1, 2):
            with pytest.raises(RuntimeError, match="StopAsyncIteration") as caught:
                await pool.map(tasks.first_item, [[1], [], [2]], chunksize)
            assert isinstance(caught.value.__cause__, StopAsyncIteration)
        results = pool.imap(tasks.first_item, [[1], [], [2]])
        assert await anext(results) == 1
        with pytest.raises(RuntimeError, match="StopAsyncIteration"):
            await anext(results)
        assert [item async for item in results] == [2]
        with pytest.raises(RuntimeError, match="StopAsyncIteration"):
            [item async for item in pool.stream(tasks.stop_midway)]


class _Outcome(BaseException):
    """As pytest.fail and pytest.skip raise."""


class _Input:
    """An async iterator that raises in ``__anext__`` and in ``aclose``."""

    def __init__(self, first: BaseException, second: Exception | None = None) -> None:
        self.first, self.second = first, second

    def __aiter__(self) -> AsyncIterator[int]:
        return self

    async def __anext__(self) -> int:
        raise self.first

    async def aclose(self) -> None:
        if self.second is not None:
            raise self.second


@pytest.mark.parametrize(
    ("source", "kind"),
    [
        (_Input(asyncio.CancelledError()), concurrent.futures.CancelledError),
        (_Input(StopAsyncIteration(), OSError("cannot close")), OSError),
        (_Input(_Outcome("neither an Exception nor a cancellation")), _Outcome),
    ],
)
async def test_input_whose_end_is_unusual(source: Any, kind: Any) -> None:
    """It was cancelled by others, or cannot be closed: the consumer learns of it."""
    if sniffio.current_async_library() == "trio" and source.second is None:
        pytest.skip("asyncio's own")
    async with AsyncPool(1) as pool:
        with anyio.fail_after(10), pytest.raises(kind):
            async for _ in pool.imap(tasks.square, source):
                pass


@pytest.mark.parametrize("end", ["aclose", "terminate"])
async def test_input_that_was_begun_and_not_read(end: str) -> None:
    """It is closed, though no result was ever asked for."""
    closed = anyio.Event()

    async def lines() -> AsyncIterator[int]:
        try:
            for number in range(10):
                yield number
        finally:
            closed.set()

    async with AsyncPool(1) as pool:
        source = lines()
        assert await anext(source) == 0
        results = pool.imap(tasks.square, source)
        for _ in range(2):
            await results.aclose() if end == "aclose" else pool.terminate()
        with anyio.fail_after(10):
            await closed.wait()


async def test_input_left_before_it_is_read() -> None:
    """It is closed once, and not while somebody reads it."""
    closed = anyio.Event()

    async def lines() -> AsyncIterator[int]:
        try:
            for number in range(10):
                yield number
                await anyio.lowlevel.checkpoint()
        finally:
            closed.set()

    async with AsyncPool(1) as pool:
        for turns in range(6):
            closed, source = anyio.Event(), lines()
            await anext(source)
            results = pool.imap(tasks.square, source)
            with anyio.CancelScope() as scope:
                scope.cancel()
                await anext(results)
            for _ in range(turns):
                await anyio.lowlevel.checkpoint()
            await results.aclose()
            with anyio.fail_after(10):
                await closed.wait()
            with pytest.raises(StopAsyncIteration):
                await anext(results)


async def test_threads_that_the_program_needs_itself() -> None:
    """A pool goes on where all of anyio's threads wait for it, as those of a web framework may."""
    threads = anyio.to_thread.current_default_thread_limiter()
    usual, threads.total_tokens = threads.total_tokens, 1
    try:
        async with threads:
            with anyio.fail_after(30):
                async with AsyncPool(1) as pool:
                    assert await pool.apply(len, (b"x" * 6_000_000,)) == 6_000_000
                async with AsyncPool(executor=lambda: concurrent.futures.ThreadPoolExecutor(1)) as pool:
                    assert await pool.apply(abs, (-1,)) == 1
    finally:
        threads.total_tokens = usual


async def test_stopped_calls_are_not_counted() -> None:
    """Also while their arguments are still being copied."""
    async with AsyncPool(1) as pool:
        results = [pool.submit(len, bytearray(20_000_000)) for _ in range(3)]
        for result in results:
            result.cancel()
        assert pool.stats().queued == 0


@pytest.mark.parametrize("chunksize", [1, 2])
async def test_a_plain_function_that_returns_a_coroutine(chunksize: int) -> None:
    """It is refused in the same words, alone and in a chunk."""
    async with AsyncPool(1) as pool:
        with pytest.raises(TypeError, match="returned a coroutine; give the pool the `async def` itself"):
            await pool.map(tasks.begin_to_square, [1, 2], chunksize)


async def test_length_of_results() -> None:
    """A progress bar finds the total where the input has one."""
    async with AsyncPool(1) as pool:
        results = pool.imap(tasks.square, [1, 2, 3])
        assert len(results) == 3
        assert [r async for r in results] == [1, 4, 9]
        with pytest.raises(TypeError, match="no length"):
            len(pool.imap(tasks.square, iter([1])))


async def test_progress_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    """tqdm's async form shows a bar with total and rate."""
    bar = pytest.importorskip("tqdm.asyncio", reason="tqdm is not installed")
    from io import StringIO

    monkeypatch.setattr(bar.tqdm, "monitor_interval", 0)  # no thread that watches for stalls
    shown = StringIO()
    async with AsyncPool(1) as pool:
        async for _ in bar.tqdm(pool.imap(tasks.square, range(20)), file=shown, mininterval=0):
            pass
    assert re.search(r"100%.*20/20 .*it/s", shown.getvalue())


async def test_callbacks() -> None:
    """They are called in the loop's thread, with the result or the exception."""
    heard: list[tuple[str, Any, bool]] = []
    here = threading.get_ident()

    def note(kind: str) -> Any:
        return lambda value: heard.append((kind, value, threading.get_ident() == here))

    async with AsyncPool(1) as pool:
        pool.apply_async(tasks.square, (3,), callback=note("result"), error_callback=note("error"))
        error = LookupError("no")
        pool.apply_async(tasks.fail, ("no",), callback=note("result"), error_callback=note("error"))
    assert heard[0] == ("result", 9, True)
    assert (heard[1][0], heard[1][1].args, heard[1][2]) == ("error", error.args, True)


@pytest.mark.parametrize("kind", [LookupError, asyncio.CancelledError])
async def test_callback_that_raises(caplog: pytest.LogCaptureFixture, kind: type[BaseException]) -> None:
    """It is reported, and the pool lives."""

    def wrong(value: object) -> None:
        raise kind("in a callback")

    async with AsyncPool(1) as pool:
        result = pool.apply_async(tasks.square, (3,), callback=wrong)
        with anyio.fail_after(10):
            assert await result == 9
            assert await pool.apply(tasks.square, (4,)) == 16
    assert "in a callback" in caplog.text


async def test_max_pending() -> None:
    """Past it submit and apply_async raise QueueFull at once; what is awaited waits for room."""
    async with AsyncPool(1, max_pending=2) as pool:
        results = [pool.submit(tasks.square, n) for n in range(3)]
        with pytest.raises(QueueFull):
            pool.submit(tasks.square, 3)
        with pytest.raises(QueueFull):
            pool.apply_async(tasks.square, (3,))
        assert await pool.apply(tasks.square, (4,)) == 16
        assert [await r for r in results] == [0, 1, 4]
        assert await pool.map(tasks.square, range(20), 1) == [n * n for n in range(20)]
        many: list[int] = []

        async def one(number: int) -> None:
            many.append(await pool.apply(tasks.square, (number,)))

        async with anyio.create_task_group() as group:
            for number in range(20):
                group.start_soon(one, number)
        assert sorted(many) == [n * n for n in range(20)]


@pytest.mark.parametrize("end", ["close", "terminate"])
async def test_who_waits_for_room_learns_of_the_end(pipe: Callable[[str], Path], end: str) -> None:
    """All of them, not only as many as calls ended."""
    waiting = pipe("waiting")
    pool = AsyncPool(1, max_pending=0)
    running = pool.submit(tasks.wait_for, str(waiting))
    refused: list[int] = []

    async def one(number: int) -> None:
        with pytest.raises(ValueError, match="the pool is"):
            await pool.apply(tasks.square, (number,))
        refused.append(number)

    with anyio.fail_after(10):
        async with anyio.create_task_group() as group:
            for number in range(3):
                group.start_soon(one, number)
            await anyio.wait_all_tasks_blocked()
            getattr(pool, end)()
            if end == "close":
                await anyio.to_thread.run_sync(waiting.write_text, "go on")
    assert sorted(refused) == [0, 1, 2]
    assert running.ready()
    await pool.join()


async def test_many_who_wait_for_room_are_cancelled(pipe: Callable[[str], Path]) -> None:
    """Each leaves the line without a look at the others in it; the next in line is served next."""
    waiting, served = pipe("waiting"), []

    class Ticket:
        compared = 0

        def __init__(self, ticket: Any) -> None:
            self.ticket = ticket

        def __await__(self) -> Any:
            return self.ticket.__await__()

        def __eq__(self, other: object) -> bool:
            Ticket.compared += 1
            return self is other

        def __hash__(self) -> int:
            return id(self)

    async with AsyncPool(1, max_pending=0) as pool:
        running = pool.submit(tasks.wait_for, str(waiting))
        loop = pool._books.loop
        make, wake = loop.ticket, loop.wake
        vars(loop)["ticket"] = lambda: Ticket(make())
        vars(loop)["wake"] = lambda one: wake(one.ticket if isinstance(one, Ticket) else one)

        async def one(number: int) -> None:
            served.append(await pool.apply(tasks.square, (number,)))

        with anyio.fail_after(10):
            async with anyio.create_task_group() as rest:
                async with anyio.create_task_group() as group:
                    for kept in (50, 60):
                        for number in range(kept):
                            group.start_soon(one, number)
                        await anyio.wait_all_tasks_blocked()
                        rest.start_soon(one, kept)
                        await anyio.wait_all_tasks_blocked()
                    group.cancel_scope.cancel()
                assert Ticket.compared < 100
                await anyio.to_thread.run_sync(waiting.write_text, "go on")
        await running
    assert served == [2500, 3600]


async def test_who_waits_and_is_cancelled_leaves_nothing(pipe: Callable[[str], Path]) -> None:
    """Neither the wait for a result of an iteration, nor that for the end of the pool."""
    waiting = pipe("waiting")
    async with AsyncPool(1) as pool:
        results = pool.imap(tasks.wait_for, [str(waiting)])
        for wait in (results.__anext__, pool.join, pool._books.engine.join):
            if wait == pool.join:
                pool.close()
            for _ in range(3):
                with anyio.CancelScope() as scope:
                    async with anyio.create_task_group() as group:
                        group.start_soon(wait)
                        await anyio.wait_all_tasks_blocked()
                        scope.cancel()
        engine: Any = pool._books.engine
        assert not results._audience
        assert not pool._books._for_end
        assert not engine._for_end
        await anyio.to_thread.run_sync(waiting.write_text, "go on")
        assert await anext(results) == "go on"


async def test_room_that_was_not_taken_goes_to_the_next(pipe: Callable[[str], Path]) -> None:
    """An empty input, one that is slow, and a call that is refused leave it to others."""
    waiting = pipe("waiting")

    async def slow() -> AsyncIterator[int]:
        await anyio.sleep_forever()
        yield 1

    async with AsyncPool(1, max_pending=0) as pool:
        running = pool.submit(tasks.wait_for, str(waiting))

        async def iterate(source: Any) -> None:
            async with pool.imap(tasks.square, source) as results:
                async for _ in results:
                    pass

        async def refused() -> None:
            with pytest.raises(TypeError):
                await pool.apply(5)  # type: ignore[call-overload]

        async def one() -> None:
            assert await pool.apply(tasks.square, (4,)) == 16
            group.cancel_scope.cancel()

        with anyio.fail_after(10):
            async with anyio.create_task_group() as group:
                for each in (partial(iterate, []), partial(iterate, slow()), refused, one):
                    group.start_soon(each)
                    await anyio.wait_all_tasks_blocked()
                await anyio.to_thread.run_sync(waiting.write_text, "go on")
        assert await running == "go on"


async def test_stats() -> None:
    """Stats tell what the workers do, and count."""
    async with AsyncPool(1) as pool:
        await pool.apply(tasks.square, (1,))
        with pytest.raises(LookupError):
            await pool.apply(tasks.fail, ("no",))
        slow = pool.options(name="slow").submit(tasks.sleep, 0.1)
        waiting = pool.submit(tasks.square, 2)
        now = pool.stats()
        assert (now.queued, now.running, now.done, now.failed, now.restarts) == (1, 1, 1, 1, 0)
        assert (now.workers[0].state, now.workers[0].task, now.workers[0].done) == ("busy", "slow", 2)
        assert repr(pool) == "<AsyncPool open, 1 workers, 1 running, 1 queued>"
        await slow
        await waiting
        assert pool.stats().workers[0].state == "idle"
        with pytest.raises(AttributeError):
            now.queued = 3  # type: ignore[misc]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"processes": 0}, "processes must be 1 or more"),
        ({"processes": -1}, "processes must be 1 or more"),
        ({"maxtasksperchild": 0}, "maxtasksperchild must be 1 or more"),
        ({"tasks_per_worker": 0}, "tasks_per_worker must be 1 or more"),
        ({"max_pending": -1}, "max_pending must be 0 or more"),
    ],
)
async def test_bad_numbers(given: dict[str, int], message: str) -> None:
    """A number below its least is refused at once."""
    with pytest.raises(ValueError, match=message):
        AsyncPool(**given)  # type: ignore[arg-type]


async def test_bad_input() -> None:
    """What cannot work is refused at the call."""
    with pytest.raises(TypeError, match="initializer"):
        AsyncPool(1, initializer=3)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="executor"):
        AsyncPool(executor=3)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"context must be .*, not 'spawn'"):
        AsyncPool(1, context="spawn")
    async with AsyncPool(1) as pool:
        with pytest.raises(TypeError, match="callable"):
            pool.submit(3)  # type: ignore[call-overload]
        later: Any = tasks.square_later
        calls: list[Any] = [pool.apply_async, pool.map_async, pool.starmap_async]
        for given in ({"callback": 3}, {"callback": later}, {"error_callback": later}):
            for call in calls:
                with pytest.raises(TypeError, match="callback must be a plain function, not "):
                    call(tasks.square, (1,), **given)
        with pytest.raises(ValueError, match="chunksize"):
            pool.imap(tasks.square, [], 0)
        with pytest.raises(ValueError, match="timeout"):
            pool.options(timeout=-1)
        with pytest.raises(TypeError, match="iterable"):
            pool.imap(tasks.square, 3)  # type: ignore[call-overload]


async def test_calls_after_close() -> None:
    """They raise ValueError; join before close does too."""
    pool = AsyncPool(1)
    with pytest.raises(ValueError, match="still open"):
        await pool.join()
    assert await pool.apply(tasks.square, (2,)) == 4
    pool.close()
    pool.close()
    calls: list[Any] = [pool.submit, pool.apply_async, pool.map_async, pool.imap, pool.stream]
    for call in calls:
        with pytest.raises(ValueError, match="the pool is closed"):
            call(tasks.square, (1,))
    waited: list[Any] = [pool.apply, pool.map, pool.starmap]
    for call in waited:
        with pytest.raises(ValueError, match="the pool is closed"):
            await call(tasks.square, (1,))
    await pool.join()


async def test_terminate() -> None:
    """Everything open is cancelled and the workers are gone."""
    pool = AsyncPool(2)
    results: list[aioproc.AsyncResult[Any]] = [pool.submit(tasks.sleep, 60) for _ in range(5)]
    whole = pool.map_async(tasks.sleep, [60, 60])
    await pool.submit(tasks.square, 1).wait(timeout=0.3)
    pool.terminate()
    await pool.join()
    for result in (*results, whole):
        assert result.cancelled()
        with pytest.raises(concurrent.futures.CancelledError):
            await result


async def test_terminate_while_a_map_waits_for_its_input() -> None:
    """Who awaits results of it learns that they will not come, and the input is closed."""
    closed: list[str] = []

    async def one_item(name: str) -> AsyncIterator[int]:
        try:
            yield 1
            await anyio.sleep_forever()
        finally:
            closed.append(name)

    async def fails(wait: Callable[[], Awaitable[object]]) -> None:
        with pytest.raises(concurrent.futures.CancelledError):
            await wait()

    async def all_of(results: AsyncIterator[int]) -> list[int]:
        return [result async for result in results]

    pool = AsyncPool(1)
    with anyio.fail_after(10):
        async with anyio.create_task_group() as group:
            group.start_soon(fails, lambda: pool.map(tasks.square, one_item("map")))
            group.start_soon(fails, lambda: all_of(pool.imap(tasks.square, one_item("imap"))))
            while pool.stats().done < 2:
                await anyio.sleep(0.005)
            pool.terminate()
        await pool.join()
        while len(closed) < 2:
            await anyio.sleep(0.005)


async def test_terminate_when_an_imap_is_half_way() -> None:
    """Also between two of its calls: a part of the results is not taken for all of them."""
    pool = AsyncPool(1)
    results = pool.imap(tasks.square, range(100))
    assert await anext(results) == 0
    with anyio.fail_after(10):
        while pool.stats().running or pool.stats().queued:
            await anyio.sleep(0.005)
    pool.terminate()
    assert await anext(results) == 1
    with pytest.raises(concurrent.futures.CancelledError):
        [result async for result in results]
    await pool.join()


async def test_terminate_within_grace(tmp_path: Path) -> None:
    """A plain call's `finally` runs; a coroutine that does not let go is killed when its time is over."""
    pool = AsyncPool(2, tasks_per_worker=2)
    marks = {name: str(tmp_path / name) for name in ("plain", "stubborn", "cleaned")}
    for name in ("plain", "stubborn"):
        os.mkfifo(marks[name])
    pool.options(grace=30).submit(tasks.announce_and_clean_up, marks["plain"], marks["cleaned"])
    pool.options(grace=0.3).submit(tasks.hold_on, marks["stubborn"])
    for name in ("plain", "stubborn"):
        await anyio.to_thread.run_sync(Path(marks[name]).read_bytes)
    pool.terminate()
    with anyio.fail_after(10):
        await pool.join()
    assert Path(marks["cleaned"]).exists()


async def test_terminate_while_workers_start() -> None:
    """The ones that start are ended too."""
    pool = AsyncPool(2)
    result = pool.submit(tasks.square, 1)
    pool.terminate()
    await pool.join()
    assert result.cancelled()


async def test_leaving_on_an_exception() -> None:
    """The block ends at once, however long the calls would take."""
    results: list[aioproc.AsyncResult[float]] = []

    async def leave() -> None:
        async with AsyncPool(2) as pool:
            results.append(pool.submit(tasks.sleep, 60))
            raise LookupError

    with pytest.raises(LookupError):
        await leave()
    assert results[0].cancelled()


async def test_leaving_when_cancelled(tmp_path: Path) -> None:
    """A cancelled block ends its calls; so does a cancellation while it waits for them at its end."""
    with anyio.move_on_after(0.2):
        async with AsyncPool(1) as pool:
            first = pool.submit(tasks.sleep, 60)
            await anyio.sleep(60)
    with anyio.move_on_after(0.2):
        async with AsyncPool(1) as pool:
            second = pool.submit(tasks.sleep, 60)
    assert first.cancelled()
    assert second.cancelled()


async def test_first_call_in_a_callback() -> None:
    """A loop's callback, where no task runs, may make the first call of a pool."""
    if sniffio.current_async_library() == "trio":
        pytest.skip("asyncio's own")
    loop = asyncio.get_running_loop()
    for pool in (AsyncPool(1), AsyncPool(executor=concurrent.futures.ThreadPoolExecutor)):
        async with pool:
            heard: asyncio.Future[int] = loop.create_future()
            call = partial(pool.apply_async, tasks.square, (3,), callback=heard.set_result)
            loop.call_soon(call, context=Context())  # anyio has noted nothing there, as under asyncio.run
            with anyio.fail_after(10):
                assert await heard == 9


async def test_another_loop() -> None:
    """A pool belongs to the loop of its first call, and says so elsewhere."""
    async with AsyncPool(1) as pool:
        await pool.apply(tasks.square, (1,))

        def elsewhere() -> None:
            for call in (pool.apply, pool.map):
                with pytest.raises(RuntimeError, match="another event loop"):
                    anyio.run(call, tasks.square, (1,))
            for iterate in (pool.imap, pool.stream):
                with pytest.raises(RuntimeError, match="another event loop"):
                    iterate(tasks.square, (1,))

        await anyio.to_thread.run_sync(elsewhere)
