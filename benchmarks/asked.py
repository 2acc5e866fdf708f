"""The ratios that the project set itself, each looked up in a run's figures."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import Any, Final


@dataclass(frozen=True)
class Asked:
    """The time of one contender in that of another.

    Attributes:
        what: The measurement, in words.
        key: The measurement in the JSON.
        of: Whose time is divided.
        by: By whose.
        least: What the ratio must reach.
        most: Or what it must not pass.
        limit: The contender that shows what any library could reach here.
    """

    what: str
    key: str
    of: str
    by: str = "aioproc"
    least: float | None = None
    most: float | None = None
    x: float | None = None
    limit: str | None = None

    def found(self, measurements: dict[str, Any]) -> float | None:
        """The ratio; None when one of the two did not take part."""
        return _ratio(self._times(measurements), self.of, self.by)

    def limit_found(self, measurements: dict[str, Any]) -> float | None:
        """What the ratio would be if ours took no longer than the bare limit."""
        return None if self.limit is None else _ratio(self._times(measurements), self.of, self.limit)

    def holds(self, found: float) -> bool:
        """Whether this ratio is what was asked."""
        return found >= self.least if self.least is not None else found <= (self.most or 0)

    @property
    def bound(self) -> str:
        """What was asked, in words."""
        return f"at least {self.least:g}" if self.least is not None else f"at most {self.most:g}"

    def _times(self, measurements: dict[str, Any]) -> dict[str, list[float]]:
        points = measurements.get(self.key, {"points": []})["points"]
        return next((dict(point["times"]) for point in points if point["x"] == self.x), {})


def _ratio(times: dict[str, list[float]], of: str, by: str) -> float | None:
    if of not in times or by not in times:
        return None
    return statistics.median(times[of]) / statistics.median(times[by])


BARE: Final = "bare limit"
STDLIB: Final = "multiprocessing, blocking"
AWAITED: Final = "bare token, awaited"
ASKED: Final = (
    Asked("a process from start to joined", "start.joined", "aiomultiprocess, spawn", least=8),
    Asked("small items through a queue", "queue.small", "aioprocessing", least=30, limit=BARE),
    Asked("small items through a queue", "queue.small", STDLIB, least=3, limit=BARE),
    Asked("small items through a queue", "queue.small", BARE, least=0.7),
    Asked("an item there and back", "queue.trip", "aioprocessing", least=4, limit=BARE),
    Asked("an item there and back", "queue.trip", "aioproc", by=BARE, most=1.33),
    Asked("an array of 100 MB there and back", "queue.large", STDLIB, least=4),
    Asked("a free lock's pair of calls", "lock.free", "aioprocessing", least=15, limit="bare token"),
    Asked("a lock among 2 processes", "lock.turns", "aioproc", by="bare token", most=1.5, x=2),
    Asked("a lock among 2 processes", "lock.turns", "aioproc", by=AWAITED, most=1.5, x=2),
    Asked("a lock among 2 processes", "lock.turns", "aioproc twin", by="bare token", most=1.5, x=2),
    Asked("a lock among 32 processes", "lock.turns", "aioproc", by="bare token", most=1.5, x=32),
    Asked("a lock among 32 processes", "lock.turns", "aioproc", by=AWAITED, most=1.5, x=32),
    Asked("a lock among 32 processes", "lock.turns", "aioproc twin", by="bare token", most=1.5, x=32),
    Asked("a pool's call and result", "pool.trip", "run_in_executor", least=4, limit=BARE),
    Asked("a pool's call and result", "pool.trip", "anyio.to_process", least=1.5, limit=BARE),
    Asked("small calls, 1,000 at once", "pool.rate", "run_in_executor", least=6, limit=BARE),
    Asked("small calls, 1,000 at once", "pool.rate", "anyio.to_process", least=4, limit=BARE),
    Asked("a call with 8 MB", "pool.large", "run_in_executor", least=1),
    Asked("a call with 8 MB", "pool.large", "anyio.to_process", least=1),
    Asked("a map over 100,000 items", "pool.map", "multiprocessing.Pool, blocking", least=1),
)


def contenders(*keys: str) -> set[str]:
    """Who takes part in the ratios of these measurements."""
    found = {name for one in ASKED if one.key in keys for name in (one.of, one.by, one.limit)}
    return {name for name in found if name is not None}
