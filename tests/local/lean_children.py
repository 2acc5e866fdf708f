"""What plain-function children do that import no event loop, not even by way of this module."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from aioproc.local.lock import SyncLock
    from tests.shared import Wire


def imports_after_use(lock: SyncLock, wire: Wire) -> None:
    """Which heavy modules a child has that took and released the lock, and waited for it."""
    with lock:
        pass
    lock.acquire(timeout=0.001)
    lock.release()
    wire.say(sorted({"asyncio", "anyio", "trio"} & set(sys.modules)))
