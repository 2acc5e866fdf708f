"""What a run has measured: contenders take turns, medians are printed, and all goes into one JSON file."""

from __future__ import annotations

import json
import math
import os
import platform
import statistics
import time
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any, Final

from benchmarks.measuring import table

OURS: Final = "aioproc"
PERCENTILES: Final = (*range(100), 99.5, 99.9)
PEERS: Final = (
    *("aioprocessing", "aiomultiprocess", "anyio", "trio-parallel", "pebble", "loky", "mpire", "faster-fifo"),
    *("uvloop", "trio", "numpy"),
)

Sample = float | list[float]  # seconds of one operation, or of each


@dataclass
class Point:
    """The figures at one x: seconds of an operation, one for each turn."""

    x: float | None
    times: dict[str, list[float]] = field(default_factory=dict)
    percentiles: dict[str, list[float]] = field(default_factory=dict)


@dataclass
class Measurement:
    """One thing that was measured, at one or several x.

    Args:
        title: What it is.
        unit: Of what is printed.
        scale: From seconds to that unit.
        x_name: What changes from point to point.
    """

    title: str
    unit: str = "us"
    scale: float = 1e6
    x_name: str = ""
    points: list[Point] = field(default_factory=list)

    def at(self, x: float | None) -> Point:
        """The point at this x, new if need be."""
        for point in self.points:
            if point.x == x:
                return point
        self.points.append(Point(x))
        return self.points[-1]


class Record:
    """Measures, prints and keeps.

    Args:
        quick: Whether to see only that everything works: short turns, and one of each.
    """

    def __init__(self, quick: bool = False) -> None:
        self.quick = quick
        self.measurements: dict[str, Measurement] = {}
        self.rows: dict[str, list[dict[str, Any]]] = {}
        self.left_out: dict[str, str] = {}
        self.seconds: dict[str, float] = {}

    def rounds(self, wanted: int) -> int:
        """How many turns each gets."""
        return 1 if self.quick else wanted

    def turn(self, seconds: float) -> float:
        """How long a turn may be."""
        return seconds / 10 if self.quick else seconds

    def measurement(self, key: str, title: str, unit: str = "us", x_name: str = "") -> Measurement:
        """The measurement of this name, new if need be."""
        scale = {"us": 1e6, "ms": 1e3, "s": 1.0}[unit.split()[0]]
        return self.measurements.setdefault(key, Measurement(title, unit, scale, x_name))

    def take_turns(
        self,
        contenders: Mapping[str, Callable[[], Mapping[tuple[str, float | None], Sample]]],
        rounds: int,
    ) -> None:
        """Each contender runs once a round, and says what it has measured: measurement and x to seconds.

        One that raises is left out from then on, with a line.
        """
        running, samples = dict(contenders), dict[Hashable, list[float]]()
        for _ in range(self.rounds(rounds)):
            for name, contender in list(running.items()):
                try:
                    found = contender()
                except Exception as failure:
                    self.leave_out(name, f"{type(failure).__name__}: {failure}")
                    del running[name]
                    continue
                for (key, x), sample in found.items():
                    point = self.measurements[key].at(x)
                    if isinstance(sample, list):
                        pooled = samples.setdefault((key, x, name), [])
                        pooled += sample
                        point.percentiles[name] = percentiles(pooled)
                        sample = statistics.fmean(sample)
                    point.times.setdefault(name, []).append(sample)

    def take(
        self,
        key: str,
        contenders: Mapping[str, Callable[[], Sample]],
        rounds: int,
        x: float | None = None,
    ) -> None:
        """As `take_turns`, for contenders that measure one thing; and print it."""
        self.take_turns(
            {name: lambda run=run: {(key, x): run()} for name, run in contenders.items()},  # type: ignore[misc]
            rounds,
        )
        self.show(key, x)

    def show(self, key: str, x: float | None = None) -> None:
        """Print one point."""
        measurement = self.measurements[key]
        times = measurement.at(x).times
        if times:
            at = "" if x is None else f", {measurement.x_name} {x:,g}"
            reference = OURS if OURS in times else next(iter(times))
            print(f"\n{measurement.title}{at}")
            print(table(times, reference, measurement.scale, measurement.unit), flush=True)

    def leave_out(self, name: str, why: str) -> None:
        """Say that a contender does not take part, once."""
        if name not in self.left_out:
            self.left_out[name] = why
            print(f"left out: {name} ({why})", flush=True)

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Print where the run is, and how long the part took."""
        print(f"\n=== {name}", flush=True)
        before = time.perf_counter()
        yield
        self.seconds[name] = round(time.perf_counter() - before, 1)
        print(f"\n--- {name}: {self.seconds[name]} s", flush=True)

    def write(self, path: Path) -> None:
        """Write everything as JSON, six digits of each figure."""
        found = {
            "machine": machine(),
            "quick": self.quick,
            "seconds": self.seconds,
            "left_out": self.left_out,
            "measurements": {key: asdict(each) for key, each in self.measurements.items()},
            "rows": self.rows,
        }
        path.write_text(json.dumps(_short(found), indent=None, separators=(",", ":")) + "\n")


def percentiles(samples: list[float]) -> list[float]:
    """Those that `PERCENTILES` names."""
    ordered = sorted(samples)
    return [ordered[min(len(ordered) - 1, int(len(ordered) * each / 100))] for each in PERCENTILES]


def machine() -> dict[str, Any]:
    """What it ran on."""
    versions = {}
    for name in PEERS:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            pass
    return {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release().split('-')[0]}",
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0],
        "date": time.strftime("%Y-%m-%d %H:%M"),
        "versions": versions,
    }


def _short(value: Any) -> Any:
    if isinstance(value, float) and value and math.isfinite(value):
        return round(value, 5 - math.floor(math.log10(abs(value))))
    if isinstance(value, dict):
        return {key: _short(each) for key, each in value.items()}
    return [_short(each) for each in value] if isinstance(value, list) else value
