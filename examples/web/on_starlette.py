"""The application on Starlette, for uvicorn, gunicorn and Hypercorn, under asyncio and trio."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from aioproc import Lock
from examples.web.asgi import while_connected
from examples.web.service import PAGE, Answer, Events, Service, opened


def response(answer: Answer | Events | None) -> Response:
    """As Starlette and FastAPI send it."""
    if answer is None:  # the client has gone, and nobody reads this
        return Response(status_code=499)
    if isinstance(answer, Events):
        return StreamingResponse(answer, media_type="text/event-stream")
    return JSONResponse(answer.body, answer.status, answer.headers)


def service_of(request: Request) -> Service:
    """What the lifespan yielded."""
    service: Service = request.state.service
    return service


def below(request: Request) -> int:
    """The number that the client asks for; anything else is refused later on."""
    text = request.query_params.get("below", "1000000")
    return int(text) if text.isdecimal() else 0


async def page(request: Request) -> Response:
    return HTMLResponse(PAGE)


async def health(request: Request) -> Response:
    return response(service_of(request).health())


async def primes(request: Request) -> Response:
    call = service_of(request).primes(below(request))
    return response(await while_connected(request.receive, call))


async def stream(request: Request) -> Response:
    call = service_of(request).stream(below(request))
    return response(await while_connected(request.receive, call))


async def submit(request: Request) -> Response:
    return response(service_of(request).submit(below(request)))


async def job(request: Request) -> Response:
    return response(service_of(request).job(request.path_params["number"]))


async def follow(request: Request) -> Response:
    return response(service_of(request).follow(request.path_params["number"]))


async def cancel(request: Request) -> Response:
    return response(service_of(request).cancel(request.path_params["number"]))


async def buy(request: Request) -> Response:
    paying = float(request.query_params.get("paying", "0"))
    return response(await while_connected(request.receive, service_of(request).buy(paying)))


ROUTES = [
    Route("/", page),
    Route("/health", health),
    Route("/primes", primes),
    Route("/primes/stream", stream),
    Route("/jobs", submit, methods=["POST"]),
    Route("/jobs/{number}", job),
    Route("/jobs/{number}", cancel, methods=["DELETE"]),
    Route("/jobs/{number}/events", follow),
    Route("/tickets", buy, methods=["POST"]),
]


def make_app(lock: Lock | None = None) -> Starlette:
    """The application, with the lock of a parent or, without one, that of the meeting."""

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[dict[str, Any]]:
        async with opened(lock) as service:
            yield {"service": service}

    return Starlette(routes=ROUTES, lifespan=lifespan)


app = make_app()
