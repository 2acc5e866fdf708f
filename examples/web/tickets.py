"""A counter in a file, under a lock that all server processes share."""

from __future__ import annotations

from pathlib import Path

import anyio

from aioproc import Lock
from examples.web.work import tell


class Tickets:
    """Tickets for sale.

    Args:
        lock: Shared by all who sell.
        folder: Where the number of those left is kept.
    """

    def __init__(self, lock: Lock, folder: Path) -> None:
        self._lock = lock
        self._left = folder / "left"
        self._next = folder / "left.new"

    async def sell(self, paying: float = 0.0) -> int:
        """Sell one, which may take some seconds; returns its number, 0 when none is left."""
        async with self._lock:
            tell("sells")
            left = int(self._left.read_text()) if self._left.exists() else 100
            await anyio.sleep(paying)
            if left:
                self._next.write_text(str(left - 1))
                self._next.replace(self._left)  # whole or not at all, should we be killed here
        return left
