"""A lock that its owner, a task in a process, may take again while it has it."""

from __future__ import annotations

from typing import Any

from aioproc._kernel.arguments import patience
from aioproc._kernel.token import Tokens, tokens
from aioproc._kernel.waiting import task_or_thread
from aioproc.errors import NotOwner
from aioproc.local.entered import Entered, Twin
from aioproc.local.lock import state

__all__ = ["RLock", "SyncRLock"]


class RLock(Entered):
    """A lock that the task which holds it may take again; it is free when released as often.

    The twin's owner is the task too, where a loop runs in its thread, and else the thread.

    Example:
        >>> async def main():
        ...     lock = RLock()
        ...     async with lock, lock:
        ...         return lock.locked()
        >>> import anyio; anyio.run(main)
        True
    """

    __slots__ = ("_tokens",)

    def __init__(self, _tokens: Tokens | None = None) -> None:
        self._tokens = _tokens or tokens()

    def __reduce__(self) -> tuple[Any, ...]:
        return RLock, (self._tokens,)

    @property
    def sync(self) -> SyncRLock:
        """The same lock for code without an event loop."""
        return SyncRLock(self)

    async def acquire(self, block: bool = True, timeout: float | None = None) -> bool:
        """Take the lock, first come, first served as with `Lock.acquire`; at once when this task has it.

        Args:
            block: Whether to wait; False ignores ``timeout``.
            timeout: Seconds to wait; None waits for ever, less than zero not at all.

        Returns:
            Whether it was taken.

        If cancelled: It is not taken.
        If a peer dies: A holder's death releases it, and `abandoned` is true.
        Cost: None when this task has it, one system call when it is free, else one wake-up.
        """
        if self._taken_again():
            return True
        if not block or (timeout is not None and not patience(timeout)):
            return self._tokens.try_take() and self._taken()
        try:
            await self._tokens.acquire(timeout)
        except TimeoutError:
            return False
        return self._taken()

    def release(self) -> None:
        """Release the lock once; the last time, it goes to whoever has waited longest.

        Raises:
            NotOwner: This task does not have it. It is an AssertionError, as in multiprocessing.

        If a peer dies: A waiter that has died is passed over.
        Cost: None but for the last, which takes three system calls.
        """
        if not self.is_mine():
            raise NotOwner("attempt to release a recursive lock that this task or thread does not own")
        self._tokens.depth -= 1
        if not self._tokens.depth:
            self._tokens.owner = None
            self._tokens.release()

    def locked(self) -> bool:
        """Whether anybody holds it."""
        return not self._tokens.any_free

    @property
    def abandoned(self) -> bool:
        """Whether this process holds it and the one before died with it."""
        return self._tokens.abandoned

    def is_mine(self) -> bool:
        """Whether this task has it. A forked child's tokens are gone, so it has none."""
        return bool(self._tokens.held) and self._tokens.owner == task_or_thread()

    def _taken_again(self) -> bool:
        mine = self.is_mine()
        self._tokens.depth += mine
        return mine

    def _taken(self, depth: int = 1) -> bool:
        self._tokens.owner, self._tokens.depth = task_or_thread(), depth
        return True

    def __repr__(self) -> str:
        return f"<RLock {state(self._tokens)}{f', depth {self._tokens.depth}' if self._tokens.held else ''}>"


class SyncRLock(Twin):
    """The twin of `RLock`: `multiprocessing.RLock`'s interface."""

    __slots__ = ("is_mine", "locked", "release")
    aio: RLock

    def __init__(self, lock: RLock) -> None:
        super().__init__(lock)
        self.release, self.locked, self.is_mine = lock.release, lock.locked, lock.is_mine

    def acquire(self, block: bool = True, timeout: float | None = None) -> bool:
        """Take the lock; see `RLock.acquire`."""
        lock, tokens = self.aio, self.aio._tokens
        if lock._taken_again():
            return True
        if not block or (timeout is not None and not patience(timeout)):
            return tokens.try_take() and lock._taken()
        try:
            tokens.acquire_blocking(timeout)
        except TimeoutError:
            return False
        return lock._taken()

    @property
    def abandoned(self) -> bool:
        """Whether this process holds it and the one before died with it."""
        return self.aio.abandoned
