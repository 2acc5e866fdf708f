"""Each measured figure in the docs names the program here that made it: ``python -m benchmarks.NAME``."""

import os
import sys


def as_part(name: str) -> None:
    """For ``python -m benchmarks.NAME``: go on as ``python -m benchmarks NAME``, which is the same."""
    os.execv(sys.executable, [sys.executable, "-m", "benchmarks", name, *sys.argv[1:]])
