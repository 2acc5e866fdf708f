"""Async iterators over a pool's results: of a map, and of a generator that runs in a worker."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator, Sized
from concurrent.futures import CancelledError
from functools import partial
from itertools import islice
from typing import Any, Generic, Self, TypeVar
from weakref import ref

import anyio

from aioproc._kernel.background import Audience, Stop, Ticket
from aioproc._kernel.waiting import shielded
from aioproc._kernel.weakly import weakly
from aioproc._kernel.wire import STREAM_AHEAD
from aioproc.engine import Books
from aioproc.orders import Item
from aioproc.results import AsyncResult, Settled

__all__ = ["Results", "Stream"]

T = TypeVar("T")


class _Iteration(Generic[T]):
    """Common to both: a consumer waits for news, and may leave at any time."""

    def __init__(self, books: Books) -> None:
        self._books = books
        self._loop = books.loop
        self._audience = Audience()

    def __aiter__(self) -> Self:
        return self

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Leave: what waits is never started, and no more results are kept."""
        self._leave()

    def _leave(self) -> None:
        raise NotImplementedError

    def _tell(self, *_: object) -> None:
        self._audience.tell(self._loop)


class Results(_Iteration[T]):
    """The results of `AsyncPool.imap` and `imap_unordered`, one at a time.

    ``len()`` is the number of results where the input has a length, so that a progress bar knows its total.

    If cancelled: Cancelling the wait for one result stops nothing; the iteration can go on.
    If a peer dies: WorkerDied comes out in the place of the result (of its whole chunk), and the iteration
    can go on.
    """

    _feeding: Stop | None = None  # also of one that could not be made
    _fed = False  # the input is being read, or closed

    def __init__(
        self,
        books: Books,
        source: Iterable[Any] | AsyncIterable[Any],
        chunksize: int,
        take_on: Callable[[list[Any], Settled], AsyncResult[Any]],
        name: str,
        ordered: bool,
        window: int,
    ) -> None:
        super().__init__(books)
        self._length = len(source) if isinstance(source, Sized) else None
        self._chunksize = chunksize
        self._take_on = take_on
        self._name = name
        self._ordered = ordered
        self._window = window
        self._single = chunksize == 1
        self._items: deque[T] = deque()
        self._pending: deque[AsyncResult[Any]] = deque()
        self._ended: deque[AsyncResult[Any]] = deque()
        self._failure: BaseException | None = None
        self._exhausted = False
        self._chunks: Iterator[list[Any]] | None = None
        self._told = weakly(self._one_ended)  # a consumer that leaves an `async for` just forgets us
        self._input: AsyncIterator[Any] | None = None
        self._wants: Ticket | None = None
        if isinstance(source, AsyncIterable):
            self._input = aiter(source)
        else:
            self._chunks = _chunks(iter(source), chunksize)
        books.iterations.add(self)

    def __len__(self) -> int:
        if self._length is None:
            raise TypeError("the input has no length, so neither have its results")
        return self._length

    def __bool__(self) -> bool:
        return True

    async def __anext__(self) -> T:
        if not self._items:
            await self._some()
        return self._items.popleft()

    async def rest(self) -> list[T]:
        """All results that are left, as a list: a chunk at a time, which is quicker than one by one."""
        found: list[T] = []
        try:
            while True:
                if not self._items:
                    await self._some()
                found += self._items
                self._items.clear()
        except StopAsyncIteration:
            return found

    async def _some(self) -> None:
        """Wait until there is at least one result; StopAsyncIteration when there are no more."""
        while not self._items:
            self._fill()
            result = self._next_ended()
            if result is not None:
                value = _opened(result)
                if self._single:
                    self._items.append(value)
                else:
                    self._items.extend(value)
            elif self._pending or not self._exhausted:
                if not self._pending and self._input is None:
                    await self._books.room()
                else:
                    await self._audience.news(self._loop)
            else:
                failure, self._failure = self._failure, None
                raise failure or StopAsyncIteration

    def _next_ended(self) -> AsyncResult[Any] | None:
        if self._ordered:
            return self._pending.popleft() if self._pending and self._pending[0].ready() else None
        if not self._ended:
            return None
        result = self._ended.popleft()
        self._pending.remove(result)
        return result

    def _fill(self) -> None:
        """Submit until as much is on its way as may be."""
        if self._exhausted:
            return
        if self._chunks is None:
            self._feed_in_background()
            return
        while len(self._pending) < self._window and self._books.has_room():
            try:
                chunk = next(self._chunks, None)
            except Exception as failure:
                self._fail(failure)
                return
            if chunk is None:
                self._exhausted = True
                return
            self._submit(chunk)

    def _fail(self, failure: BaseException | None) -> None:
        self._failure, self._exhausted = failure, True

    def _submit(self, chunk: list[Any]) -> None:
        self._pending.append(self._take_on(chunk, self._told))

    def _one_ended(self, result: AsyncResult[Any]) -> None:
        if not self._ordered:
            self._ended.append(result)
        self._tell()

    def _feed_in_background(self) -> None:
        # Results are handed out while the input is slow, so somebody else waits for the input.
        if self._feeding is None:
            assert self._input is not None
            feed = partial(_feed, _told_by(self), self._books, self._input, self._chunksize, self._name)
            self._feeding = self._loop.spawn(feed, f"feed {self._name}")
        elif self._wants is not None and len(self._pending) < self._window:
            self._loop.wake(self._wants)

    def _room(self) -> Ticket | None:
        """What to wait for when as much as may be is on its way."""
        if len(self._pending) < self._window:
            return None
        self._wants = self._loop.ticket()
        return self._wants

    def _all_was_read(self, failure: BaseException | None = None) -> None:
        """The input has ended, or it failed; who waits is told when it is closed."""
        if not self._exhausted:  # else the consumer has left, and it was cancelled for that
            self._fail(failure)

    def _input_was_closed(self, failure: BaseException | None) -> None:
        self._failure, self._exhausted = self._failure or failure, True
        self._tell()

    def terminated(self) -> None:
        """The pool was: what is left of the input will not be read, and who waits for it learns of that."""
        if not self._exhausted:
            self._fail(CancelledError(f"the pool was terminated before {self._name} had all its input"))
            self._stop_feeding()
            self._tell()

    def _stop_feeding(self) -> None:
        """Read no more of the input, and have it closed."""
        if self._feeding is not None:
            self._feeding()
            self._feeding = _nothing  # once: afterwards it is being closed
        if self._input is not None and not self._fed:  # else who reads it closes it
            self._fed, self._feeding = True, _nothing
            self._loop.spawn(partial(_close, _told_by(self), self._input), f"close the input of {self._name}")

    def _is_late(self) -> bool:
        """Said by who reads the input, first: whether it is being closed already."""
        late, self._fed = self._fed, True
        return late

    def _leave(self) -> None:
        self._exhausted = True
        self._stop_feeding()
        for result in self._pending:
            if not result.started:
                _let_go(result)
        self._pending.clear()
        self._tell()

    def stop(self) -> None:
        """Leave, and stop what runs."""
        pending = list(self._pending)
        self._leave()
        for result in pending:
            _let_go(result)

    def __del__(self) -> None:
        if self._feeding is not None and not self._exhausted:
            self._loop.from_thread(self._feeding)

    def __repr__(self) -> str:
        return f"<Results of {self._name}: {len(self._pending)} on their way>"


def _nothing() -> None:
    """What stops that which has been stopped."""


Tell = Callable[..., Any]  # calls a method of the results, if their consumer still has them


def _told_by(results: Results[Any]) -> Tell:
    reference = ref(results)

    def tell(what: Callable[..., Any], *args: Any) -> Any:
        found = reference()
        return None if found is None else what(found, *args)

    return tell


async def _feed(tell: Tell, books: Books, source: AsyncIterator[Any], chunksize: int, name: str) -> None:
    """Read a slow input for results, which only their consumer keeps alive."""
    if tell(Results._is_late):
        return
    chunk: list[Any] = []
    try:
        while True:
            while ticket := tell(Results._room):
                await ticket
            await books.room()
            chunk.append(await anext(source))
            if len(chunk) == chunksize:
                tell(Results._submit, chunk)
                chunk = []
    except StopAsyncIteration:
        if chunk:
            tell(Results._submit, chunk)
        tell(Results._all_was_read)
    except GeneratorExit:  # the loop has ended in the midst
        raise
    except anyio.get_cancelled_exc_class():
        tell(Results._all_was_read, CancelledError(f"the input of {name} was cancelled"))
    except BaseException as failure:  # whatever it is, it is the consumer's
        tell(Results._all_was_read, failure)
    await _close(tell, source)


async def _close(tell: Tell, source: AsyncIterator[Any]) -> None:
    """Close the input, and let the consumer know."""
    close, closing = getattr(source, "aclose", None), None
    try:
        if close is not None:
            await shielded(close)
    except (GeneratorExit, anyio.get_cancelled_exc_class()):
        raise
    except BaseException as failure:
        closing = failure
    finally:
        tell(Results._input_was_closed, closing)


class Stream(_Iteration[T]):
    """What a generator yields in a worker, one item at a time; see `AsyncPool.stream`."""

    _result: AsyncResult[Any] | None = None  # also of one that could not be made

    def __init__(self, books: Books, take_on: Callable[[Item, Settled], AsyncResult[Any]], name: str) -> None:
        super().__init__(books)
        self._take_on = take_on
        self._name = name
        self._arrived: deque[tuple[Any, BaseException | None]] = deque()
        self._taken = 0
        self._over = False

    async def __anext__(self) -> T:
        if self._result is None and not self._over:
            await self._books.room()
        while not self._arrived:
            if self._over:
                raise StopAsyncIteration
            result = self._begun()
            if result.ready():
                self._over = True
                _opened(result)
            else:
                await self._audience.news(self._loop)
        result = self._begun()
        value, failure = self._arrived.popleft()
        self._taken += 1
        if self._taken % (STREAM_AHEAD // 2) == 0 and not result.ready():
            self._books.engine.grant(result, STREAM_AHEAD // 2)
        if failure is not None:
            raise failure
        return value  # type: ignore[no-any-return]

    def _begun(self) -> AsyncResult[Any]:
        if self._result is None:  # while one consumer waited for room, another may have begun it
            self._result = self._take_on(weakly(self._came), weakly(self._tell))
        return self._result

    def _came(self, value: Any, failure: BaseException | None) -> None:
        self._arrived.append((value, failure))
        self._tell()

    def _leave(self) -> None:
        self._over = True
        if self._result is not None:
            self._result.cancel()
        self._arrived.clear()
        self._tell()

    def __del__(self) -> None:
        # A consumer that leaves an `async for` calls nothing; its reference goes away.
        if self._result is not None and not self._result.ready():
            self._loop.from_thread(self._result.cancel)

    def __repr__(self) -> str:
        return f"<Stream of {self._name}: {self._taken} taken>"


def _opened(result: AsyncResult[Any]) -> Any:
    """Its value; a call's own StopAsyncIteration is not our end, so it comes out as from a generator."""
    try:
        return result._opened()
    except StopAsyncIteration as error:
        raise RuntimeError(f"{result.name} raised StopAsyncIteration") from error


def _let_go(result: AsyncResult[Any]) -> None:
    try:
        result.cancel()
    except NotImplementedError:  # it runs to its end, unheard
        pass


def _chunks(items: Iterator[Any], size: int) -> Iterator[list[Any]]:
    while chunk := list(islice(items, size)):
        yield chunk
