"""Tables and pictures of docs/design/speed.md, and the README's figures, from a run's JSON.

``python -m benchmarks.report FILE``

Each generated part of the page stands between ``<!-- measured: NAME -->`` and ``<!-- end -->``; the rest of
the page is left alone.
"""

from __future__ import annotations

import json
import re
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from benchmarks import plots
from benchmarks.asked import ASKED
from benchmarks.record import OURS, PERCENTILES
from benchmarks.short import with_figures

ROOT: Final = Path(__file__).parent.parent
PAGE: Final = ROOT / "docs" / "design" / "speed.md"
PICTURES: Final = ROOT / "docs" / "_static" / "speed"
READMES: Final = (ROOT / "README.md", ROOT / "README.zh.md")
PART: Final = re.compile(r"(<!-- measured: ([\w. -]+) -->\n).*?(<!-- end -->)", re.DOTALL)
SHOWN_PERCENTILES: Final = (50, 90, 99, 99.9)

Found = dict[str, Any]
Rows = list[list[str]]


def main(file: Path) -> None:
    """Write the page and draw the pictures."""
    found: Found = json.loads(file.read_text())
    drawn = plots.draw(found, PICTURES)
    print(f"{len(drawn)} pictures in {PICTURES}")
    page = PAGE.read_text()
    PAGE.write_text(PART.sub(lambda part: f"{part[1]}{generated(part[2], found)}{part[3]}", page))
    print(f"{len(PART.findall(page))} parts of {PAGE}")
    if not found["quick"]:
        for readme in READMES:
            readme.write_text(with_figures(readme.read_text(), found["measurements"]))


def generated(name: str, found: Found) -> str:
    """One part of the page: one of `SPECIAL`, or the table of a measurement."""
    if name in SPECIAL:
        return SPECIAL[name](found)
    measurement = found["measurements"].get(name)
    if measurement is None or not measurement["points"]:
        return "\nNot measured.\n\n"
    if measurement["points"][0]["x"] is None:
        return single(measurement)
    return series(measurement)


def markdown(head: list[str], rows: Rows) -> str:
    """A table."""
    lines = [head, ["---"] + ["---:"] * (len(head) - 1), *rows]
    return "\n" + "".join(f"| {' | '.join(line)} |\n" for line in lines) + "\n"


def figure(value: float) -> str:
    """Three digits that say something."""
    if value >= 1000:
        return f"{value:,.0f}"
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def single(measurement: Found) -> str:
    """Contenders below each other: median, least, most, percentiles where there are any, and the ratio."""
    point, scale, unit = measurement["points"][0], measurement["scale"], measurement["unit"]
    times, spread = point["times"], point["percentiles"]
    reference = OURS if OURS in times else next(iter(times))
    head = [measurement["title"], f"median, {unit}", "least", "most"]
    head += [f"{each:g}% within" for each in SHOWN_PERCENTILES if spread] + [f"times {reference}"]
    rows = []
    for name, taken in times.items():
        figures = [statistics.median(taken), min(taken), max(taken)]
        if spread:
            figures += [spread[name][PERCENTILES.index(each)] for each in SHOWN_PERCENTILES]
        against = statistics.median(taken) / statistics.median(times[reference])
        rows.append([name, *(figure(each * scale) for each in figures), figure(against)])
    return markdown(head, rows)


def series(measurement: Found) -> str:
    """Contenders below each other, x beside each other: medians."""
    points, scale = sorted(measurement["points"], key=lambda point: float(point["x"])), measurement["scale"]
    names = dict.fromkeys(name for point in points for name in point["times"])
    head = [f"{measurement['title']}: {measurement['unit']}"]
    head += [f"{point['x']:,g}" if point["x"] < 1e5 else f"{point['x']:.0e}" for point in points]
    rows = []
    for name in names:
        taken = [point["times"].get(name) for point in points]
        rows.append(
            [name, *("" if each is None else figure(statistics.median(each) * scale) for each in taken)]
        )
    return markdown(head, rows)


def machine(found: Found) -> str:
    """What it was measured on."""
    about = found["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    lines = [
        f"{about['date']}, Python {about['python']}, {about['system']}, {about['cores']} cores, "
        f"{sum(found['seconds'].values()):.0f} s in all; load when it was written: {about['load']:.1f}.",
        f"With {versions}.",
    ]
    if found["quick"]:
        lines.insert(0, "**A quick run, which shows only that everything works: these are no figures.**")
    lines += [f"Left out: {name} ({why})." for name, why in found["left_out"].items()]
    return "\n" + "\n".join(lines) + "\n\n"


def asked(found: Found) -> str:
    """What was asked, what was found, and what the bare limit would allow."""
    rows = []
    for each in ASKED:
        ratio, limit = each.found(found["measurements"]), each.limit_found(found["measurements"])
        verdict = "not measured" if ratio is None else "holds" if each.holds(ratio) else "**does not hold**"
        rows.append(
            [
                each.what,
                f"{each.of} / {each.by}",
                each.bound,
                "" if ratio is None else figure(ratio),
                verdict,
                "" if limit is None else figure(limit),
            ]
        )
    return markdown(["", "time of / by", "asked", "found", "", "were it the bare limit"], rows)


def operations(found: Found) -> str:
    """Where the time of each operation goes."""
    rows = []
    for row in found["rows"].get("operations", []):
        total = sum(row[part] for part in plots.PARTS_OF_TIME)
        columns = ("wall", "bare", *plots.PARTS_OF_TIME)
        rows.append(
            [row["name"], *(figure(row[each] * 1e6) for each in columns), f"{row['ours'] / total:.0%}"]
        )
    head = [
        "us an operation",
        "by the clock",
        "bare limit",
        "kernel",
        "pickle",
        "Python's calls and loop",
        "ours",
    ]
    return markdown([*head, "ours, of all"], rows)


def hour(found: Found) -> str:
    """The state after ten minutes' worth, and at the end."""
    rows = found["rows"].get("hour", [])
    if not rows:
        return "\nNot measured.\n\n"
    shown = [rows[len(rows) * part // 6 - 1] for part in (1, 3, 6)]
    body = [[name, *(figure(row[name]) for row in shown)] for name in shown[0]]
    return markdown(["", "after 10 minutes' worth", "30", "60"], body)


SPECIAL: Final[dict[str, Callable[[Found], str]]] = {
    "machine": machine,
    "asked": asked,
    "operations": operations,
    "hour": hour,
}


if __name__ == "__main__":
    main(Path(sys.argv[1]))
