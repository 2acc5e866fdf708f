"""What a child says of itself when it is ended."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent

ENDED_TOO_SOON = """
import os, signal
import aioproc

async def work():
    pass

class EndedTooSoon(aioproc.get_context("fork").Process):
    def run(self):
        made = work()
        os.kill(os.getpid(), signal.SIGTERM)
        return made

async def main():
    p = EndedTooSoon()
    await p.start()
    await p.join()
    print(p.exitcode)

aioproc.run(main)
"""


def test_ended_before_its_coroutine_runs() -> None:
    """A child that is ended while its loop starts says nothing of coroutines that were never awaited."""
    command = [sys.executable, "-c", ENDED_TOO_SOON]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=30)
    assert (done.stdout, done.stderr) == ("-15\n", "")
