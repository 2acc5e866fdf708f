"""A uvicorn server whose requests fork a child, which then gets a signal: `... METHOD PORT`."""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

import uvicorn

import aioproc
from tests.until_signal import UntilSignal

METHOD = sys.argv[1] if len(sys.argv) > 1 else "fork"


def wait(to: int) -> None:
    signalled = UntilSignal()
    os.write(to, b"x")
    signalled.sleep()


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Start a child, send it the signal that the path names, answer with its exit code."""
    if scope["type"] != "http":
        return
    number = signal.Signals[scope["path"].strip("/")]
    reading, writing = os.pipe()
    from aioproc._kernel.handle import Handle

    handle = Handle(writing)
    process: Any = aioproc.get_context(METHOD).Process(target=wait_with, args=(handle,))
    await process.start()
    import anyio

    await anyio.wait_readable(reading)
    os.kill(process.pid, number)
    await process.join()
    os.close(reading)
    handle.close()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": str(process.exitcode).encode()})


def wait_with(handle: Any) -> None:
    wait(handle.fileno())


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[2]), log_level="warning")
