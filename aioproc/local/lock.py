"""A lock for processes, threads and tasks; when its holder dies, the next one gets it."""

from __future__ import annotations

from typing import Any

from aioproc._kernel.token import Tokens, tokens
from aioproc.local.holding import Holding, SyncHolding

__all__ = ["Lock", "SyncLock"]


class Lock(Holding):
    """A lock that one task, in one process, holds at a time.

    Example:
        >>> async def main():
        ...     lock = Lock()
        ...     async with lock:
        ...         return lock.locked()
        >>> import anyio; anyio.run(main)
        True
    """

    __slots__ = ()

    def __init__(self, _tokens: Tokens | None = None) -> None:
        super().__init__(_tokens or tokens())

    def __reduce__(self) -> tuple[Any, ...]:
        return Lock, (self._tokens,)

    @property
    def sync(self) -> SyncLock:
        """The same lock for code without an event loop."""
        return SyncLock(self)

    def __repr__(self) -> str:
        return f"<Lock {state(self._tokens)}>"


class SyncLock(SyncHolding):
    """The twin of `Lock`: `multiprocessing.Lock`'s interface."""

    __slots__ = ()
    aio: Lock

    def __repr__(self) -> str:
        return f"<SyncLock {state(self._tokens)}>"


def state(tokens: Tokens) -> str:
    """Who holds a lock, for its repr."""
    if tokens.held:
        return "held here, abandoned by the one before" if tokens.abandoned else "held here"
    return "free" if tokens.free else f"held elsewhere, {tokens.waiting} waiting"
