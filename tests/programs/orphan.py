"""A parent that ends while a daemon that ignores SIGTERM runs, whose fork server was killed."""

from __future__ import annotations

import os
import signal

import anyio

import aioproc
from aioproc._kernel.forkserver import server
from aioproc._kernel.handle import Handle


def deaf(to: Handle) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    os.write(1, f"{os.getpid()}\n".encode())
    os.write(to.fileno(), b"x")
    while True:
        signal.pause()


async def main() -> None:
    reading, writing = os.pipe()
    p = aioproc.get_context("forkserver").Process(target=deaf, args=(Handle(writing),), daemon=True)
    await p.start()
    await anyio.wait_readable(reading)
    os.kill(server._forkserver_pid, signal.SIGKILL)
    await anyio.wait_readable(p.sentinel)


if __name__ == "__main__":
    aioproc.run(main)
