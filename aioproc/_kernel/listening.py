"""Who may wake: of many processes that wait for one thing, only a few are registered with their loops.

The first processes that ever wait do so without more ado, so that a lone consumer pays nothing. All others
need one of a few rights, which are tokens: so an item wakes a handful of processes, however many wait. Once
some stand in line for a right, the first ones do as well, so that all get the same share.

Source: epoll(7) (a shared socket wakes all who wait), eventfd(2).
"""

from __future__ import annotations

import os
from time import monotonic
from typing import Any, Final

from aioproc._kernel.forks import Private, no_fork
from aioproc._kernel.handle import Handle
from aioproc._kernel.token import Tokens, tokens

FREE_LISTENERS: Final = 2  # processes that need no right
RIGHTS: Final = 3
_LOOK_SECONDS: Final = 0.001  # one that needs no right looks so often whether others stand in line
_COUNTER: Final = os.EFD_CLOEXEC | os.EFD_NONBLOCK | os.EFD_SEMAPHORE


class Listening(Private):
    """What a process needs before it waits.

    Args:
        free: How many processes may still wait without a right.
        rights: What others need; None makes ``most`` of them.
        most: A process whose loop is busy keeps its right meanwhile; each one more is one more wake-up.

    If a peer dies: Its right comes back when all who had one have died; one that needed none is not replaced.
    """

    def __init__(
        self, free: Handle | None = None, rights: Tokens | None = None, *, most: int = RIGHTS
    ) -> None:
        self._free = free or Handle(os.eventfd(FREE_LISTENERS, _COUNTER))
        self._rights = rights or tokens(most)
        self._needs_none: bool | None = None
        self._next_look = 0.0  # by time.monotonic
        super().__init__()
        self._rights.users.add(self)

    def __reduce__(self) -> tuple[Any, ...]:
        return Listening, (self._free, self._rights)

    def right(self) -> Tokens | None:
        """What to hold while asleep; None for nothing."""
        if self._needs_none is None:
            try:
                os.eventfd_read(self._free.fileno())
                self._needs_none = True
            except BlockingIOError:
                self._needs_none = False
        if self._needs_none:
            now = monotonic()
            if now < self._next_look:
                return None
            if not self._rights.waiting:
                self._next_look = now + _LOOK_SECONDS
                return None
            self._needs_none = False  # others stand in line for a right
        return self._rights

    def drop(self) -> None:
        """In a forked child: whether it needs a right is its own question."""
        self._needs_none = None

    def close(self) -> None:
        """Close it in this process; the rights are closed with the last that has them."""
        self._free.close()
        with no_fork:
            self._rights.users.discard(self)
            if not self._rights.users:
                self._rights.close()
