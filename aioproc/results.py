"""AsyncResult: a pool's promise of one result."""

from __future__ import annotations

from collections.abc import Callable, Generator
from concurrent.futures import CancelledError
from typing import Any, Generic, NoReturn, Protocol, TypeVar

import anyio

from aioproc._kernel.arguments import patience
from aioproc._kernel.background import Loop, Ticket, log

__all__ = ["AsyncResult"]

T = TypeVar("T")
Settled = Callable[["AsyncResult[Any]"], object]  # is told of a result that has its outcome


class Owner(Protocol):
    """Who gave out a result."""

    def stop(self, result: AsyncResult[Any]) -> bool:
        """Stop its call; whether that was possible."""

    def settled(self, result: AsyncResult[Any]) -> None:
        """It has its outcome."""


class AsyncResult(Generic[T]):
    """The result of a call that a pool has taken on; ``await`` it for the value.

    Attributes:
        name: What the call is named in statistics: ``options(name=...)``, else the function's name.
        pid: The worker that runs it or ran it; None until then.
        started: Whether a worker has it in hand.
        elapsed: Seconds that it took in the worker; None until it is done.

    If cancelled: Cancelling ``await result`` or ``result.get()`` stops the call, as cancelling an awaited
    task does; cancelling `wait` does not.
    If a peer dies: `get` raises WorkerDied when it was this call's worker.

    Example:
        >>> async def main():
        ...     async with AsyncPool(2) as pool:
        ...         result = pool.apply_async(pow, (2, 5))
        ...         print(await result, result.successful())
        >>> run(main)
        32 True
    """

    __slots__ = (
        "__weakref__",
        "_callback",
        "_done",
        "_error",
        "_error_callback",
        "_loop",
        "_owner",
        "_settled",
        "_task",
        "_ticket",
        "_tickets",
        "_value",
        "elapsed",
        "name",
        "pid",
        "started",
    )

    def __init__(
        self,
        loop: Loop,
        name: str,
        owner: Owner,
        callback: Callable[[T], object] | None = None,
        error_callback: Callable[[BaseException], object] | None = None,
        settled: Settled | None = None,
    ) -> None:
        self._loop = loop
        self._owner = owner
        self._settled = settled
        self._task: Any = None  # the engine's own
        self._callback = callback
        self._error_callback = error_callback
        self._done = False
        self._value: Any = None
        self._error: BaseException | None = None
        self._ticket: Ticket | None = None  # of the one task that mostly waits
        self._tickets: list[Ticket] | None = None
        self.name = name
        self.pid: int | None = None
        self.started = False
        self.elapsed: float | None = None

    async def get(self, timeout: float | None = None) -> T:
        """Wait for the call to end, and return what it returned.

        Args:
            timeout: Seconds to wait at most; None waits for ever.

        Raises:
            Exception: The call's own, with the worker's traceback as its cause.
            RemoteError: It could not be pickled, or is no Exception; this is its text.
            WorkerDied: The worker that had it in hand died.
            TimeoutError: It is not done within ``timeout`` (the call goes on), or the call's own
                ``options(timeout=...)`` ran out (it was stopped).
            concurrent.futures.CancelledError: It was cancelled.

        If cancelled: The call is stopped.
        """
        if timeout is None:
            return await self
        if not self.ready():
            try:
                await self.wait(timeout)
            except anyio.get_cancelled_exc_class():
                self._abandon()
                raise
            if not self.ready():
                raise TimeoutError(f"{self.name} is not done within {timeout} s")
        return self._opened()

    def __await__(self) -> Generator[Any, None, T]:
        if not self._done:
            try:
                yield from self._new_ticket().__await__()
            except anyio.get_cancelled_exc_class():
                self._abandon()
                raise
        return self._opened()

    def _abandon(self) -> None:
        try:
            self.cancel()
        except NotImplementedError:  # it runs to its end, unheard
            pass

    def _new_ticket(self) -> Ticket:
        ticket = self._loop.ticket()
        if self._ticket is None:
            self._ticket = ticket
        elif self._tickets is None:
            self._tickets = [ticket]
        else:
            self._tickets.append(ticket)
        return ticket

    async def wait(self, timeout: float | None = None) -> None:
        """Wait for the call to end, however it ends, or for ``timeout`` seconds.

        If cancelled: The call goes on.
        """
        if self.ready():
            return
        limit = patience(timeout)
        ticket = self._new_ticket()
        try:
            if limit is None:
                await ticket
            else:
                with anyio.move_on_after(limit):
                    await ticket
        finally:
            if ticket is self._ticket:
                self._ticket = None
            elif self._tickets is not None:
                self._tickets.remove(ticket)

    def ready(self) -> bool:
        """Whether it is done: returned, raised, cancelled or lost."""
        return self._done

    def successful(self) -> bool:
        """Whether it returned a value.

        Raises:
            ValueError: It is not done.
        """
        if not self.ready():
            raise ValueError(f"{self!r} is not ready")
        return self._error is None

    def cancel(self) -> bool:
        """Stop the call: one that waits is never started, a coroutine is cancelled, a worker killed.

        Returns:
            False when it was done already.

        Raises:
            NotImplementedError: It runs, and the pool's executor cannot stop it.
        """
        return not self.ready() and self._owner.stop(self)

    def cancelled(self) -> bool:
        """Whether it was cancelled."""
        return isinstance(self._error, CancelledError)

    def _opened(self) -> T:
        if self._error is not None:
            raise self._error
        return self._value  # type: ignore[no-any-return]

    def _settle(self, value: Any, error: BaseException | None = None) -> None:
        """Give it its outcome; nothing happens when it has one already."""
        if self._done:
            return
        self._done = True
        self._task = None  # which knows this result
        self._value = value
        self._error = error
        self._owner.settled(self)
        if self._settled is not None:
            self._settled(self)
        if self._ticket is not None:
            self._loop.wake(self._ticket)
            self._ticket = None
        if self._tickets is not None:
            for ticket in self._tickets:
                self._loop.wake(ticket)
            self._tickets = None
        if self._callback is not None or self._error_callback is not None:
            self._call_back()

    def _raise(self, error: BaseException) -> None:
        self._settle(None, error)

    def _call_back(self) -> None:
        try:
            if self._error is not None and self._error_callback is not None:
                self._error_callback(self._error)
            elif self._error is None and self._callback is not None:
                self._callback(self._value)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException:  # also asyncio's CancelledError, of some future that the callback looks at
            log.exception("a callback of %r raised", self)

    def __reduce__(self) -> NoReturn:
        not_to_be_pickled()

    def __repr__(self) -> str:
        return f"<AsyncResult {self.name} {self._state()}>"

    def _state(self) -> str:
        if self._error is not None:
            return "cancelled" if self.cancelled() else f"raised {type(self._error).__name__}"
        if self._done:
            return "returned"
        return f"runs in {self.pid}" if self.started else "waits"


def not_to_be_pickled() -> NoReturn:
    """Refuse to pickle what belongs to one loop of one process, in multiprocessing's words."""
    raise NotImplementedError("pool objects cannot be passed between processes or pickled")
