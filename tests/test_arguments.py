"""Arguments that cannot be: refused at once, by name and value, with the stdlib's types."""

from __future__ import annotations

import multiprocessing
import pickle
import re
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from queue import Empty, Full
from threading import BrokenBarrierError
from types import MappingProxyType
from typing import Any

import anyio
import pytest

import aioproc

NUMBERS = {
    "maxsize": (aioproc.Queue, aioproc.JoinableQueue),
    "value": (aioproc.Semaphore, aioproc.BoundedSemaphore),
    "parties": (aioproc.Barrier,),
    "processes": (aioproc.AsyncPool,),
    "n": (lambda n: aioproc.Semaphore().release(n),),
}
MAKERS = [(name, make) for name, makers in NUMBERS.items() for make in makers]


@pytest.mark.parametrize(("name", "make"), MAKERS)
@pytest.mark.parametrize("value", [1.5, "2", [3]])
def test_not_a_number(name: str, make: Callable[[Any], object], value: Any) -> None:
    """What is no integer is a TypeError that says which argument, and what it was."""
    with pytest.raises(TypeError) as caught:
        make(value)
    assert str(caught.value) == f"{name} must be an integer, not {value!r}"


@pytest.mark.parametrize(("name", "make"), [one for one in MAKERS if one[0] != "maxsize"])
def test_too_small(name: str, make: Callable[[Any], object]) -> None:
    """A number below its least is a ValueError that says the least, and what it was."""
    least = 0 if name == "value" else 1
    with pytest.raises(ValueError, match=f"^{name} must be {least} or more, not -1$"):
        make(-1)


def test_numbers_of_other_kinds() -> None:
    """What can stand for an integer may: a bool, a number of numpy."""
    numpy = pytest.importorskip("numpy")
    queue = aioproc.Queue[int](numpy.int64(2)).sync
    queue.put_many([1, 2])
    with pytest.raises(aioproc.QueueFull):
        queue.put(3, block=False)
    assert aioproc.Barrier(True).parties == 1
    assert queue.get_many(numpy.int8(5)) == [1, 2]


@pytest.mark.parametrize("kind", ["Queue", "JoinableQueue", "SimpleQueue"])
def test_a_twin_has_the_names_of_the_stdlib(kind: str) -> None:
    """Who hands over what he puts, and when to give up, by name, may do so here as well."""
    for queue in (getattr(aioproc, kind)().sync, getattr(multiprocessing, kind)()):
        queue.put(obj=1)
        assert queue.get() == 1
        if kind != "SimpleQueue":
            queue.put(obj=2, block=False, timeout=None)
            queue.put_nowait(obj=3)
            assert [queue.get(block=True, timeout=10) for _ in range(2)] == [2, 3]
            queue.close()
            queue.join_thread()


@pytest.mark.anyio
async def test_get_many_of_none(anyio_backend: Any) -> None:
    """At least one item can be taken, so fewer cannot be asked for; nothing is taken."""
    queue: aioproc.Queue[int] = aioproc.Queue()
    await queue.put(1)
    for most in (0, -1):
        with pytest.raises(ValueError, match=f"most must be 1 or more, not {most}"):
            await queue.get_many(most)
        with pytest.raises(ValueError, match=f"most must be 1 or more, not {most}"):
            queue.sync.get_many(most)
    assert await queue.get_many(1) == [1]


@pytest.mark.anyio
@pytest.mark.parametrize("maxsize", [0, 2])
async def test_a_closed_queue_says_so(anyio_backend: Any, maxsize: int) -> None:
    """Each operation in the same words."""
    queue: aioproc.Queue[int] = aioproc.Queue(maxsize)
    await queue.put(1)
    queue.close()
    for use in (queue.sync.put, queue.sync.get_many, queue.put_nowait):
        with pytest.raises(ValueError, match="the queue is closed in this process"):
            use(2)
    for wait in (queue.put, queue.get_many):
        with pytest.raises(ValueError, match="the queue is closed in this process"):
            await wait(2)


@pytest.mark.parametrize("lock", [5, multiprocessing.Lock()])
def test_condition_of_another_lock(lock: Any) -> None:
    """A Condition needs one of ours, and says so."""
    with pytest.raises(TypeError, match="a Lock or an RLock of aioproc, not"):
        aioproc.Condition(lock)


@pytest.mark.parametrize("timeout", ["1", float("nan"), -1])
def test_seconds(timeout: Any) -> None:
    """A time limit that is none is refused by name and value."""
    pool = aioproc.AsyncPool(1)
    with pytest.raises((TypeError, ValueError), match=f"timeout must be a number of seconds.*{timeout}"):
        pool.options(timeout=timeout)


def waits_async(timeout: Any) -> dict[str, Callable[[], Any]]:
    """Whatever waits in a loop, where it would have to."""
    full, ends = aioproc.Queue[int](1), aioproc.Pipe()
    full.put_nowait(1)
    return {
        "get": partial(aioproc.Queue[int]().get, timeout=timeout),
        "get, bounded": partial(aioproc.Queue[int](1).get, timeout=timeout),
        "put": partial(full.put, 2, timeout=timeout),
        "joinable": partial(aioproc.JoinableQueue[int]().get, timeout=timeout),
        "lock": partial(aioproc.Lock().acquire, timeout=timeout),
        "rlock": partial(aioproc.RLock().acquire, timeout=timeout),
        "semaphore": partial(aioproc.Semaphore(0).acquire, timeout=timeout),
        "bounded": partial(aioproc.BoundedSemaphore(0).acquire, timeout=timeout),
        "event": partial(aioproc.Event().wait, timeout),
        "barrier": partial(aioproc.Barrier(2).wait, timeout),
        "poll": partial(ends[0].poll, timeout),
        "wait": partial(aioproc.wait, ends, timeout),
    }


def waits_sync(timeout: Any) -> dict[str, Callable[[], Any]]:
    """The same of the twins."""
    full, ends = aioproc.Queue[int](1).sync, aioproc.Pipe()
    full.put(1)
    return {
        "get": partial(aioproc.Queue[int]().sync.get, timeout=timeout),
        "put": partial(full.put, 2, timeout=timeout),
        "lock": partial(aioproc.Lock().sync.acquire, timeout=timeout),
        "rlock": partial(aioproc.RLock().sync.acquire, timeout=timeout),
        "semaphore": partial(aioproc.Semaphore(0).sync.acquire, timeout=timeout),
        "bounded": partial(aioproc.BoundedSemaphore(0).sync.acquire, timeout=timeout),
        "event": partial(aioproc.Event().sync.wait, timeout),
        "barrier": partial(aioproc.Barrier(2).sync.wait, timeout),
        "poll": partial(ends[0].sync.poll, timeout),
        "wait": partial(aioproc.wait.sync, ends, timeout),
    }


@pytest.mark.anyio
@pytest.mark.parametrize("timeout", ["1", float("nan"), [1]])
async def test_no_time_limit(anyio_backend: Any, timeout: Any) -> None:
    """What is no number of seconds is refused in the same words, whoever would wait."""
    words = pytest.raises((TypeError, ValueError), match=r"^timeout must be a number of seconds")
    for wait in waits_async(timeout).values():
        with words:
            await wait()
    for wait in waits_sync(timeout).values():
        with words:
            wait()
    condition = aioproc.Condition()
    async with condition:
        for wait in (condition.wait, partial(condition.wait_for, bool)):
            with words:
                await wait(timeout=timeout)
    with condition.sync:
        for wait in (condition.sync.wait, partial(condition.sync.wait_for, bool)):
            with words:
                wait(timeout=timeout)
    with words:
        aioproc.Barrier(2, timeout=timeout)


@pytest.mark.anyio
async def test_less_than_no_time(anyio_backend: Any) -> None:
    """A time limit below zero is none to wait at all, and no error."""
    for wait in waits_async(-1).values():
        with suppress(aioproc.QueueEmpty, aioproc.QueueFull, BrokenBarrierError):
            assert await wait() in (True, False, [])
    for wait in waits_sync(-1).values():
        with suppress(Empty, Full, BrokenBarrierError):
            assert wait() in (True, False, [])


@pytest.mark.anyio
async def test_a_barrier_does_not_break_by_a_bad_limit(anyio_backend: Any) -> None:
    """Who gives one has not arrived, so nobody counts on it."""
    barrier = aioproc.Barrier(2)
    async with anyio.create_task_group() as group:
        group.start_soon(barrier.wait)
        await anyio.wait_all_tasks_blocked()
        for wait in (barrier.wait("1"), barrier.wait(float("nan"))):  # type: ignore[arg-type]
            with pytest.raises((TypeError, ValueError)):
                await wait
        assert barrier.n_waiting == 1
        await barrier.wait()


@pytest.mark.anyio
async def test_a_limit_for_a_result(anyio_backend: Any) -> None:
    """The call goes on whatever the limit."""
    async with aioproc.AsyncPool(1) as pool:
        result = pool.submit(pow, 2, 3)
        for wait in (result.get, result.wait):
            for timeout in ("1", float("nan")):
                with pytest.raises((TypeError, ValueError), match="timeout must be a number of seconds"):
                    await wait(timeout)  # type: ignore[arg-type]
        assert await result == 8


@pytest.mark.anyio
async def test_grace(anyio_backend: Any) -> None:
    """Its own name is said."""
    async with aioproc.Process(target=pow, args=(2, 3)) as process:
        with pytest.raises(ValueError, match=r"^grace must be a number of seconds from 0, not -1$"):
            await process.stop(-1)
        with pytest.raises(TypeError, match=r"^grace must be a number of seconds, not '1'$"):
            await process.stop("1")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"^grace must be a number of seconds, not '1'$"):
        aioproc.ProcessGroup(grace="1")  # type: ignore[arg-type]


def plain() -> int:
    """No coroutine function."""
    return 1


async def asynchronous(number: int = 0) -> int:
    """A coroutine function."""
    return number


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_run(backend: Any) -> None:
    """What it takes is a coroutine function, or what returns something to be awaited; not yet called."""
    words = r"^run\(\) takes the coroutine function itself: run\(asynchronous\), not run\(asynchronous\(\)\)$"
    with pytest.raises(TypeError, match=words):
        aioproc.run(asynchronous(), backend=backend)  # type: ignore[arg-type]
    for main in (plain, 5):
        with pytest.raises(TypeError, match=r"^main must be an async def, not "):
            aioproc.run(main, backend=backend)  # type: ignore[arg-type]
    assert aioproc.run(partial(asynchronous, 2), backend=backend) == 2
    assert aioproc.run(lambda: asynchronous(3), backend=backend) == 3


@pytest.mark.anyio
async def test_a_call_in_place_of_a_function(anyio_backend: Any) -> None:
    """A coroutine is closed, and it is said how to write it."""
    words = partial(pytest.raises, TypeError)
    with words(match=r"not <coroutine .*\(write target=asynchronous, args=\(\.\.\.\)\)$"):
        aioproc.Process(target=asynchronous(2))  # type: ignore[call-overload]
    pool: Any = aioproc.AsyncPool(1)
    for take in (pool.submit, pool.apply_async, pool.stream):
        with words(match=r"^func must be callable, not .*\(write apply\(asynchronous, \(\.\.\.\)\) or "):
            take(asynchronous(2))
    with words(match=r"^func must be callable"):
        await pool.apply(asynchronous(2))
    for take in (pool.map, pool.starmap):
        with words(match=r"\(write map\(asynchronous, \.\.\.\)\)$"):
            await take(asynchronous(2), [1, 2])
    with words(match=r"^func must be callable, not 5$"):
        pool.imap(5, [1])


@pytest.mark.anyio
@pytest.mark.parametrize("args", [3, "ab", b"ab", None, {1, 2}])
async def test_arguments_that_are_none(anyio_backend: Any, args: Any) -> None:
    """A pool refuses them as a Process does, and nothing is started."""
    words = partial(pytest.raises, TypeError)
    pool: Any = aioproc.AsyncPool(1)
    text = re.escape(f"args must be a tuple of arguments, not {args!r} (one is written args=(x,))")
    with words(match=f"^{text}$"):
        aioproc.Process(target=pow, args=args)
    with words(match=f"^{text}$"):
        await pool.apply(pow, args)
    with words(match=f"^{text}$"):
        pool.apply_async(pow, args)
    with words(match=r"^initargs must be a tuple of arguments, not "):
        aioproc.AsyncPool(1, print, args)
    with words(match=r"^kwds must be a mapping, not "):
        pool.apply_async(pow, (1, 2), args)
    assert pool.stats().workers == ()


@pytest.mark.anyio
async def test_arguments_in_another_shape(anyio_backend: Any) -> None:
    """Whatever has an order may stand for the tuple, and any mapping for the dict."""
    async with aioproc.AsyncPool(1) as pool:
        assert await pool.apply(pow, [2, 3]) == 8
        assert await pool.apply(pow, iter((2, 3)), MappingProxyType({"mod": 5})) == 3


@pytest.mark.anyio
async def test_a_stream_of_a_coroutine_function(anyio_backend: Any) -> None:
    """It yields nothing, and is told so before it is called."""
    pool = aioproc.AsyncPool(1)
    for func in (asynchronous, partial(asynchronous, 2)):
        with pytest.raises(TypeError, match=r"^func must be a generator function, one that yields, not "):
            pool.stream(func)
    assert pool.stats().queued == 0


@pytest.mark.anyio
async def test_a_stream_of_what_yields_nothing(anyio_backend: Any) -> None:
    """What it returned, and what to call instead."""
    async with aioproc.AsyncPool(1) as pool:
        with pytest.raises(TypeError, match=r"returned 8, and stream\(\) takes .* apply\(\) takes this$"):
            async for _ in pool.stream(pow, 2, 3):
                pytest.fail("it yields nothing")
        assert [item async for item in pool.stream(list, "ab")] == ["a", "b"]


@pytest.mark.anyio
async def test_what_stays_in_its_process(anyio_backend: Any) -> None:
    """A pool, its results and a group are not pickled, and say so as multiprocessing does."""
    async with aioproc.AsyncPool(1) as pool, aioproc.ProcessGroup() as group:
        for kept in (pool, pool.options(retries=1), pool.submit(pow, 2, 3), group):
            with pytest.raises(NotImplementedError, match="cannot be passed between processes or pickled"):
                pickle.dumps(kept)
            with pytest.raises(NotImplementedError, match="cannot be passed between processes or pickled"):
                await pool.apply(id, (kept,))
