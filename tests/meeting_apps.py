"""What web servers start for test_meeting.py: workers that meet by name and sell a ticket for each GET."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import aioproc
from tests.meeting_programs import sell_one

PATH, FOLDER = os.environ["MEETING_PATH"], Path(os.environ["MEETING_FOLDER"])


def answer(number: int) -> bytes:
    return f"{os.getpid()} {number}".encode()


class Asgi:
    """For uvicorn: meets in its lifespan."""

    hub: Any
    lock: aioproc.Lock

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            async with aioproc.meet(PATH) as hub:
                await receive()
                self.lock = hub.Lock("tickets")
                hub.Semaphore("workers", 0).release()
                await send({"type": "lifespan.startup.complete"})
                await receive()
            await send({"type": "lifespan.shutdown.complete"})
            return
        async with self.lock:
            body = answer(sell_one(FOLDER))
        headers = [(b"connection", b"close"), (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})


asgi = Asgi()
_hub: list[Any] = []


def wsgi(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """For gunicorn: met in `post_worker_init`."""
    with _hub[0].Lock("tickets"):
        body = answer(sell_one(FOLDER))
    start_response("200 OK", [("Connection", "close"), ("Content-Length", str(len(body)))])
    return [body]


def post_worker_init(worker: Any) -> None:
    """Gunicorn calls this in each worker, in its main thread."""
    _hub.append(aioproc.meet_sync(PATH).__enter__())
    _hub[0].Semaphore("workers", 0).release()


def worker_exit(server: Any, worker: Any) -> None:
    """Gunicorn calls this in a worker that ends."""
    _hub[0].__exit__(None, None, None)
