"""CPython's own tests pass on the twins."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FEWEST = {
    "TestLock": 3,
    "TestQueue": 10,
    "TestSemaphore": 3,
    "TestCondition": 7,
    "TestEvent": 1,
    "TestBarrier": 11,
}


@pytest.mark.skipif(
    importlib.util.find_spec("test._test_multiprocessing") is None,
    reason="this Python came without CPython's own tests, as some distributions have them in a package apart",
)
@pytest.mark.timeout(300)
def test_the_stdlibs_own_tests() -> None:
    """Every test of the family that this Python brings passes under fork and forkserver, none skipped."""
    suites = [begun(method) for method in ("fork", "forkserver")]  # side by side, for they mostly sleep
    ended = [(suite.communicate(timeout=280)[1], suite.returncode) for suite in suites]
    for told, code in ended:
        assert code == 0, told
        assert "skipped" not in told
        for name, fewest in FEWEST.items():
            assert len(re.findall(rf"^\w+ \(tests\.stdlib_suite\.{name}\b", told, re.M)) >= fewest


def begun(method: str) -> subprocess.Popen[str]:
    """The suite, for one start method."""
    return subprocess.Popen(
        [sys.executable, "-W", "ignore", "-m", "unittest", "-v", "tests.stdlib_suite"],
        cwd=ROOT,
        env=os.environ | {"AIOPROC_START_METHOD": method, "PYTHONPATH": str(ROOT)},
        text=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
