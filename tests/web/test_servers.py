"""What must hold behind each framework and its server."""

from __future__ import annotations

import os
import select
import signal
from collections.abc import Iterator
from contextlib import closing

import pytest

from tests.web.serving import ENDLESS, LIMIT_SECONDS, SERVERS, Request, Server, ends, started

WORKERS, WAITING = 2, 2

for framework in ("fastapi", "django", "aiohttp", "hypercorn"):
    pytest.importorskip(framework, reason="the extra `web` is not installed")


@pytest.fixture(scope="module", params=list(SERVERS))
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One for all tests here: none of them harms it."""
    folder = tmp_path_factory.mktemp("shop")
    with started(SERVERS[request.param], folder, workers=WORKERS, waiting=WAITING, grace=1) as server:
        yield server


def sent(server: Server, number: int, path: str = f"/primes?below={ENDLESS}") -> list[Request]:
    return [server.send(path) for _ in range(number)]


def first_answered(requests: list[Request], number: int) -> list[Request]:
    """Those that have an answer, when so many have."""
    answered: list[Request] = []
    while len(answered) < number:
        waiting = [request for request in requests if request not in answered]
        ready = select.select(waiting, [], [], LIMIT_SECONDS)[0]
        assert ready, f"only {len(answered)} answers"
        answered += ready
    return answered


def test_an_answer(server: Server) -> None:
    """The work is done in a worker, and /health knows it."""
    reply = server.ask("/primes?below=30000")
    health = server.ask("/health")
    assert (health.status, reply.status, reply.body["primes"]) == (200, 200, 3245)
    assert reply.body["pid"] in health.body["workers"]
    assert health.body["pid"] not in health.body["workers"]
    assert server.ask("/primes?below=0").status in (400, 422)


def test_disconnect_stops_the_work(server: Server) -> None:
    """A client that goes away stops its work in the worker within a second; the next finds both workers."""
    request = server.send(f"/primes?below={ENDLESS}")
    with ends(server.hear(), within=1):
        request.close()
    assert [request.reply().status for request in sent(server, WORKERS, "/primes?below=30000")] == [200, 200]


def test_a_worker_killed(server: Server) -> None:
    """The request whose worker is killed gets a 503; those beside and behind it get their answers."""
    lost = server.send(f"/primes?below={ENDLESS}")
    victim = server.hear()
    others = sent(server, WORKERS, "/primes?below=100000")
    os.kill(victim, signal.SIGKILL)
    assert lost.reply().status == 503
    assert [other.reply().status for other in others] == [200, 200]


def test_bounded(server: Server) -> None:
    """As many wait as may; the others are refused at once, and told to come again."""
    refused = 3
    requests = sent(server, WORKERS + WAITING + refused)
    working = [server.hear() for _ in range(WORKERS)]
    answered = first_answered(requests, refused)
    for request in answered:
        reply = request.reply()
        assert (reply.status, reply.headers["retry-after"]) == (503, "1")
    assert server.ask("/health").body["queued"] == WAITING
    assert server.ask(f"/jobs?below={ENDLESS}", "POST").status == 503
    assert server.ask(f"/primes/stream?below={ENDLESS}").status == 503
    for pid in working:
        os.kill(pid, signal.SIGKILL)
    waited = [server.hear() for _ in range(WAITING)]
    rest = [request for request in requests if request not in answered]
    assert [request.reply().status for request in first_answered(rest, WORKERS)] == [503, 503]
    with ends(waited[0]), ends(waited[1]):
        for request in rest:
            request.close()


def test_stream(server: Server) -> None:
    """Events come while the generator runs; a client that leaves stops it."""
    with closing(server.send("/primes/stream?below=30000")) as request:
        assert [event["primes"] for event in request.events()] == [1229, 2262, 3245]
        assert request.response().getheader("Content-Type", "").startswith("text/event-stream")
    request = server.send(f"/primes/stream?below={ENDLESS}")
    server.hear(f"streams below {ENDLESS}")
    assert 0 < next(request.events())["done"] < 1
    request.close()
    assert [each.reply().status for each in sent(server, WORKERS, "/primes?below=30000")] == [200, 200]


def test_stream_whose_worker_dies(server: Server) -> None:
    """What came before stays; the last event tells."""
    with closing(server.send(f"/primes/stream?below={ENDLESS}")) as request:
        events = request.events()
        server.hear(f"streams below {ENDLESS}")
        os.kill(next(events)["pid"], signal.SIGKILL)
        assert list(events)[-1] == {"error": "the worker died"}


def test_job(server: Server) -> None:
    """Submitted, followed to its end, and asked for its result."""
    taken = server.ask("/jobs?below=30000", "POST")
    assert taken.status == 202
    path = taken.headers["location"]
    with closing(server.send(f"{path}/events")) as request:
        last = list(request.events())[-1]
    assert last == server.ask(path).body
    assert (last["state"], last["primes"], last["done"]) == ("done", 3245, 1.0)
    assert server.ask("/jobs/unknown").status == server.ask("/jobs/unknown/events").status == 404


def test_job_cancelled(server: Server) -> None:
    """A job goes on without its client, shows its progress, and its worker ends when it is cancelled."""
    path = server.ask(f"/jobs?below={ENDLESS}", "POST").headers["location"]
    pid = server.hear(f"works below {ENDLESS}")
    with closing(server.send(f"{path}/events")) as request:
        events = request.events()
        assert next(event for event in events if event["primes"])["state"] == "running"
        with ends(pid):
            assert server.ask(path, "DELETE").body["state"] == "cancelled"
        assert list(events)[-1]["state"] == "cancelled"


def test_ticket(server: Server) -> None:
    """Each sold once."""
    sold = [server.ask("/tickets", "POST").body["ticket"] for _ in range(2)]
    assert sold == [100, 99]


def test_the_page(server: Server) -> None:
    """It is served."""
    with closing(server.send("/")) as request:
        assert b"EventSource" in request.response().read()
