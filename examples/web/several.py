"""Several servers that share one listening socket and are handed one lock; one that dies is started again.

``python -m examples.web.several [descriptor]``
"""

from __future__ import annotations

import signal
import socket
import sys

import anyio
import uvicorn

import aioproc
from examples.web.on_starlette import make_app

SERVERS = 2
GRACE = 5


def serve(listener: socket.socket, lock: aioproc.Lock) -> None:
    """What each child does: it got the socket and the lock as arguments."""
    config = uvicorn.Config(make_app(lock), log_level="warning", timeout_graceful_shutdown=GRACE)
    uvicorn.Server(config).run(sockets=[listener])


async def kept_alive(listener: socket.socket, lock: aioproc.Lock) -> None:
    """One server, and another one when that has died."""
    while True:
        async with aioproc.Process(target=serve, args=(listener, lock), daemon=False) as server:
            await server.join()


async def main() -> None:
    given = socket.socket(fileno=int(sys.argv[1])) if len(sys.argv) > 1 else None
    with given or socket.create_server(("127.0.0.1", 8000)) as listener:
        async with anyio.create_task_group() as tasks:
            lock = aioproc.Lock()
            for _ in range(SERVERS):
                tasks.start_soon(kept_alive, listener, lock)
            with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
                async for _ in signals:
                    tasks.cancel_scope.cancel()


if __name__ == "__main__":
    aioproc.run(main)
