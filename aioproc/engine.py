"""What a pool asks of its engine, and its books: what is open, who waits for room, who for the end."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import CancelledError
from contextlib import contextmanager
from typing import Any, Protocol
from weakref import WeakSet

from aioproc._kernel.arguments import not_callable
from aioproc._kernel.background import Audience, Loop, Stop, Ticket, running_loop
from aioproc._kernel.wire import Call
from aioproc.errors import queue_error
from aioproc.orders import Item, PoolStats, Settings, WorkerStats, name_of
from aioproc.results import AsyncResult, Settled

__all__ = ["Books", "Engine"]


class Engine(Protocol):
    """Runs calls: our own workers, or an executor.

    Attributes:
        name: For error messages.
        capacity: How many calls can run at once.
    """

    name: str
    capacity: int

    @property
    def restarts(self) -> int:
        """How many workers were replaced."""

    def order(self, call: Call, settings: Settings, item: Item | None) -> Any:
        """An order for a call, whose ``item`` takes what a stream yields.

        Raises:
            NotImplementedError: It cannot do this.
        """

    def submit(self, order: Any) -> None:
        """Take on a call that has its result; what goes wrong comes out of that."""

    def stop(self, result: AsyncResult[Any], error: BaseException) -> bool:
        """Settle a result with this error and stop its call; NotImplementedError when it cannot."""

    def grant(self, result: AsyncResult[Any], items: int) -> None:
        """Let a stream's generator send so many items more."""

    def close(self) -> None:
        """No more calls come, and all are settled."""

    def terminate(self, open_results: Iterable[AsyncResult[Any]]) -> None:
        """Cancel what is open and end the workers."""

    async def join(self) -> None:
        """Wait until the workers have ended."""

    def queued(self) -> int:
        """How many calls no worker has in hand."""

    def workers(self) -> tuple[WorkerStats, ...]:
        """What each worker does."""


class Books:
    """A pool's state, shared by all views of it that ``options`` makes.

    Args:
        make: Makes the engine, in the loop of the first call.
        max_pending: Most calls that may wait for a worker.
    """

    def __init__(self, make: Callable[[Loop], Engine], max_pending: int | None) -> None:
        self._make = make
        self._max_pending = max_pending
        self._engine: Engine | None = None
        self._loop: Loop | None = None
        self._open: set[AsyncResult[Any]] = set()
        self._wholes: set[AsyncResult[Any]] = set()
        self._timers: dict[AsyncResult[Any], Stop] = {}
        self._for_room: OrderedDict[Ticket, None] = OrderedDict()
        self._for_end = Audience()
        self._maps = 0  # that are awaited
        self.iterations: WeakSet[Any] = WeakSet()  # that must learn of a termination
        self._over = False  # the engine was told to end
        self._done = 0
        self._failed = 0
        self.state = "open"

    @property
    def loop(self) -> Loop:
        """The loop that the pool belongs to: that of its first call."""
        if self._loop is None:
            self._loop = running_loop()
            self._guard(self._loop)
        elif not self._loop.is_running_here():
            raise RuntimeError("this pool belongs to another event loop (or thread)")
        return self._loop

    def _guard(self, loop: Loop) -> None:
        """What changes several things at a time is done whole, whenever a Ctrl-C comes."""
        for name in ("take_on", "stop", "close", "terminate"):
            method = getattr(self, name)
            whole = loop.uninterrupted(method)
            if whole is not method:
                setattr(self, name, whole)

    @property
    def engine(self) -> Engine:
        """The engine, made with the first call."""
        if self._engine is None:
            self._engine = self._make(self.loop)
        return self._engine

    def check_open(self) -> None:
        """ValueError after `close` or `terminate`."""
        if self.state != "open":
            raise ValueError(f"the pool is {self.state}")

    # Calls

    def take_on(
        self,
        call: Call,
        settings: Settings,
        name: str | None = None,
        callback: Callable[[Any], object] | None = None,
        error_callback: Callable[[BaseException], object] | None = None,
        settled: Settled | None = None,
        item: Item | None = None,
    ) -> AsyncResult[Any]:
        """Hand a call to the engine.

        Args:
            name: What it is named in statistics; None: after its function.
            item: Takes what a stream yields.
        """
        loop, order = self.loop, self.order(call, settings, item)
        if self._over:
            raise ValueError(f"the pool is {self.state}")
        result: AsyncResult[Any] = AsyncResult(
            loop, name or name_of(call[0], settings), self, callback, error_callback, settled
        )
        order.result, result._task = result, order
        self._open.add(result)
        if settings.timeout is not None:
            self._stop_after(settings.timeout, result)
        self.engine.submit(order)
        return result

    def order(self, call: Call, settings: Settings, item: Item | None) -> Any:
        """What the engine is given for a call; TypeError or NotImplementedError when it cannot be done."""
        if not callable(call[0]):
            not_callable("func", call[0], "apply({0}, (...)) or submit({0}, ...)")
        return self.engine.order(call, settings, item)

    def _stop_after(self, seconds: float, result: AsyncResult[Any]) -> None:
        error = TimeoutError(f"{result.name} did not end within {seconds} s and was stopped")
        self._timers[result] = self.loop.later(seconds, lambda: self.engine.stop(result, error))

    def stop(self, result: AsyncResult[Any]) -> bool:
        """Stop a call, because its caller wants so."""
        return self.engine.stop(result, CancelledError())

    def settled(self, result: AsyncResult[Any]) -> None:
        """Strike out a call that has its outcome."""
        self._open.discard(result)
        if result._error is None:
            self._done += 1
        else:
            self._failed += 1
        if self._timers and (stop := self._timers.pop(result, None)):
            stop()
        if self._for_room:
            self.wake_for_room()
        if self.state != "open":
            self._close_if_done()

    def whole(
        self,
        name: str,
        stop: Callable[[AsyncResult[Any]], bool],
        callback: Callable[[Any], object] | None,
        error_callback: Callable[[BaseException], object] | None,
    ) -> AsyncResult[Any]:
        """The result of a whole map, which is many calls."""
        result: AsyncResult[Any] = AsyncResult(self.loop, name, _Whole(self, stop), callback, error_callback)
        self._wholes.add(result)
        return result

    def whole_settled(self, result: AsyncResult[Any]) -> None:
        """Strike out a map."""
        self._wholes.discard(result)
        self._close_if_done()

    @contextmanager
    def mapping(self) -> Iterator[None]:
        """While inside, a pool that is closed still takes on the rest of a map."""
        self._maps += 1
        try:
            yield
        finally:
            self._maps -= 1
            if self.state != "open":
                self._close_if_done()

    # Room

    def has_room(self) -> bool:
        """Whether one more call may wait."""
        if self._max_pending is None:
            return True
        return len(self._open) < self.engine.capacity + self._max_pending

    def need_room(self) -> None:
        """QueueFull when as many calls wait as may; ValueError when the pool is closed."""
        self.check_open()
        if not self.has_room():
            raise queue_error("Full")(f"{self._max_pending} calls wait for a worker already")

    async def room(self) -> None:
        """Wait until one more call may wait, in order of arrival."""
        line, was_woken = self._for_room, False
        while not self.has_room():
            ticket = self.loop.ticket()
            line[ticket] = None
            if was_woken:  # too early: it is still the first
                line.move_to_end(ticket, last=False)
            try:
                await ticket
            except BaseException:
                if ticket in line:
                    del line[ticket]
                else:
                    self.wake_for_room()
                raise
            was_woken = True

    def wake_for_room(self) -> None:
        """Wake the first of those who wait for room, if there is some; it is followed by the next."""
        if self._for_room and self.has_room():
            self.loop.wake(self._for_room.popitem(last=False)[0])
            self.loop.later(0, self.wake_for_room)  # who was woken may have no use for it

    # The end

    def close(self) -> None:
        """Take on nothing more."""
        if self.state == "open":
            self.state = "closed"
        self._close_if_done()

    def _close_if_done(self) -> None:
        if self.state != "open" and not self._open and not self._wholes and not self._maps:
            if self.state == "closed" and not self._over and self._engine is not None:
                self._engine.close()
            self._over = True
            if self._for_end:
                self._for_end.tell(self.loop)

    def terminate(self) -> None:
        """Cancel everything and end the workers."""
        if self.state == "terminated":
            return
        self.state, self._over = "terminated", True
        for whole in list(self._wholes):
            whole.cancel()
        if self._engine is not None:
            self._engine.terminate(self._open)
        for iteration in list(self.iterations):
            iteration.terminated()

    async def join(self) -> None:
        """Wait until everything is settled and the workers have ended."""
        if self.state == "open":
            raise ValueError("the pool is still open: close() or terminate() it before join()")
        while self._open or self._wholes or (self._maps and self.state == "closed"):
            await self._for_end.news(self.loop)
        if self._engine is not None:
            await self._engine.join()

    def stats(self) -> PoolStats:
        """The figures of this moment."""
        if self._engine is None:
            return PoolStats((), 0, 0, 0, 0, 0)
        queued = self._engine.queued()
        running = max(0, len(self._open) - queued)
        workers, restarts = self._engine.workers(), self._engine.restarts
        return PoolStats(workers, queued, running, self._done, self._failed, restarts)


class _Whole:
    """What owns the result of a map."""

    def __init__(self, books: Books, stop: Callable[[AsyncResult[Any]], bool]) -> None:
        self._books = books
        self.stop = stop

    def settled(self, result: AsyncResult[Any]) -> None:
        self._books.whole_settled(result)
