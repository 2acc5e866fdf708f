"""All that is measured, in one process tree: ``python -m benchmarks [PART ...] [--json FILE] [--quick]``.

Contenders take turns, so that a busy minute of the machine meets them all; those that are not installed are
left out with a line. ``python -m benchmarks.report FILE`` makes tables and pictures of a JSON file. Programs
of their own are ``benchmarks.digest_tree``, ``benchmarks.pool_memory`` and ``benchmarks.web``.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import time
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Final

import aioproc
from benchmarks import loops
from benchmarks.record import Record

PARTS: Final = ("hour", "operations", "start", "queue", "lock", "pool")  # the hour in a process that is new
PRELOADED: Final = ("asyncio", "anyio", "anyio._backends._asyncio", *(f"benchmarks.{part}" for part in PARTS))


def main(arguments: Sequence[str]) -> None:
    """Measure the parts that are named, or all."""
    parser = argparse.ArgumentParser(
        "python -m benchmarks", description=__doc__.splitlines()[0] if __doc__ else ""
    )
    parser.add_argument(
        "parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; all if none is named"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="where to write all figures")
    parser.add_argument("--quick", action="store_true", help="only see that everything works")
    chosen = parser.parse_args(arguments)
    unknown = set(chosen.parts) - set(PARTS)
    if unknown:
        parser.error(f"no such part: {', '.join(sorted(unknown))}")
    for context in (multiprocessing.get_context("forkserver"), aioproc.get_context("forkserver")):
        context.set_forkserver_preload(list(PRELOADED))  # what the children of all contenders need
    record, before = Record(chosen.quick), time.perf_counter()
    for name in [each for each in PARTS if each in chosen.parts or not chosen.parts]:
        with record.part(name):
            import_module(f"benchmarks.{name}").measure(record)
    loops.close()
    print(f"\nall in {time.perf_counter() - before:.0f} s")
    if chosen.json:
        record.write(chosen.json)
        print(f"written to {chosen.json}")


if __name__ == "__main__":
    main(sys.argv[1:])
