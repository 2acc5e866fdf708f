"""The fork server imports the main module once, for all children."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent

PROGRAM = """
import sys
import aioproc
{before}
print("imported as", __name__, flush=True)

async def work():
    return __name__

async def main():
    for _ in range(3):
        try:
            print("worked in", await aioproc.get_context("forkserver").Process(target=work), flush=True)
        except Exception as error:
            print(type(error).__name__, error, flush=True)

{guard}aioproc.run(main)
"""
GUARD = 'if __name__ == "__main__": '


def lines(folder: Path, by: str, before: str = "", guard: str = GUARD) -> list[str]:
    """What the program prints, run by its path or as a module."""
    (folder / "neighbour.py").touch()
    (folder / "program.py").write_text(PROGRAM.format(before=before, guard=guard))
    command = [sys.executable, "program.py"] if by == "path" else [sys.executable, "-m", "program"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=folder, env=environment, text=True, capture_output=True, timeout=30)
    return done.stdout.splitlines()


@pytest.mark.parametrize("by", ["path", "-m"])
def test_once_for_all(tmp_path: Path, by: str) -> None:
    """Three children, one import, whether the program is run by its path or as a module."""
    imported = ["imported as __main__", "imported as __mp_main__"]
    assert lines(tmp_path, by, "import neighbour") == [*imported, *["worked in __mp_main__"] * 3]


def test_a_main_module_that_fails_to_import(tmp_path: Path) -> None:
    """The server goes on without it, and each child says what went wrong."""
    failing = "if __name__ != '__main__': raise LookupError('not here')"
    assert lines(tmp_path, "path", failing) == ["imported as __main__", *["LookupError not here"] * 3]


def test_missing_guard(tmp_path: Path) -> None:
    """A program that starts processes while it is imported is told so, and makes no more processes."""
    found = lines(tmp_path, "path", guard="")
    assert [line for line in found if line.startswith("RuntimeError")] == [
        line for line in found if "Put what starts them under" in line
    ]
    assert sum(line.startswith("RuntimeError") for line in found) == 3


def test_other_programs_are_not_told(tmp_path: Path) -> None:
    """What the server was told is in nobody's environment afterwards."""
    before = "import os; print(sorted(name for name in os.environ if name.startswith('AIOPROC')))"
    assert "[]" in lines(tmp_path, "path", before)
    assert not any(line.startswith("['AIOPROC") for line in lines(tmp_path, "path", before))
