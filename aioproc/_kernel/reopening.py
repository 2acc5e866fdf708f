"""Pipes whose ends are opened anew, by whoever has one: a new writing end is what a death is noticed by.

A pipe belongs to the user that made it, and only he may open it. But who can name it has an end of it, and
may have changed its user since, as the workers of a server do that was started by root.

Source: proc(5) (/proc/self/fd), fchmod(2).
"""

from __future__ import annotations

import os

_FOR_ALL = 0o666


def reopening_pipe(flags: int = 0) -> tuple[int, int]:
    """A new pipe's reading and writing end."""
    reading, writing = os.pipe2(os.O_CLOEXEC | flags)
    os.fchmod(reading, _FOR_ALL)
    return reading, writing
