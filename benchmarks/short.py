"""The README's short table, in each language: a row for each line that ends with a benchmark's command."""

from __future__ import annotations

import re
import statistics
from typing import Any, Final, NamedTuple

from benchmarks.record import OURS

LINE: Final = re.compile(r"^\|(.*)\|(.*)\|.*\|.*\|( `python -m benchmarks\.\w+` )\|$", re.MULTILINE)


class Row(NamedTuple):
    """What stands in a row: a measurement, the other contender, and what that is called there."""

    key: str
    other: str
    called: str


ROWS: Final = (
    Row("start.joined", "aiomultiprocess, spawn", "aiomultiprocess"),
    Row("lock.free", "aioprocessing", "aioprocessing"),
    Row("queue.small", "aioprocessing", "aioprocessing"),
    Row("queue.trip", "aioprocessing", "aioprocessing"),
    Row("queue.large", "multiprocessing, blocking", "`multiprocessing.Queue`"),
    Row("pool.trip", "run_in_executor", "`ProcessPoolExecutor`"),
    Row("pool.trip", "aiomultiprocess", "aiomultiprocess"),
)


def with_figures(text: str, measurements: dict[str, Any]) -> str:
    """The text with the figures of a run; as it was if the run lacks one of them."""
    rows = iter(ROWS)
    try:
        return LINE.sub(lambda line: _filled(line, next(rows), measurements), text)
    except (KeyError, IndexError, StopIteration):
        return text


def _filled(line: re.Match[str], row: Row, measurements: dict[str, Any]) -> str:
    measurement = measurements[row.key]
    times, scale, unit = (
        measurement["points"][0]["times"],
        measurement["scale"],
        measurement["unit"].split()[0],
    )
    ours, others = statistics.median(times[OURS]), statistics.median(times[row.other])
    own = f" {two_digits(ours * scale)} {unit} " if line[2].strip() else line[2]
    their = f" {row.called} {two_digits(others * scale)} {unit} "
    return f"|{line[1]}|{own}|{their}| {two_digits(others / ours)} |{line[3]}|"


def two_digits(value: float) -> str:
    """As many digits as say something."""
    return f"{value:,.0f}" if value >= 10 else f"{value:.1f}"
