"""An event: a flag that processes, threads and tasks wait for, and that wakes them all."""

from __future__ import annotations

from typing import Any

from aioproc._kernel.arguments import patience
from aioproc._kernel.counter import Flag
from aioproc._kernel.waiting import checkpoint, spent, until_blocking, until_later

__all__ = ["Event", "SyncEvent"]


class Event:
    """A flag, not set at first; who waits for it goes on when it is.

    Example:
        >>> async def main():
        ...     event = Event()
        ...     event.set()
        ...     return await event.wait()
        >>> import anyio; anyio.run(main)
        True
    """

    __slots__ = ("_flag",)

    def __init__(self, _flag: Flag | None = None) -> None:
        self._flag = _flag or Flag()

    def __reduce__(self) -> tuple[Any, ...]:
        return Event, (self._flag,)

    @property
    def sync(self) -> SyncEvent:
        """The same event for code without an event loop."""
        return SyncEvent(self)

    def is_set(self) -> bool:
        """Whether it is set now."""
        return self._flag.raised

    def set(self) -> None:
        """Set it and wake everybody who waits.

        If a peer dies: It is set or not, never half.
        Cost: One system call.
        """
        self._flag.raise_()

    def clear(self) -> None:
        """Make it unset. Who has not looked since it was set goes on waiting."""
        self._flag.lower()

    async def wait(self, timeout: float | None = None) -> bool:
        """Wait until it is set.

        Args:
            timeout: Seconds to wait; None waits for ever, less than zero not at all.

        Returns:
            True, or False when it was not set in time.

        If cancelled: Nothing has changed.
        If a peer dies: Nothing changes.
        Cost: One system call when it is set.
        """
        if spent():
            await checkpoint()
        if self._flag.raised:
            return True
        try:
            await until_later(self._flag.look, self._flag.handle, timeout=patience(timeout))
        except TimeoutError:
            return False
        return True

    def __repr__(self) -> str:
        return f"<Event at {id(self):#x} {'set' if self.is_set() else 'unset'}>"


class SyncEvent:
    """The twin of `Event`: `multiprocessing.Event`'s interface."""

    __slots__ = ("_flag", "aio", "clear", "is_set", "set")

    def __init__(self, event: Event) -> None:
        self.aio = event
        self._flag = event._flag
        self.is_set, self.set, self.clear = event.is_set, event.set, event.clear

    def __reduce__(self) -> tuple[Any, ...]:
        return SyncEvent, (self.aio,)

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until it is set; see `Event.wait`."""
        try:
            until_blocking(self._flag.look, self._flag.handle, timeout=patience(timeout))
        except TimeoutError:
            return False
        return True

    def __repr__(self) -> str:
        return repr(self.aio)
