"""Semaphores: a counter that anybody may raise, and a number of permits that come back from the dead."""

from __future__ import annotations

import time
from typing import Any

from aioproc._kernel.arguments import integer, patience
from aioproc._kernel.counter import Counter
from aioproc._kernel.quiet import QuietTokens, quiet_tokens
from aioproc._kernel.token import MOST_PIPES, Tokens, tokens
from aioproc._kernel.waiting import checkpoint, spent, until, until_blocking
from aioproc.local.entered import Entered, Twin
from aioproc.local.holding import Holding, SyncHolding

__all__ = ["BoundedSemaphore", "Semaphore", "SyncBoundedSemaphore", "SyncSemaphore"]


class Semaphore(Entered):
    """A counter that never falls below zero: `acquire` lowers it by one or waits, `release` raises it.

    Nobody owns what was acquired, so any process may release, and what a killed process had acquired stays
    taken: right for a signal. For a limit, where each acquire has its release, take `BoundedSemaphore`.

    Args:
        value: What it starts at.

    Raises:
        ValueError: ``value`` is negative.

    Example:
        >>> async def main():
        ...     done = Semaphore(0)
        ...     done.release()
        ...     return await done.acquire()
        >>> import anyio; anyio.run(main)
        True
    """

    __slots__ = ("_line", "_value")

    def __init__(self, value: int = 1, *, _line: QuietTokens | None = None) -> None:
        self._line = _line or quiet_tokens(Counter(integer("value", value, 0)))
        self._value = self._line.counter

    def __reduce__(self) -> tuple[Any, ...]:
        return _semaphore, (self._line,)

    @property
    def sync(self) -> SyncSemaphore:
        """The same semaphore for code without an event loop."""
        return SyncSemaphore(self)

    async def acquire(self, block: bool = True, timeout: float | None = None) -> bool:
        """Take one, first come, first served; see `Lock.acquire`.

        Args:
            block: Whether to wait; False ignores ``timeout``.
            timeout: Seconds to wait; None waits for ever, less than zero not at all.

        Returns:
            Whether one was taken.

        If cancelled: None is taken.
        If a peer dies: What it had acquired stays taken; a waiter that dies takes nothing.
        Cost: Two system calls when the value is not zero and nobody waits, else one wake-up.
        """
        if spent():
            await checkpoint()
        if self._take_now():
            return True
        if not block or (timeout is not None and not patience(timeout)):
            return False
        deadline = None if timeout is None else time.monotonic() + timeout
        try:
            await self._line.acquire(timeout)
            try:
                await until(self._value.take, self._value.handle, timeout=_left(deadline))
            finally:
                self._line.release()
        except TimeoutError:
            return False
        return True

    def _take_now(self) -> bool:
        """Take one unless somebody stands in the line."""
        if self._line.any_free:
            try:
                self._value.take()
                return True
            except BlockingIOError:
                pass
        return False

    def release(self, n: int = 1) -> None:
        """Raise the value; the one who has waited longest goes on.

        Raises:
            ValueError: ``n`` is less than one.

        If a peer dies: Nothing is lost: a waiter takes one when it goes on, not before.
        Cost: One system call for each.
        """
        if n != 1:
            integer("n", n, 1)
        for _ in range(n):
            self._value.give()

    def get_value(self) -> int:
        """The value now."""
        return self._value.value

    def locked(self) -> bool:
        """Whether one who came now would have to wait."""
        return not (self._line.any_free and self._value.value)

    def __repr__(self) -> str:
        return f"<Semaphore {self.get_value()}, {self._line.waiting} waiting>"


class SyncSemaphore(Twin):
    """The twin of `Semaphore`: `multiprocessing.Semaphore`'s interface."""

    __slots__ = ("get_value", "locked", "release")
    aio: Semaphore

    def __init__(self, semaphore: Semaphore) -> None:
        super().__init__(semaphore)
        self.release, self.get_value, self.locked = semaphore.release, semaphore.get_value, semaphore.locked

    def acquire(self, block: bool = True, timeout: float | None = None) -> bool:
        """Take one; see `Semaphore.acquire`."""
        if self.aio._take_now():
            return True
        if not block or (timeout is not None and not patience(timeout)):
            return False
        deadline = None if timeout is None else time.monotonic() + timeout
        line, value = self.aio._line, self.aio._value
        try:
            line.acquire_blocking(timeout)
            try:
                until_blocking(value.take, value.handle, timeout=_left(deadline))
            finally:
                line.release()
        except TimeoutError:
            return False
        return True


class BoundedSemaphore(Holding):
    """A number of permits, each held by one process until it gives it back or dies.

    Args:
        value: How many there are. Up to 128 each comes back as soon as its holder dies; of more, some share
            a fate, and come back when the last of them has died.

    Raises:
        ValueError: ``value`` is negative, or more than the system lets lie in a socket (hundreds).

    Example:
        >>> async def main():
        ...     limit = BoundedSemaphore(10)
        ...     async with limit:
        ...         return limit.get_value()
        >>> import anyio; anyio.run(main)
        9
    """

    __slots__ = ()

    def __init__(self, value: int = 1, *, _tokens: Tokens | None = None) -> None:
        super().__init__(_tokens or tokens(integer("value", value, 0), min(max(value, 1), MOST_PIPES)))

    def __reduce__(self) -> tuple[Any, ...]:
        return _bounded, (self._tokens,)

    @property
    def sync(self) -> SyncBoundedSemaphore:
        """The same semaphore for code without an event loop."""
        return SyncBoundedSemaphore(self)

    def get_value(self) -> int:
        """How many permits nobody holds."""
        return self._tokens.free

    def __repr__(self) -> str:
        tokens = self._tokens
        return f"<BoundedSemaphore {tokens.free}/{tokens.count} free, {tokens.waiting} waiting>"


class SyncBoundedSemaphore(SyncHolding):
    """The twin of `BoundedSemaphore`: `multiprocessing.BoundedSemaphore`'s interface."""

    __slots__ = ()
    aio: BoundedSemaphore

    def get_value(self) -> int:
        """How many permits nobody holds."""
        return self._tokens.free


def _semaphore(line: QuietTokens) -> Semaphore:
    return Semaphore(_line=line)


def _bounded(tokens: Tokens) -> BoundedSemaphore:
    return BoundedSemaphore(_tokens=tokens)


def _left(deadline: float | None) -> float | None:
    return None if deadline is None else max(0.0, deadline - time.monotonic())
