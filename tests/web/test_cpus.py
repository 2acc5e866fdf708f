"""How many CPUs a container leaves."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from examples.web.cpus import cpus


@pytest.mark.parametrize(("text", "expected"), [("max 100000", 4), ("250000 100000", 2), ("50000 100000", 1)])
def test_cpus(text: str, expected: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The quota of a container counts, rounded down; without one, the CPUs that this process may run on."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2, 3})
    (tmp_path / "cpu.max").write_text(f"{text}\n")
    assert cpus(tmp_path / "cpu.max") == expected
    assert cpus(tmp_path / "none") == 4
