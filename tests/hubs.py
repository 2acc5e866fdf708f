"""The hubs of meetings, seen from outside, and a place to meet at."""

from __future__ import annotations

import os
import select
import shutil
import tempfile
from collections.abc import Iterator

import psutil


def hubs_at(path: str) -> list[psutil.Process]:
    """The hubs that live at a path."""
    found = []
    for process in psutil.process_iter(["cmdline", "status"]):
        line = process.info["cmdline"] or []
        if path in line and any("_kernel.hub" in word for word in line):
            found.append(process)
    return found


def ended(process: psutil.Process) -> bool:
    """Wait until a process that is no child of ours has ended; whether it did in time."""
    try:
        watch = os.pidfd_open(process.pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([watch], [], [], 10)[0])
    finally:
        os.close(watch)


def kill_hub(path: str) -> None:
    """SIGKILL the hub at a path, and wait until it is gone."""
    (hub,) = hubs_at(path)
    hub.kill()
    assert ended(hub)


def meeting_place() -> Iterator[str]:
    """Where to meet; afterwards the hub has ended and its files are gone."""
    folder = tempfile.mkdtemp()
    where = os.path.join(folder, "hub")
    yield where
    all_ended = all(map(ended, hubs_at(where)))
    left = os.listdir(folder)
    shutil.rmtree(folder)
    assert (all_ended, left) == (True, [])
