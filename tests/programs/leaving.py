"""A parent that ends while its children run, two daemons and one that is none: `... METHOD`."""

from __future__ import annotations

import os
import sys
from typing import Any

import anyio

import aioproc
from aioproc._kernel.handle import Handle


def tell(to: Handle) -> None:
    """The pid to the test, a byte to the parent."""
    os.write(1, f"{os.getpid()}\n".encode())
    os.write(to.fileno(), b"x")


def stuck(to: Handle) -> None:
    tell(to)
    sum(range(10**13))


async def polite(to: Handle) -> None:
    try:
        tell(to)
        await anyio.sleep(3600)
    finally:
        os.write(1, b"unwound\n")


async def outlasting(to: Handle) -> None:
    tell(to)
    await anyio.sleep(1)
    os.write(1, b"joined\n")


async def main(method: str) -> None:
    context: Any = aioproc.get_context(method)
    reading, writing = os.pipe()
    to = Handle(writing)
    for target, daemon in ((stuck, True), (polite, True), (outlasting, False)):
        await context.Process(target=target, args=(to,), daemon=daemon).start()
    for _ in range(3):
        await anyio.wait_readable(reading)
        os.read(reading, 1)


if __name__ == "__main__":
    aioproc.run(main, sys.argv[1])
    print("end of main", flush=True)
