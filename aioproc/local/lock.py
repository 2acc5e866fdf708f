"""A lock for processes, threads and tasks; when its holder dies, the next one gets it."""

from __future__ import annotations

from types import TracebackType
from typing import Any

from aioproc._kernel.token import Tokens, tokens

__all__ = ["Lock", "SyncLock"]


class Lock:
    """A lock that one task, in one process, holds at a time.

    Example:
        >>> async def main():
        ...     lock = Lock()
        ...     async with lock:
        ...         return lock.locked()
        >>> import anyio; anyio.run(main)
        True
    """

    __slots__ = ("_tokens",)

    def __init__(self, _tokens: Tokens | None = None) -> None:
        self._tokens = _tokens or tokens()

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._tokens,)

    @property
    def sync(self) -> SyncLock:
        """The same lock for code without an event loop."""
        return SyncLock(self)

    async def acquire(self, block: bool = True, timeout: float | None = None) -> bool:
        """Take the lock, first come, first served.

        Args:
            block: Whether to wait; False ignores ``timeout``.
            timeout: Seconds to wait; None waits for ever, less than zero not at all.

        Returns:
            Whether it was taken.

        If cancelled: It is not taken.
        If a peer dies: A holder's death releases it, and `abandoned` is true; a waiter's changes nothing.
        Cost: One system call when it is free, else one wake-up.
        """
        if not block or (timeout is not None and timeout <= 0):
            return self._tokens.try_take()
        try:
            await self._tokens.acquire(timeout)
        except TimeoutError:
            return False
        return True

    def release(self) -> None:
        """Release the lock, from any task or thread of the process that holds it.

        Raises:
            ValueError: This process does not hold it.

        If a peer dies: A waiter that has died is passed over.
        Cost: Three system calls; five when somebody waits.
        """
        self._tokens.release()

    def locked(self) -> bool:
        """Whether anybody holds it."""
        return not self._tokens.free

    @property
    def abandoned(self) -> bool:
        """Whether this process holds it and the one before died with it: what it guards may be half done."""
        return self._tokens.abandoned

    async def __aenter__(self) -> None:
        await self._tokens.acquire()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._tokens.release()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {_state(self._tokens)}>"


class SyncLock:
    """The twin of `Lock`: `multiprocessing.Lock`'s interface."""

    __slots__ = ("_tokens", "aio")

    def __init__(self, lock: Lock) -> None:
        self.aio = lock
        self._tokens = lock._tokens

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.aio,)

    def acquire(self, block: bool = True, timeout: float | None = None) -> bool:
        """Take the lock; see `Lock.acquire`."""
        if not block or (timeout is not None and timeout <= 0):
            return self._tokens.try_take()
        try:
            self._tokens.acquire_blocking(timeout)
        except TimeoutError:
            return False
        return True

    def release(self) -> None:
        """Release the lock; see `Lock.release`."""
        self._tokens.release()

    def locked(self) -> bool:
        """Whether anybody holds it."""
        return self.aio.locked()

    @property
    def abandoned(self) -> bool:
        """Whether this process holds it and the holder before died with it."""
        return self._tokens.abandoned

    def __enter__(self) -> bool:
        self._tokens.acquire_blocking()
        return True

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._tokens.release()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {_state(self._tokens)}>"


def _state(tokens: Tokens) -> str:
    if tokens.held:
        return "held here, abandoned by the one before" if tokens.abandoned else "held here"
    return "free" if tokens.free else f"held elsewhere, {tokens.waiting} waiting"
