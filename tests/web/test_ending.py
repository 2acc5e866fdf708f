"""How servers end: `started` fails a test whose server leaves a process."""

from __future__ import annotations

import os
import signal
from contextlib import closing
from http.client import HTTPException
from pathlib import Path

import pytest

from tests.web.serving import ENDLESS, SERVERS, STARLETTE, UVICORN, Request, ends, started

pytest.importorskip("fastapi", reason="the extra `web` is not installed")

QUICK = {"workers": 2, "waiting": 4, "grace": 0.5}


def answered(request: Request) -> int:
    """Its status, 0 when the connection was closed without an answer."""
    try:
        return request.reply().status
    except (HTTPException, OSError):
        return 0


@pytest.mark.parametrize("framework", list(SERVERS))
def test_sigterm_lets_a_request_end(framework: str, tmp_path: Path) -> None:
    """What is computed when SIGTERM comes is computed to its end, and answered."""
    with started(SERVERS[framework], tmp_path, **QUICK) as server:
        request = server.send("/primes?below=60000")
        server.hear("counts below 60000")
        server.process.send_signal(signal.SIGTERM)
        assert request.reply().status == 200


@pytest.mark.parametrize("framework", list(SERVERS))
def test_sigterm_cancels_after_the_grace(framework: str, tmp_path: Path) -> None:
    """What takes longer is cancelled, those that wait as well; jobs and streams too."""
    with started(SERVERS[framework], tmp_path, **QUICK) as server:
        server.ask(f"/jobs?below={ENDLESS}", "POST")
        worker = server.hear(f"works below {ENDLESS}")
        with closing(server.send(f"/primes/stream?below={ENDLESS}")) as stream:
            assert next(stream.events())["done"]
            requests = [server.send(f"/primes?below={ENDLESS}") for _ in range(2)]
            with ends(worker, within=8), ends(server.process.pid, within=8):
                server.process.send_signal(signal.SIGTERM)
        assert all(answered(request) in (0, 500, 502, 503) for request in requests)


def test_a_killed_server_leaves_no_process(tmp_path: Path) -> None:
    """SIGKILL: its workers end with it, even those that compute."""
    with started(SERVERS["starlette"], tmp_path, **QUICK) as server:
        request = server.send(f"/primes?below={ENDLESS}")
        with ends(server.hear()):
            server.process.kill()
        assert answered(request) == 0


def test_reload_leaves_no_process(tmp_path: Path) -> None:
    """`uvicorn --reload`: with each change of a file the old server goes with its workers, even busy ones."""
    watched = tmp_path / "watched" / "source.py"
    watched.parent.mkdir()
    watched.touch()
    reload = ["--reload", "--reload-dir", str(watched.parent), "--reload-delay", "0.01"]
    words = [*UVICORN, *reload, STARLETTE]
    with started(words, tmp_path, **QUICK) as server:
        request = server.send(f"/primes?below={ENDLESS}")
        with ends(server.hear(), within=10):
            os.utime(watched, (2e9, 2e9))
        assert answered(request) in (0, 500, 503)
        assert server.ask("/primes?below=30000").status == 200
