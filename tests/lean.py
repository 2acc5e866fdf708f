"""What a lean child of test_house.py does; it imports nothing, so that it shows what aioproc imports."""

from __future__ import annotations

import sys
from typing import Any

MADE = [
    "nothing",
    "Lock",
    "RLock",
    "Semaphore",
    "BoundedSemaphore",
    "Event",
    "Condition",
    "Queue",
    "JoinableQueue",
    "SimpleQueue",
]


def heavy_modules(twin: Any = None) -> list[str]:
    """Use what was handed over, then tell which of the heavy modules were imported on the way."""
    if hasattr(twin, "acquire"):
        with twin:
            pass
    if hasattr(twin, "put"):
        twin.put("something")
        assert twin.get() == "something"
    if hasattr(twin, "is_set"):
        twin.set()
        assert twin.wait()
    return sorted({"asyncio", "anyio"} & set(sys.modules))
