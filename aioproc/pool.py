"""AsyncPool: ``multiprocessing.Pool``, awaitable, over workers of its own or any executor."""

from __future__ import annotations

import os
from collections.abc import AsyncIterable, Awaitable, Callable, Iterable, Mapping
from concurrent.futures import Executor
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, NoReturn, ParamSpec, Self, TypeVar, cast, overload

from aioproc._kernel.arguments import arguments, integer, keywords, not_callable, seconds
from aioproc._kernel.chunks import run_chunk, run_chunk_async
from aioproc._kernel.waiting import shielded
from aioproc._kernel.wire import Call, awaits_and_returns, is_asynchronous
from aioproc.engine import Books, Engine
from aioproc.iteration import Results, Stream
from aioproc.orders import Item, PoolStats, Settings, name_of
from aioproc.results import AsyncResult, Settled, not_to_be_pickled

if TYPE_CHECKING:
    from aioproc._kernel.background import Loop, Stop

__all__ = ["AsyncPool", "AsyncResult"]

P = ParamSpec("P")
T = TypeVar("T")
S = TypeVar("S")

Input = Iterable[S] | AsyncIterable[S]
ExecutorOrFactory = Executor | Callable[[], Executor]

CHUNKS_PER_WORKER: Final = 4


class AsyncPool:
    """A pool of worker processes.

    Args:
        processes: How many workers; None: one for each CPU that this process may use.
        initializer: Called first in each worker, with ``initargs``. When it raises, every call fails with
            WorkerDied, whose cause is that exception with its traceback.
        initargs: Its arguments.
        maxtasksperchild: A worker is replaced after so many calls; None: never.
        context: How workers are started (`get_context`); None: the default way.
        executor: A ``concurrent.futures.Executor`` to run the calls instead of workers of our own, or a
            function that makes one; with a function, a broken executor is replaced.
        tasks_per_worker: How many coroutines a worker runs at a time. Plain functions run one at a time.
        max_pending: Most calls that may wait for a worker; past it `submit` and `apply_async` raise
            QueueFull, and what is awaited waits for room.

    Raises:
        ValueError: A number below its least, or ``executor`` together with what only our own workers have.
        TypeError: ``initializer`` or ``executor`` is nothing that can be called, ``context`` is no context.

    Workers start with the first call. A pool belongs to the event loop of its first call. With an asyncio
    loop that is shut down (as by ``asyncio.run``), a pool of our own workers that was left open ends.

    If cancelled: A call whose await is cancelled is stopped: it is never started, or its coroutine is
    cancelled, or its worker is killed and replaced.
    If a peer dies: A worker's death fails the one call that it had in hand (WorkerDied), and it is
    replaced. When this process ends in any way, its workers end at once.

    Example:
        >>> async def main():
        ...     async with AsyncPool(2) as pool:
        ...         print(await pool.apply(pow, (2, 5)))
        ...         print(await pool.map(abs, [-1, -2, -3]))
        >>> run(main)
        32
        [1, 2, 3]
    """

    _context: Any = None  # a Context's own class has it

    def __init__(
        self,
        processes: int | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: Iterable[Any] = (),
        maxtasksperchild: int | None = None,
        context: Any = None,
        *,
        executor: ExecutorOrFactory | None = None,
        tasks_per_worker: int = 1,
        max_pending: int | None = None,
    ) -> None:
        _at_least(
            1, processes=processes, maxtasksperchild=maxtasksperchild, tasks_per_worker=tasks_per_worker
        )
        _at_least(0, max_pending=max_pending)
        _plain(initializer=initializer)
        if context is not None and not hasattr(context, "get_start_method"):
            raise TypeError(f"context must be what get_context() returns, not {context!r}")
        initargs = arguments("initargs", initargs)
        if executor is None:
            count = processes or _cpus()

            def make(loop: Loop) -> Engine:
                from aioproc.context import get_context
                from aioproc.workers import Workers

                method: Any = (context or self._context or get_context()).get_start_method()
                return Workers(loop, count, initializer, initargs, maxtasksperchild, method, tasks_per_worker)
        else:
            given = {"processes": processes, "initializer": initializer, "initargs": initargs or None}
            given |= {"maxtasksperchild": maxtasksperchild, "context": context}
            given["tasks_per_worker"] = tasks_per_worker if tasks_per_worker > 1 else None
            _refuse_with_executor(given, executor)

            def make(loop: Loop) -> Engine:
                from aioproc.executors import Executors

                return Executors(loop, executor, books.wake_for_room)

        self._books = books = Books(make, max_pending)
        self._settings = Settings()

    # One call

    @overload
    async def apply(
        self,
        func: Callable[..., Awaitable[T]],
        args: Iterable[Any] = (),
        kwds: Mapping[str, Any] = {},
    ) -> T: ...

    @overload
    async def apply(
        self, func: Callable[..., T], args: Iterable[Any] = (), kwds: Mapping[str, Any] = {}
    ) -> T: ...

    async def apply(
        self, func: Callable[..., Any], args: Iterable[Any] = (), kwds: Mapping[str, Any] = {}
    ) -> Any:
        """Call ``func(*args, **kwds)`` in a worker and wait for its result.

        Raises:
            Exception: The call's own, with the worker's traceback as its cause.
            RemoteError: It could not be pickled, or is no Exception; this is its text.
            WorkerDied: Its worker died.
            TimeoutError: ``options(timeout=...)`` ran out; the call was stopped.
            ValueError: The pool is closed.
            TypeError: ``func`` is not callable, ``args`` has no order or is a string, ``kwds`` no mapping.

        If cancelled: The call is stopped.
        If a peer dies: WorkerDied, for this call only; see ``options(retries=...)``.
        Cost: One message to the worker and one back.
        """
        books = self._books
        books.check_open()
        call = _call(func, args, kwds)
        if not books.has_room():
            await books.room()
        return await books.take_on(call, self._settings)

    @overload
    def apply_async(
        self,
        func: Callable[..., Awaitable[T]],
        args: Iterable[Any] = (),
        kwds: Mapping[str, Any] = {},
        callback: Callable[[T], object] | None = None,
        error_callback: Callable[[BaseException], object] | None = None,
    ) -> AsyncResult[T]: ...

    @overload
    def apply_async(
        self,
        func: Callable[..., T],
        args: Iterable[Any] = (),
        kwds: Mapping[str, Any] = {},
        callback: Callable[[T], object] | None = None,
        error_callback: Callable[[BaseException], object] | None = None,
    ) -> AsyncResult[T]: ...

    def apply_async(
        self,
        func: Callable[..., Any],
        args: Iterable[Any] = (),
        kwds: Mapping[str, Any] = {},
        callback: Callable[[Any], object] | None = None,
        error_callback: Callable[[BaseException], object] | None = None,
    ) -> AsyncResult[Any]:
        """Call ``func(*args, **kwds)`` in a worker, and return at once.

        Args:
            func: A plain function, or an ``async def`` that runs in the worker's event loop.
            args: Its positional arguments.
            kwds: Its keyword arguments.
            callback: Called with the result, in this loop's thread; it must not block.
            error_callback: Called with the exception, likewise. A callback that raises is reported to the
                log "aioproc".

        Raises:
            QueueFull: ``max_pending`` calls wait already.
            TypeError: As for `apply`; or a callback is no plain function: nobody would await what it returns.
            ValueError: The pool is closed.
        """
        self._books.need_room()
        _plain(callback=callback, error_callback=error_callback)
        call = _call(func, args, kwds)
        return self._books.take_on(call, self._settings, callback=callback, error_callback=error_callback)

    @overload
    def submit(
        self, func: Callable[P, Awaitable[T]], /, *args: P.args, **kwargs: P.kwargs
    ) -> AsyncResult[T]: ...

    @overload
    def submit(self, func: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> AsyncResult[T]: ...

    def submit(self, func: Callable[..., Any], /, *args: Any, **kwargs: Any) -> AsyncResult[Any]:
        """Call ``func(*args, **kwargs)`` in a worker, and return at once; see `apply_async`."""
        self._books.need_room()
        return self._books.take_on((func, args, kwargs), self._settings)

    # Many calls

    @overload
    async def map(
        self, func: Callable[[S], Awaitable[T]], iterable: Input[S], chunksize: int | None = None
    ) -> list[T]: ...

    @overload
    async def map(
        self, func: Callable[[S], T], iterable: Input[S], chunksize: int | None = None
    ) -> list[T]: ...

    async def map(
        self, func: Callable[[Any], Any], iterable: Input[Any], chunksize: int | None = None
    ) -> list[Any]:
        """Call ``func`` with each item, and wait for the list of the results, in order.

        Args:
            func: A plain function or an ``async def``.
            iterable: An iterable or an async iterable; it must end.
            chunksize: Items in one message; None: a quarter of a worker's share, one for an ``async def``.
                The time of ``options(timeout=...)`` is that of each chunk; see `options`.

        Raises:
            BaseException: The first exception, by the order of the items; what still waits is not started.
            WorkerDied: A worker died with a chunk in hand.
            ValueError: The pool is closed, or ``chunksize`` is below 1.

        If cancelled: Everything that this call started is stopped.
        """
        self._books.check_open()
        return await self._collect(func, iterable, chunksize, star=False)

    @overload
    async def starmap(
        self, func: Callable[..., Awaitable[T]], iterable: Input[Iterable[Any]], chunksize: int | None = None
    ) -> list[T]: ...

    @overload
    async def starmap(
        self, func: Callable[..., T], iterable: Input[Iterable[Any]], chunksize: int | None = None
    ) -> list[T]: ...

    async def starmap(
        self, func: Callable[..., Any], iterable: Input[Iterable[Any]], chunksize: int | None = None
    ) -> list[Any]:
        """As `map` (see `map`), but each item is a tuple of arguments."""
        self._books.check_open()
        return await self._collect(func, iterable, chunksize, star=True)

    def map_async(
        self,
        func: Callable[[Any], Any],
        iterable: Input[Any],
        chunksize: int | None = None,
        callback: Callable[[list[Any]], object] | None = None,
        error_callback: Callable[[BaseException], object] | None = None,
    ) -> AsyncResult[list[Any]]:
        """As `map`, but return at once; callbacks as for `apply_async`."""
        return self._collect_async(func, iterable, chunksize, False, callback, error_callback)

    def starmap_async(
        self,
        func: Callable[..., Any],
        iterable: Input[Iterable[Any]],
        chunksize: int | None = None,
        callback: Callable[[list[Any]], object] | None = None,
        error_callback: Callable[[BaseException], object] | None = None,
    ) -> AsyncResult[list[Any]]:
        """As `starmap`, but return at once; callbacks as for `apply_async`."""
        return self._collect_async(func, iterable, chunksize, True, callback, error_callback)

    @overload
    def imap(
        self, func: Callable[[S], Awaitable[T]], iterable: Input[S], chunksize: int = 1
    ) -> Results[T]: ...

    @overload
    def imap(self, func: Callable[[S], T], iterable: Input[S], chunksize: int = 1) -> Results[T]: ...

    def imap(self, func: Callable[[Any], Any], iterable: Input[Any], chunksize: int = 1) -> Results[Any]:
        """Call ``func`` with each item; an async iterator over the results, in order.

        The input, an iterable or an async iterable, endless if you like, is read only as fast as results are
        taken. ``len()`` works when the input has a length.

        Raises:
            ValueError: The pool is closed, or ``chunksize`` is below 1.
            TypeError: The input is no iterable of either kind.
        """
        self._books.check_open()
        return self._results(func, iterable, chunksize, star=False, ordered=True)

    @overload
    def imap_unordered(
        self, func: Callable[[S], Awaitable[T]], iterable: Input[S], chunksize: int = 1
    ) -> Results[T]: ...

    @overload
    def imap_unordered(
        self, func: Callable[[S], T], iterable: Input[S], chunksize: int = 1
    ) -> Results[T]: ...

    def imap_unordered(
        self, func: Callable[[Any], Any], iterable: Input[Any], chunksize: int = 1
    ) -> Results[Any]:
        """As `imap`, but results come as they are ready."""
        self._books.check_open()
        return self._results(func, iterable, chunksize, star=False, ordered=False)

    def stream(self, func: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Stream[Any]:
        """Run a generator or async generator in a worker; an async iterator over what it yields.

        It starts with the first item that is asked for, and runs at most a few items ahead of its consumer.
        When the consumer leaves, the generator is closed in its worker.

        Raises:
            ValueError: The pool is closed.
            TypeError: ``func`` is an ``async def`` without ``yield``.
            NotImplementedError: The pool's executor cannot do this.

        If a peer dies: WorkerDied, after the items that came before.
        """
        books, settings, name = self._books, self._settings, name_of(func, self._settings)
        books.check_open()
        call = func, args, kwargs
        books.order(call, settings, _nobody)  # an error now, if it cannot
        if awaits_and_returns(func):
            raise TypeError(f"func must be a generator function, one that yields, not {func!r}")

        def take_on(item: Item, settled: Settled) -> AsyncResult[Any]:
            return books.take_on(call, settings, name, settled=settled, item=item)

        return Stream(books, take_on, name)

    def _results(
        self, func: Callable[..., Any], iterable: Input[Any], chunksize: int, star: bool, ordered: bool
    ) -> Results[Any]:
        _at_least(1, chunksize=chunksize)
        if not callable(func):
            not_callable("func", func, "map({}, ...)")
        run: Callable[..., Any] = run_chunk_async if is_asynchronous(func) else run_chunk
        books, settings, name = self._books, self._settings, name_of(func, self._settings)

        def take_on(chunk: list[Any], settled: Settled) -> AsyncResult[Any]:
            if chunksize > 1:
                call: Call = run, (func, star, chunk), {}
            else:
                call = func, tuple(chunk[0]) if star else (chunk[0],), {}
            return books.take_on(call, settings, name, settled=settled)

        window = CHUNKS_PER_WORKER * books.engine.capacity
        return Results(books, iterable, chunksize, take_on, name, ordered, window)

    async def _collect(
        self, func: Callable[..., Any], iterable: Input[Any], chunksize: int | None, star: bool
    ) -> list[Any]:
        if not isinstance(iterable, AsyncIterable) and not hasattr(iterable, "__len__"):
            iterable = list(iterable)
        if chunksize is None:
            chunksize = self._chunksize(func, iterable)
        results = self._results(func, iterable, chunksize, star, ordered=True)
        with self._books.mapping():
            try:
                return await results.rest()
            except Exception:
                await results.aclose()
                raise
            except BaseException:
                results.stop()
                raise

    def _chunksize(self, func: Callable[..., Any], iterable: Any) -> int:
        if is_asynchronous(func) or isinstance(iterable, AsyncIterable):
            return 1
        return max(1, -(-len(iterable) // (self._books.engine.capacity * CHUNKS_PER_WORKER)))

    def _collect_async(
        self,
        func: Callable[..., Any],
        iterable: Input[Any],
        chunksize: int | None,
        star: bool,
        callback: Callable[[list[Any]], object] | None,
        error_callback: Callable[[BaseException], object] | None,
    ) -> AsyncResult[list[Any]]:
        from concurrent.futures import CancelledError

        self._books.check_open()
        _at_least(1, chunksize=chunksize)
        _plain(callback=callback, error_callback=error_callback)
        stop: Stop | None = None

        def cancel(whole: AsyncResult[Any]) -> bool:
            whole._raise(CancelledError())
            if stop is not None:
                stop()
            return True

        async def collect() -> None:
            try:
                whole._settle(await self._collect(func, iterable, chunksize, star))
            except Exception as failure:
                whole._raise(failure)
            except BaseException:  # somebody cancels all tasks
                whole._raise(CancelledError())
                raise

        whole: AsyncResult[list[Any]] = self._books.whole(
            name_of(func, self._settings), cancel, callback, error_callback
        )
        stop = self._books.loop.spawn(collect, f"map {whole.name}")
        return whole

    # Settings and figures

    def options(
        self,
        timeout: float | None = None,
        retries: int = 0,
        grace: float = 0.0,
        name: str | None = None,
    ) -> Self:
        """The same pool, with these settings for the calls made through it.

        Args:
            timeout: Seconds from the call on; then it is stopped and raises TimeoutError. Of `map` and its
                kind this is each chunk, from when it is handed in, so with its wait for a worker: a limit
                for each item takes ``chunksize=1``, one for the whole ``anyio.fail_after`` around it.
            retries: How often a call whose worker died is run again; a stream, only before its first item.
            grace: Seconds that a plain function has for its ``finally``, after a KeyboardInterrupt in it,
                when it must be stopped; 0 kills its worker at once.
            name: What the calls are named in statistics.

        Raises:
            ValueError: A negative number.
        """
        _at_least(0, retries=retries)
        if timeout is not None:
            seconds("timeout", timeout)
        seconds("grace", grace)
        view = object.__new__(type(self))
        vars(view).update(vars(self))
        view._settings = replace(self._settings, timeout=timeout, retries=retries, grace=grace, name=name)
        return view

    def stats(self) -> PoolStats:
        """What the workers do and how many calls wait, run and are done."""
        return self._books.stats()

    # The end

    def close(self) -> None:
        """Take on no more calls; what was taken on is done. Twice is harmless.

        What an `imap` has not yet read of its input was not taken on: iterate it first.
        """
        self._books.close()

    def terminate(self) -> None:
        """Cancel every call and end the workers at once (those with a ``grace`` within it)."""
        self._books.terminate()

    async def join(self) -> None:
        """Wait until every call is done and every worker has ended.

        Raises:
            ValueError: Neither `close` nor `terminate` was called.

        If cancelled: The pool goes on ending.
        """
        await self._books.join()

    async def __aenter__(self) -> Self:
        self._books.check_open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.close()
            try:
                await self.join()
            except BaseException:
                self.terminate()
                await shielded(self.join)
                raise
        else:
            self.terminate()
            await shielded(self.join)

    def __reduce__(self) -> NoReturn:
        not_to_be_pickled()

    def __repr__(self) -> str:
        figures = self.stats()
        return (
            f"<AsyncPool {self._books.state}, {len(figures.workers)} workers, "
            f"{figures.running} running, {figures.queued} queued>"
        )


def _call(func: Callable[..., Any], args: Any, kwds: Any) -> Call:
    return (
        func,
        args if type(args) is tuple else arguments("args", args),
        dict(kwds) if type(kwds) is dict else keywords("kwds", kwds),
    )


def _nobody(value: Any, failure: BaseException | None) -> None:
    """The consumer of a stream that is not started yet."""


def _cpus() -> int:
    count = getattr(os, "process_cpu_count", None)
    return cast("int", count()) if count else len(os.sched_getaffinity(0))


def _at_least(least: int, **numbers: int | None) -> None:
    for name, number in numbers.items():
        if number is not None:
            integer(name, number, least)


def _plain(**functions: Callable[..., object] | None) -> None:
    for name, function in functions.items():
        if function is not None and (not callable(function) or is_asynchronous(function)):
            raise TypeError(f"{name} must be a plain function, not {function!r}")


def _refuse_with_executor(given: dict[str, Any], executor: Any) -> None:
    if not isinstance(executor, Executor) and not callable(executor):
        raise TypeError(f"executor must be an Executor or a function that makes one, not {executor!r}")
    for name, value in given.items():
        if value is not None:
            raise ValueError(f"{name} belongs to our own workers; give it to the executor")
