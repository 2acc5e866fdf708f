"""Programs whose main module no child can import: notebooks, `python -c`, standard input."""

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

class Number:
    def __init__(self, value):
        self.value = value

async def double(number):
    return Number(number.value * 2)

async def main():
    if "--without" in sys.argv:
        sys.modules["cloudpickle"] = None
    queue = aioproc.Queue()
    async with aioproc.get_context(sys.argv[1]).Process(target=double, args=(Number(21),)) as p:
        print((await p.result()).value)
    await queue.put(double)
    print((await queue.get()).__name__)

aioproc.run(main)
"""


def outcome(*args: str, by: str = "-c") -> subprocess.CompletedProcess[str]:
    """The program, given with -c or as standard input."""
    command = [sys.executable, "-c", PROGRAM, *args] if by == "-c" else [sys.executable, "-", *args]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    program = None if by == "-c" else PROGRAM
    return subprocess.run(command, env=environment, input=program, capture_output=True, text=True, timeout=30)


@pytest.mark.parametrize("by", ["-c", "stdin"])
@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
def test_functions_of_an_unreachable_main_travel_by_value(method: str, by: str) -> None:
    """With cloudpickle, functions and classes of such a main module travel like others."""
    done = outcome(method, by=by)
    assert (done.stdout, done.stderr) == ("42\ndouble\n", "")


@pytest.mark.parametrize("method", ["forkserver", "spawn"])
def test_without_cloudpickle_the_error_says_so(method: str) -> None:
    """Without cloudpickle the start is refused, and the error says what to install."""
    done = outcome(method, "--without")
    assert "no other process can import" in done.stderr
    assert "pip install aioproc[cloudpickle]" in done.stderr
