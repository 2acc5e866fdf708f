"""What a launch makes of a child that is quicker than its parent."""

from __future__ import annotations

import os

import pytest

from aioproc.local.process import ForkServerProcess

pytestmark = pytest.mark.anyio


async def test_ended_before_it_could_be_watched(monkeypatch: pytest.MonkeyPatch) -> None:
    """A child that the fork server has reaped before the parent looks has the exit code it ended with."""

    def too_late(pid: int, flags: int = 0) -> int:
        raise ProcessLookupError

    monkeypatch.setattr(os, "pidfd_open", too_late)
    p = ForkServerProcess(target=pow, args=(2, 5))
    assert await p == 32
    assert p.exitcode == 0
    p.close()
