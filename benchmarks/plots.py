"""The pictures of docs/design/speed.md, drawn from a run's JSON; needs matplotlib."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final

from benchmarks.record import PERCENTILES

COLOURS: Final = {
    "aioproc": "#c2410c",
    "bare": "#111111",
    "multiprocessing": "#2563eb",
    "run_in_executor": "#2563eb",
    "aioprocessing": "#9333ea",
    "aiomultiprocess": "#0891b2",
    "anyio": "#16a34a",
    "trio": "#65a30d",
    "loky": "#ca8a04",
    "pebble": "#64748b",
    "mpire": "#db2777",
    "faster-fifo": "#16a34a",
    "asyncio": "#111111",
}
PARTS_OF_TIME: Final = {"kernel": "#94a3b8", "pickle": "#2563eb", "calls": "#111111", "ours": "#c2410c"}


def draw(found: dict[str, Any], folder: Path) -> list[str]:
    """Draw whatever the run has figures for; the names of the pictures."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams |= {
        "svg.fonttype": "none",
        "svg.hashsalt": "aioproc",
        "font.size": 9,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "legend.frameon": False,
        "legend.fontsize": 8,
    }
    folder.mkdir(parents=True, exist_ok=True)
    drawn = []
    for name, (needs, picture) in PICTURES.items():
        if all(need in found["measurements"] or found["rows"].get(need) for need in needs):
            _save(picture(found), folder / f"{name}.svg")
            drawn.append(name)
    return drawn


def _save(figure: Any, path: Path) -> None:
    figure.savefig(path, metadata={"Date": None}, bbox_inches="tight", facecolor="white")
    lines = path.read_text().splitlines()
    path.write_text("\n".join(line.rstrip() for line in lines) + "\n")


def _axes(count: int = 1, height: float = 3.6) -> tuple[Any, list[Any]]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.5 if count == 1 else 10, height), layout="constrained")
    axes = figure.subplots(1, count, squeeze=False)[0]
    return figure, list(axes)


def _style(name: str) -> dict[str, Any]:
    first = name.replace(",", " ").replace(".", " ").split()[0]
    dashes = (
        "--" if "uvloop" in name or "thread" in name else ":" if "twin" in name or "trio" in name else "-"
    )
    wide = 2.0 if name == "aioproc" else 1.2
    return {"color": COLOURS.get(first, "#64748b"), "linestyle": dashes, "linewidth": wide, "label": name}


def _lines(axes: Any, measurement: dict[str, Any], figure_of: Callable[[float, float], float]) -> None:
    """A line for each contender over the x of a measurement."""
    points = sorted(measurement["points"], key=lambda point: float(point["x"]))
    names = dict.fromkeys(name for point in points for name in point["times"])
    for name in names:
        at = [point for point in points if name in point["times"]]
        xs = [point["x"] for point in at]
        ys = [figure_of(point["x"], statistics.median(point["times"][name])) for point in at]
        axes.plot(xs, ys, marker=".", **_style(name))


def _names(axes: Any, x: str, y: str, title: str, log: str = "xy", below: int = 0) -> None:
    """Say what is shown; ``below``: columns of the legend below the axes, else it is inside."""
    axes.set(xlabel=x, ylabel=y, title=title)
    if "x" in log:
        axes.set_xscale("log")
    if "y" in log:
        axes.set_yscale("log")
    axes.grid(alpha=0.25)
    if below:
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=below)
    else:
        axes.legend()


def sizes(found: dict[str, Any]) -> Any:
    """Throughput against the size of an item."""
    figure, (items, data) = _axes(2)
    measurement = found["measurements"]["queue.sizes"]
    _lines(items, measurement, lambda size, seconds: 1 / seconds)
    _names(items, "bytes an item", "items a second", "One producer, one consumer")
    _lines(data, measurement, lambda size, seconds: size / seconds / 1e6)
    _names(data, "bytes an item", "MB a second", "The same in bytes")
    return figure


def processes(found: dict[str, Any]) -> Any:
    """Throughput against the number of processes, of queues and locks."""
    figure, (queues, locks) = _axes(2)
    _lines(queues, found["measurements"]["queue.processes"], lambda many, seconds: 1 / seconds)
    _names(queues, "processes (half put, half get)", "items a second", "One queue")
    _lines(locks, found["measurements"]["lock.turns"], lambda many, seconds: seconds * 1e6)
    _names(locks, "processes that all want it", "us a turn, less the section", "One lock")
    for axes in (queues, locks):
        axes.set_xscale("log", base=2)
    return figure


def latencies(found: dict[str, Any]) -> Any:
    """How long each round trip took."""
    figure, both = _axes(2, 5.2)
    for axes, key, title in zip(
        both,
        ("queue.trip", "pool.trip"),
        ("A queue's item there and back", "A pool's call and its result"),
        strict=True,
    ):
        for name, seconds in found["measurements"][key]["points"][0]["percentiles"].items():
            axes.plot([each * 1e6 for each in seconds[::2]], PERCENTILES[::2], **_style(name))
        _names(axes, "us", "percent that took no longer", title, log="x", below=2)
    return figure


def lengths(found: dict[str, Any]) -> Any:
    """Calls per second against their length."""
    figure, (axes,) = _axes(1, 5.6)
    measurement = found["measurements"]["pool.lengths"]
    _lines(axes, measurement, lambda length, seconds: 1 / seconds)
    xs = [point["x"] for point in measurement["points"] if point["x"]]
    limit = {"color": "#111111", "linestyle": ":", "label": "both workers busy all the time"}
    axes.plot(xs, [2 / x for x in xs], **limit)
    _names(axes, "seconds a call (the leftmost: none)", "calls a second", "Two workers, busy calls", below=3)
    axes.set_xscale("symlog", linthresh=2e-5, linscale=0.4)
    axes.set_xlim(left=0)
    return figure


def workers(found: dict[str, Any]) -> Any:
    """Pools of 1 to 64 workers, and 1 to 10,000 calls."""
    figure, (left, right) = _axes(2)
    measurement = found["measurements"]["pool.workers"]
    _lines(left, measurement, lambda many, seconds: 1 / seconds)
    xs = [point["x"] for point in measurement["points"]]
    left.plot(xs, [100 * x for x in xs], color="#111111", linestyle=":", label="all asleep all the time")
    _names(left, "workers", "calls a second", "Calls that sleep 10 ms")
    left.set_xscale("log", base=2)
    _lines(right, found["measurements"]["pool.numbers"], lambda many, seconds: seconds * 1e6)
    _names(right, "calls that wait at the same time", "us a call", "Small calls, two workers")
    return figure


def tasks(found: dict[str, Any]) -> Any:
    """1 to 10,000 tasks that wait at one queue."""
    figure, (axes,) = _axes(1, 3.2)
    _lines(axes, found["measurements"]["queue.tasks"], lambda many, seconds: seconds * 1e6)
    _names(axes, "tasks that wait", "us an item", "Tasks of one process at one queue", log="x")
    axes.set_ylim(bottom=0)
    return figure


def hour(found: dict[str, Any]) -> Any:
    """Memory and descriptors, minute by minute."""
    figure, (memory, descriptors) = _axes(2, 3.2)
    rows = found["rows"]["hour"]
    for axes, what, unit in ((memory, "memory", "MB"), (descriptors, "descriptors", "open descriptors")):
        for name, colour in ((what, "#c2410c"), (f"{what} of workers", "#2563eb")):
            label = "the parent" if name == what else "both workers"
            axes.plot(range(1, len(rows) + 1), [row[name] for row in rows], color=colour, label=label)
        _names(axes, "minute's worth of calls", unit, what.capitalize(), log="")
        axes.set_ylim(bottom=0)
    return figure


def operations(found: dict[str, Any]) -> Any:
    """Where the time of each operation goes."""
    rows = found["rows"]["operations"]
    figure, (short, long) = _axes(2, 3.4)
    for axes, shown in ((short, _below(rows, 25e-6)), (long, [row for row in rows if row["wall"] >= 25e-6])):
        _bars(axes, shown)
    handles, labels = short.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))
    return figure


def _below(rows: Iterable[dict[str, Any]], seconds: float) -> list[dict[str, Any]]:
    return [row for row in rows if row["wall"] < seconds]


def _bars(axes: Any, rows: list[dict[str, Any]]) -> None:
    names = [row["name"] for row in rows]
    left = [0.0] * len(rows)
    words = {"calls": "Python's calls and loop, as in the bare limit"}
    for part, colour in PARTS_OF_TIME.items():
        widths = [row[part] * 1e6 for row in rows]
        axes.barh(names, widths, left=left, color=colour, label=words.get(part, part), height=0.6)
        left = [before + width for before, width in zip(left, widths, strict=True)]
    axes.plot(
        [row["wall"] * 1e6 for row in rows], names, "o", color="#111111", markersize=4, label="by the clock"
    )
    bare = [row["bare"] * 1e6 for row in rows]
    axes.plot(
        bare, names, "|", color="#16a34a", markersize=14, markeredgewidth=2, label="bare limit, by the clock"
    )
    axes.invert_yaxis()
    axes.set_xlabel("us an operation")
    axes.set_xlim(left=0)


PICTURES: Final[dict[str, tuple[tuple[str, ...], Callable[[dict[str, Any]], Any]]]] = {
    "operations": (("operations",), operations),
    "queue_sizes": (("queue.sizes",), sizes),
    "processes": (("queue.processes", "lock.turns"), processes),
    "latencies": (("queue.trip", "pool.trip"), latencies),
    "pool_lengths": (("pool.lengths",), lengths),
    "pool_scale": (("pool.workers", "pool.numbers"), workers),
    "queue_tasks": (("queue.tasks",), tasks),
    "hour": (("hour",), hour),
}
