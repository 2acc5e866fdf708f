"""What a process takes, holds, and gives back or dies with: the part that locks and permits share."""

from __future__ import annotations

from aioproc._kernel.arguments import patience
from aioproc._kernel.token import Tokens
from aioproc.local.entered import Entered, Twin

__all__ = ["Holding", "SyncHolding"]


class Holding(Entered):
    """Tokens for tasks."""

    __slots__ = ("_tokens",)

    def __init__(self, tokens: Tokens) -> None:
        self._tokens = tokens

    async def acquire(self, block: bool = True, timeout: float | None = None) -> bool:
        """Take it, first come, first served; between processes, for up to 16 waiting tasks of a loop.

        Args:
            block: Whether to wait; False ignores ``timeout``.
            timeout: Seconds to wait; None waits for ever, less than zero not at all.

        Returns:
            Whether it was taken.

        Raises:
            OSError: No file descriptor is free. It is not taken, and counts as abandoned then: the next
                finds `abandoned` true.

        If cancelled: It is not taken.
        If a peer dies: What a dead process held goes to the next, who finds `abandoned` true; a waiter's
            death changes nothing.
        Cost: One system call when it is free, else one wake-up.
        """
        if not block or (timeout is not None and not patience(timeout)):
            return self._tokens.try_take()
        try:
            await self._tokens.acquire(timeout)
        except TimeoutError:
            return False
        return True

    def release(self) -> None:
        """Give it to whoever has waited longest, from any task or thread of the process that holds it.

        Raises:
            ValueError: This process does not hold it.

        If a peer dies: A waiter that has died is passed over.
        Cost: Three system calls; six when somebody waits.
        """
        self._tokens.release()

    def locked(self) -> bool:
        """Whether one who came now would have to wait."""
        return not self._tokens.any_free

    @property
    def abandoned(self) -> bool:
        """Whether what is held here was held by a process that died; what it guards may be half done."""
        return self._tokens.abandoned


class SyncHolding(Twin):
    """The same for threads."""

    __slots__ = ("_tokens",)

    def __init__(self, aio: Holding) -> None:
        super().__init__(aio)
        self._tokens = aio._tokens

    def acquire(self, block: bool = True, timeout: float | None = None) -> bool:
        """Take it; see the method of the same name of the async face."""
        if not block or (timeout is not None and not patience(timeout)):
            return self._tokens.try_take()
        try:
            self._tokens.acquire_blocking(timeout)
        except TimeoutError:
            return False
        return True

    def release(self) -> None:
        """Give it back; ValueError when this process does not hold it."""
        self._tokens.release()

    def locked(self) -> bool:
        """Whether one who came now would have to wait."""
        return not self._tokens.any_free

    @property
    def abandoned(self) -> bool:
        """Whether what is held here was held by a process that died."""
        return self._tokens.abandoned
