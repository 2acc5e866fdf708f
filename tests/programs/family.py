"""A parent whose children must not outlive it: `python -m tests.programs.family KIND METHOD`.

Prints the pid of each child, one a line, then waits.
"""

from __future__ import annotations

import os
import sys
import time
from typing import Any

import anyio

import aioproc
from aioproc import ProcessGroup, get_context


def busy_in_c(to: int) -> None:
    """Tell the pid, then hold the interpreter's lock for hours."""
    os.write(to, f"{os.getpid()}\n".encode())
    sum(range(10**13))


def asleep(to: int) -> None:
    os.write(to, f"{os.getpid()}\n".encode())
    time.sleep(3600)


async def async_asleep(to: int) -> None:
    os.write(to, f"{os.getpid()}\n".encode())
    await anyio.sleep(3600)


async def group_inside(to: int, method: str) -> None:
    """A child with a group of its own."""
    async with ProcessGroup(grace=1) as group:
        context: Any = get_context(method)
        for target in (busy_in_c, asleep, async_asleep):
            await group.start(context.Process(target=target, args=(to,)))
        os.write(to, f"{os.getpid()}\n".encode())


async def daemons(method: str) -> None:
    """Three daemons, of which nobody waits for any."""
    context: Any = get_context(method)
    for target in (busy_in_c, asleep, async_asleep):
        await context.Process(target=target, args=(1,), daemon=True).start()
    await anyio.sleep(3600)


async def group(method: str) -> None:
    """Three members of a group."""
    async with ProcessGroup() as group:
        context: Any = get_context(method)
        for target in (busy_in_c, asleep, async_asleep):
            await group.start(context.Process(target=target, args=(1,)))


async def nested(method: str) -> None:
    """A child with a group of its own; the first line is this child's pid."""
    context: Any = get_context(method)
    async with context.Process(target=group_inside, args=(1, method)) as p:
        os.write(1, f"{p.pid}\n".encode())


if __name__ == "__main__":
    aioproc.run({"daemons": daemons, "group": group, "nested": nested}[sys.argv[1]], sys.argv[2])
