"""The pools that are compared, each used the way its own documentation shows, behind one small interface."""

from __future__ import annotations

import asyncio
import multiprocessing
import pickle
import socket
from collections import deque
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from importlib.util import find_spec
from itertools import cycle
from typing import Any, Final

import anyio
import anyio.to_process

import aioproc
from benchmarks.loops import LOOPS, named
from benchmarks.record import Record

BLOCKING: Final = "blocking"
TRIO: Final = "trio"
FORKSERVER: Any = multiprocessing.get_context("forkserver")


class Pool:
    """A contender, open for one turn.

    Attributes:
        loop: Where its calls are awaited; "blocking": they are not.
        lazy: Calls in its slowest turn take milliseconds, so it gets fewer.
        coroutines: It runs coroutine functions and no others.
        small: It takes small calls only.
    """

    loop = "asyncio"
    lazy = False
    coroutines = False
    small = False

    def __init__(self, workers: int) -> None:
        self.workers = workers

    async def open(self) -> None:
        """Make the pool."""

    async def call(self, func: Callable[..., Any], arg: Any) -> Any:
        """One call's result."""

    async def close(self) -> None:
        """End the pool."""


class Ours(Pool):
    """aioproc.AsyncPool."""

    async def open(self) -> None:
        self._pool = aioproc.AsyncPool(self.workers)

    async def call(self, func: Callable[..., Any], arg: Any) -> Any:
        return await self._pool.apply(func, (arg,))

    async def close(self) -> None:
        self._pool.close()
        await self._pool.join()


class BareLimit(Pool):
    """The same system calls in a loop, with pickle, without a library, and without a promise.

    A child waits in recv and answers; the loop calls back when an answer is there. No call can be taken back,
    no death is noticed, and what a call raises ends the child.
    """

    small = True

    async def open(self) -> None:
        self._turns = cycle([_Echo() for _ in range(self.workers)])
        self._all = [next(self._turns) for _ in range(self.workers)]

    async def call(self, func: Callable[..., Any], arg: Any) -> Any:
        return await next(self._turns).ask(func, arg)

    async def close(self) -> None:
        for echo in self._all:
            echo.close()


class _Echo:
    def __init__(self) -> None:
        self._here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for end in (self._here, there):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        self._process = FORKSERVER.Process(target=_answer, args=(there,))
        self._process.start()
        there.close()
        self._asked: deque[asyncio.Future[Any]] = deque()
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._here, self._came)

    def ask(self, func: Callable[..., Any], arg: Any) -> asyncio.Future[Any]:
        future: asyncio.Future[Any] = self._loop.create_future()
        self._asked.append(future)
        self._here.send(pickle.dumps((func, arg), 5))
        return future

    def _came(self) -> None:
        self._asked.popleft().set_result(pickle.loads(self._here.recv(1 << 16)))

    def close(self) -> None:
        self._loop.remove_reader(self._here)
        self._here.close()
        self._process.join()


def _answer(there: socket.socket) -> None:
    while packet := there.recv(1 << 16):
        func, arg = pickle.loads(packet)
        there.send(pickle.dumps(func(arg), 5))


class RunInExecutor(Pool):
    """The stdlib's ProcessPoolExecutor by run_in_executor; its default start method on Linux from 3.14 on."""

    async def open(self) -> None:
        self._pool = ProcessPoolExecutor(self.workers, FORKSERVER)

    async def call(self, func: Callable[..., Any], arg: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._pool, func, arg)

    async def close(self) -> None:
        self._pool.shutdown()


class PoolInThreads(Pool):
    """multiprocessing.Pool, each call in a thread."""

    async def open(self) -> None:
        self._pool = FORKSERVER.Pool(self.workers)

    async def call(self, func: Callable[..., Any], arg: Any) -> Any:
        return await asyncio.to_thread(self._pool.apply, func, (arg,))

    async def close(self) -> None:
        self._pool.terminate()
        self._pool.join()


class Aioprocessing(Pool):
    """aioprocessing.AioPool."""

    async def open(self) -> None:
        import aioprocessing

        self._pool = aioprocessing.AioPool(self.workers, context=FORKSERVER)

    async def call(self, func: Callable[..., Any], arg: Any) -> Any:
        return await self._pool.coro_apply(func, (arg,))

    async def close(self) -> None:
        self._pool.terminate()
        await self._pool.coro_join()


class Aiomultiprocess(Pool):
    """aiomultiprocess.Pool, which looks for work and results by the clock."""

    lazy = coroutines = True

    async def open(self) -> None:
        import aiomultiprocess

        self._pool = aiomultiprocess.Pool(self.workers, loop_initializer=asyncio.new_event_loop)

    async def call(self, func: Callable[..., Any], arg: Any) -> Any:
        return await self._pool.apply(func, (arg,))

    async def close(self) -> None:
        self._pool.close()
        await self._pool.join()


class ToProcess(Pool):
    """anyio.to_process."""

    async def open(self) -> None:
        self._limiter = anyio.CapacityLimiter(self.workers)

    async def call(self, func: Callable[..., Any], arg: Any) -> Any:
        return await anyio.to_process.run_sync(func, arg, limiter=self._limiter)


class TrioParallel(Pool):
    """trio_parallel, which has no side but trio's."""

    loop = TRIO

    async def open(self) -> None:
        import trio

        self._limiter = trio.CapacityLimiter(self.workers)

    async def call(self, func: Callable[..., Any], arg: Any) -> Any:
        import trio_parallel

        return await trio_parallel.run_sync(func, arg, limiter=self._limiter)


class Loky(Pool):
    """loky's executor."""

    async def open(self) -> None:
        import loky

        self._pool = loky.ProcessPoolExecutor(self.workers)

    async def call(self, func: Callable[..., Any], arg: Any) -> Any:
        return await asyncio.wrap_future(self._pool.submit(func, arg))

    async def close(self) -> None:
        self._pool.shutdown()


class Pebble(Pool):
    """pebble.ProcessPool."""

    async def open(self) -> None:
        import pebble

        self._pool = pebble.ProcessPool(self.workers, context=FORKSERVER)

    async def call(self, func: Callable[..., Any], arg: Any) -> Any:
        return await asyncio.wrap_future(self._pool.submit(func, None, arg))

    async def close(self) -> None:
        self._pool.stop()
        self._pool.join()


class Mpire(Pool):
    """mpire.WorkerPool, whose callback tells the loop."""

    async def open(self) -> None:
        import mpire

        self._pool = mpire.WorkerPool(self.workers, start_method="forkserver")

    async def call(self, func: Callable[..., Any], arg: Any) -> Any:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()
        self._pool.apply_async(
            func,
            (arg,),
            callback=lambda result: loop.call_soon_threadsafe(future.set_result, result),
            error_callback=lambda error: loop.call_soon_threadsafe(future.set_exception, error),
        )
        return await future

    async def close(self) -> None:
        self._pool.terminate()


def peers(record: Record) -> dict[str, Callable[[int], Pool]]:
    """All that are installed: how each makes a pool of so many workers."""
    found: dict[str, type[Pool]] = {"aioproc": Ours, "bare limit": BareLimit}
    found["run_in_executor"] = RunInExecutor
    found["multiprocessing.Pool in threads"] = PoolInThreads
    found["anyio.to_process"] = ToProcess
    others: tuple[tuple[str, str, type[Pool]], ...] = (
        ("aioprocessing", "aioprocessing", Aioprocessing),
        ("aiomultiprocess", "aiomultiprocess", Aiomultiprocess),
        ("loky", "loky", Loky),
        ("pebble", "pebble", Pebble),
        ("mpire", "mpire", Mpire),
        ("trio-parallel", "trio_parallel", TrioParallel),
    )
    for name, module, kind in others:
        if find_spec(module):
            found[name] = kind
        else:
            record.leave_out(name, "not installed")
    makers: dict[str, Callable[[int], Pool]] = {}
    for name, kind in found.items():
        makers[name] = kind
        if "uvloop" in LOOPS and kind in (Ours, BareLimit, RunInExecutor, ToProcess):
            makers[named(name, "uvloop")] = _on_uvloop(kind)
    if find_spec("trio"):
        makers[named("aioproc", TRIO)] = _in_loop(Ours, TRIO)
    return makers


def _on_uvloop(kind: type[Pool]) -> Callable[[int], Pool]:
    return _in_loop(kind, "uvloop")


def _in_loop(kind: type[Pool], loop: str) -> Callable[[int], Pool]:
    def make(workers: int) -> Pool:
        pool = kind(workers)
        pool.loop = loop
        return pool

    return make
