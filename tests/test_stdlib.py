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
@pytest.mark.parametrize("method", ["fork", "forkserver"])
@pytest.mark.timeout(300)
def test_the_stdlibs_own_tests(method: str) -> None:
    """Every test of the family that the running Python brings passes, none skipped."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "unittest", "-v", "tests.stdlib_suite"],
        cwd=ROOT,
        env=os.environ | {"AIOPROC_START_METHOD": method, "PYTHONPATH": str(ROOT)},
        text=True,
        capture_output=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr
    assert "skipped" not in done.stderr
    for name, fewest in FEWEST.items():
        assert len(re.findall(rf"^\w+ \(tests\.stdlib_suite\.{name}\b", done.stderr, re.M)) >= fewest
