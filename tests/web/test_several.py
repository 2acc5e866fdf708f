"""Several server processes behind one socket sell the same tickets under one lock."""

from __future__ import annotations

import json
import os
import signal
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from tests.web.serving import GUNICORN, STARLETTE, UVICORN, Server, ends, started

pytest.importorskip("fastapi", reason="the extra `web` is not installed")

SEVERAL = {
    "children": ["-m", "examples.web.several", "0"],
    "uvicorn": [*UVICORN, "--workers", "2", STARLETTE],
    "gunicorn": [*GUNICORN, "--workers", "2", STARLETTE],
}


class Kept:
    """A connection to one of the processes, which stays open."""

    def __init__(self, server: Server) -> None:
        self._http = server.send("/health").connection
        self.pid: int = self.body()["pid"]

    def body(self) -> dict[str, int]:
        return json.loads(self._http.getresponse().read())  # type: ignore[no-any-return]

    def buy(self, paying: float = 0) -> None:
        self._http.request("POST", f"/tickets?paying={paying}")

    def close(self) -> None:
        self._http.close()


def to_both(server: Server, stack: ExitStack) -> list[Kept]:
    """A connection to each of two processes: whoever accepts first gets one."""
    found: dict[int, Kept] = {}
    while len(found) < 2:
        kept = Kept(server)
        if kept.pid in found:
            kept.close()
        else:
            found[kept.pid] = stack.enter_context(closing(kept))
    return list(found.values())


@pytest.mark.parametrize("kind", list(SEVERAL))
def test_tickets(kind: str, tmp_path: Path) -> None:
    """Both sell, no ticket twice; one that is killed while it holds the lock holds up nobody."""
    with started(SEVERAL[kind], tmp_path, workers=1, grace=0.5) as server, ExitStack() as stack:
        assert server.hear("serves") != server.hear("serves")
        one, other = to_both(server, stack)
        sold = []
        for _ in range(10):
            one.buy()
            other.buy()
            sold += [one.body(), other.body()]
        assert sorted(each["ticket"] for each in sold) == list(range(81, 101))
        assert {each["pid"] for each in sold} == {one.pid, other.pid}
        one.buy(paying=1000)
        for _ in range(21):
            assert server.hear("sells")
        other.buy()
        with ends(one.pid):
            os.kill(one.pid, signal.SIGKILL)
        assert other.body()["ticket"] == 80
        assert server.ask("/tickets", "POST").body["ticket"] == 79
