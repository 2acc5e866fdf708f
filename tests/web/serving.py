"""A server as a process of its own, on a port that nobody else has, and what one hears from it."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parent.parent.parent
LIMIT_SECONDS = 30
ENDLESS = 10**9  # takes hours

STARLETTE = "examples.web.on_starlette:app"
UVICORN = ["-m", "uvicorn", "--fd", "0", "--log-level", "error", "--timeout-graceful-shutdown", "1"]
GUNICORN = ["-m", "gunicorn", "--bind", "fd://0", "--worker-class", "asgi"]
GUNICORN += ["--log-level", "error", "--graceful-timeout", "1"]
HYPERCORN = ["-m", "hypercorn", "--bind", "fd://0", "--worker-class", "trio", "--graceful-timeout", "1"]

SERVERS = {
    "fastapi": [*UVICORN, "examples.web.on_fastapi:app"],
    "starlette": [*UVICORN, STARLETTE],
    "gunicorn": [*GUNICORN, STARLETTE],
    "hypercorn": [*HYPERCORN, STARLETTE],
    "django": [*UVICORN, "examples.web.on_django:app"],
    "aiohttp": ["-m", "examples.web.on_aiohttp", "0"],
}


class Reply(NamedTuple):
    """An answer, read to its end."""

    status: int
    headers: dict[str, str]
    body: Any


class Request:
    """One that was sent; its answer has yet to come."""

    def __init__(self, port: int, path: str, method: str = "GET") -> None:
        self.connection = HTTPConnection("127.0.0.1", port, timeout=LIMIT_SECONDS)
        self.connection.request(method, path)
        self._response: HTTPResponse | None = None

    def fileno(self) -> int:
        return self.connection.sock.fileno()

    def response(self) -> HTTPResponse:
        """Its head; the body can be read as it comes."""
        if self._response is None:
            self._response = self.connection.getresponse()
        return self._response

    def reply(self) -> Reply:
        """All of it."""
        with closing(self), self.response() as response:
            body = response.read()
            headers = {name.lower(): value for name, value in response.getheaders()}
            is_json = headers.get("content-type", "").startswith("application/json")
            return Reply(response.status, headers, json.loads(body) if is_json else body)

    def events(self) -> Iterator[Any]:
        """Server-sent events, as they come."""
        for line in self.response():
            if line.startswith(b"data: "):
                yield json.loads(line.removeprefix(b"data: "))

    def close(self) -> None:
        """Go away."""
        if self._response is not None:
            self._response.close()
        self.connection.close()


class Server:
    """A running one.

    Its standard error is a pipe. What it and its workers write there is heard here; it is at its end when
    every process that could write to it has gone.
    """

    def __init__(self, process: subprocess.Popen[bytes], port: int, heard: int) -> None:
        self.process = process
        self.port = port
        self._heard = heard
        self._text = b""
        self.lines: list[str] = []

    def send(self, path: str, method: str = "GET") -> Request:
        """A request, without waiting for its answer."""
        return Request(self.port, path, method)

    def ask(self, path: str, method: str = "GET") -> Reply:
        """A request and its answer."""
        return self.send(path, method).reply()

    def hear(self, words: str = f"counts below {ENDLESS}") -> int:
        """The process that says this, the next time that one does."""
        while True:
            while b"\n" in self._text:
                line, _, self._text = self._text.partition(b"\n")
                self.lines.append(line.decode(errors="replace"))
                if self.lines[-1].partition(" ")[2] == words:
                    return int(self.lines[-1].partition(" ")[0])
            if not self._more():
                raise AssertionError(f"ended without {words!r}:\n{self}")

    def silent(self) -> None:
        """Hear on until every process has gone."""
        while self._more():
            pass

    def _more(self) -> bool:
        if not select.select([self._heard], [], [], LIMIT_SECONDS)[0]:
            raise AssertionError(f"nothing within {LIMIT_SECONDS} s:\n{self}")
        text = os.read(self._heard, 65536)
        self._text += text
        return bool(text)

    def __str__(self) -> str:
        return "\n".join([*self.lines, self._text.decode(errors="replace")])


@contextmanager
def started(words: list[str], folder: Path, **settings: float) -> Iterator[Server]:
    """`python WORDS`, which serves at descriptor 0; at the end it and all its processes are gone."""
    variables = {f"SHOP_{name.upper()}": str(value) for name, value in settings.items()}
    variables |= {"SHOP_FOLDER": str(folder), "PYTHONPATH": str(ROOT)}
    heard, said = os.pipe()
    with socket.create_server(("127.0.0.1", 0), backlog=100) as listener:
        process = subprocess.Popen(
            [sys.executable, *words],
            cwd=ROOT,
            env=os.environ | variables,
            stdin=listener.fileno(),
            stderr=said,
        )
        server = Server(process, listener.getsockname()[1], heard)
    os.close(said)
    try:
        with process:
            try:
                yield server
            finally:
                process.send_signal(signal.SIGTERM)
                process.wait(LIMIT_SECONDS)
        server.silent()
    finally:
        process.kill()
        os.close(heard)


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """What is inside takes no longer."""
    began = time.monotonic()
    yield
    assert time.monotonic() - began < seconds


@contextmanager
def ends(pid: int, within: float = 1.0) -> Iterator[None]:
    """This process runs, and has ended so many seconds after what is inside."""
    watched = os.pidfd_open(pid)
    try:
        assert not select.select([watched], [], [], 0)[0]
        yield
        assert select.select([watched], [], [], within)[0], f"{pid} still runs"
    finally:
        os.close(watched)
