"""How many CPUs there are to use, also in a container whose limit is a share of the machine's time."""

from __future__ import annotations

import os
from pathlib import Path

LIMIT = Path("/sys/fs/cgroup/cpu.max")


def cpus(limit: Path = LIMIT) -> int:
    """Whole ones, one at least; ``--cpus`` of Docker and a CPU limit of Kubernetes are a quota in a file."""
    allowed = len(os.sched_getaffinity(0))
    try:
        quota, period = limit.read_text().split()
    except OSError:  # no container, or an old one
        return allowed
    return allowed if quota == "max" else max(1, min(allowed, int(quota) // int(period)))
