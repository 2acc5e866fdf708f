"""What the how-to pages show is so: their programs print what stands below them."""

from __future__ import annotations

import ast
import doctest
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import aioproc

ROOT = Path(__file__).parent.parent
HOWTO = ROOT / "docs" / "howto"
ELSEWHERE = ("dask", "share_between_workers", "web")  # the tests of what these pages are about run them
PAGES = [page for page in sorted(HOWTO.glob("*.md")) if not page.stem.startswith(ELSEWHERE)]
BLOCK = re.compile(r"```python\n(.*?)```(?:\n\n```text\n(.*?)```)?", re.DOTALL)

# As a notebook does: a main module that no child can import, and `await` at the top.
CELL = """
import ast, asyncio, inspect, sys
_code = compile(sys.stdin.read(), "cell", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
_running = eval(_code)
if inspect.iscoroutine(_running):
    asyncio.run(_running)
"""


def outcome(folder: Path, source: str) -> tuple[str, str]:
    """What a block prints, run as the kind of program that it is."""
    file = folder / "test_shown.py"
    file.write_text(source)
    command = [sys.executable, str(file)]
    if "def test_" in source:
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(file)]
    elif "__main__" not in source:
        command = [sys.executable, "-c", CELL]
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    environment = os.environ | {"PYTHONPATH": path}
    done = subprocess.run(
        command, env=environment, cwd=folder, input=source, capture_output=True, text=True, timeout=50
    )
    return done.stdout, done.stderr


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.stem))
def test_programs(page: Path, tmp_path: Path) -> None:
    """Each program prints what the page says; each module of tests passes; each fragment is Python."""
    ran = 0
    for source, expected in BLOCK.findall(page.read_text()):
        if "def test_" in source:
            said, wrong = outcome(tmp_path, source)
            assert (re.search(r"^\d+ passed in", said, re.MULTILINE), wrong) != (None, ""), said
        elif expected:
            said, wrong = outcome(tmp_path, source)
            assert wrong == ""
            assert doctest.OutputChecker().check_output(expected, said, doctest.ELLIPSIS), said
        else:
            compile(source, page.name, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
            continue
        ran += 1
    assert ran, "a page has a complete program"


# What the table of names calls an object of each class.
CALLED = {
    "AsyncPool": "pool",
    "AsyncResult": "r",
    "Barrier": "barrier",
    "Condition": "cond",
    "Connection": "a",
    "Event": "event",
    "JoinableQueue": "q",
    "Lock": "lock",
    "Process": "p",
}


def test_names_to_move_to() -> None:
    """Every name and method in the tables' column of aioproc is there."""
    kinds = {name: getattr(aioproc, kind) for kind, name in CALLED.items()}
    rows = [
        line.split(" | ")[1]
        for line in (HOWTO / "move_here.md").read_text().splitlines()
        if line.startswith("| ") and "aioproc | what differs" not in line
    ]
    assert len(rows) > 40
    for row in rows:
        for name, method in re.findall(r"\b(\w+)\.(?:sync\.)?(\w+)\(", row):
            assert hasattr(kinds[name], method), row
        names = set(re.findall(r"(?<![\w.])([A-Z]\w+)\b", row)) - {"None", "ProcessPoolExecutor"}
        assert names <= set(aioproc.__all__), row
