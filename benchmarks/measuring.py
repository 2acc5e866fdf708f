"""Contenders side by side in one run: they take turns, so that a busy minute of the machine meets them all.

times = await alternate({"aioproc": ours, "peer": theirs}, rounds=15)
print(table(times, reference="aioproc"))
"""

from __future__ import annotations

import inspect
import statistics
import time
from collections.abc import Awaitable, Callable, Mapping

Contender = Callable[[], Awaitable[float | None] | float | None]
Times = dict[str, list[float]]


async def alternate(contenders: Mapping[str, Contender], rounds: int = 15, warm_up: int = 1) -> Times:
    """Let each contender run once a round; the seconds each took, without the rounds that warm up.

    A contender that returns a number has measured itself (or counts something); else its run is timed.
    """
    times: Times = {name: [] for name in contenders}
    for round_ in range(warm_up + rounds):
        for name, contender in contenders.items():
            seconds = await _run(contender)
            if round_ >= warm_up:
                times[name].append(seconds)
    return times


async def _run(contender: Contender) -> float:
    before = time.perf_counter()
    measured = contender()
    if inspect.isawaitable(measured):
        measured = await measured
    return time.perf_counter() - before if measured is None else float(measured)


def ratio(times: Times, of: str, to: str) -> float:
    """How many times the median of the one is that of the other."""
    return statistics.median(times[of]) / statistics.median(times[to])


def table(times: Times, reference: str, scale: float = 1e3, unit: str = "ms") -> str:
    """A line for each contender: median, quickest, slowest, and its median against the reference's."""
    width = max(map(len, times))
    lines = [f"{'':{width}}  {'median':>9} {'least':>9} {'most':>9}  times {reference}"]
    for name, taken in times.items():
        figures = (statistics.median(taken), min(taken), max(taken))
        columns = " ".join(f"{scale * figure:9.2f}" for figure in figures)
        lines.append(f"{name:{width}}  {columns}  {ratio(times, name, reference):6.2f}")
    most, least = max(map(len, times.values())), min(map(len, times.values()))
    runs = f"{least}" if least == most else f"{least} to {most}"
    return "\n".join([*lines, f"({unit}, {runs} runs each, taking turns)"])
