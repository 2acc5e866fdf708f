"""The application on aiohttp, which is its own server: ``python -m examples.web.on_aiohttp [descriptor]``."""

from __future__ import annotations

import socket
import sys
from collections.abc import AsyncIterator

from aiohttp import web

from examples.web.service import PAGE, Answer, Events, Service, Settings, opened

SERVICE = web.AppKey("service", Service)
routes = web.RouteTableDef()


async def pool(app: web.Application) -> AsyncIterator[None]:
    """Open from the server's start to its end."""
    async with opened() as app[SERVICE]:
        yield


async def respond(request: web.Request, answer: Answer | Events) -> web.StreamResponse:
    """Send it; the handler is cancelled when the client goes away."""
    if isinstance(answer, Answer):
        return web.json_response(answer.body, status=answer.status, headers=answer.headers)
    sending = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await sending.prepare(request)
    async for event in answer:
        await sending.write(event)
    return sending


def below(request: web.Request) -> int:
    """The number that the client asks for; anything else is refused later on."""
    text = request.query.get("below", "1000000")
    return int(text) if text.isdecimal() else 0


@routes.get("/")
async def page(request: web.Request) -> web.StreamResponse:
    return web.Response(text=PAGE, content_type="text/html")


@routes.get("/health")
async def health(request: web.Request) -> web.StreamResponse:
    return await respond(request, request.app[SERVICE].health())


@routes.get("/primes")
async def primes(request: web.Request) -> web.StreamResponse:
    return await respond(request, await request.app[SERVICE].primes(below(request)))


@routes.get("/primes/stream")
async def stream(request: web.Request) -> web.StreamResponse:
    return await respond(request, await request.app[SERVICE].stream(below(request)))


@routes.post("/jobs")
async def submit(request: web.Request) -> web.StreamResponse:
    return await respond(request, request.app[SERVICE].submit(below(request)))


@routes.get("/jobs/{number}")
async def job(request: web.Request) -> web.StreamResponse:
    return await respond(request, request.app[SERVICE].job(request.match_info["number"]))


@routes.get("/jobs/{number}/events")
async def follow(request: web.Request) -> web.StreamResponse:
    return await respond(request, request.app[SERVICE].follow(request.match_info["number"]))


@routes.delete("/jobs/{number}")
async def cancel(request: web.Request) -> web.StreamResponse:
    return await respond(request, request.app[SERVICE].cancel(request.match_info["number"]))


@routes.post("/tickets")
async def buy(request: web.Request) -> web.StreamResponse:
    paying = float(request.query.get("paying", "0"))
    return await respond(request, await request.app[SERVICE].buy(paying))


def main() -> None:
    """Serve until SIGTERM or Ctrl-C."""
    app = web.Application()
    app.add_routes(routes)
    app.cleanup_ctx.append(pool)
    given = socket.socket(fileno=int(sys.argv[1])) if len(sys.argv) > 1 else None
    web.run_app(
        app,
        sock=given,
        host=None if given else "127.0.0.1",
        port=None if given else 8000,
        handler_cancellation=True,
        shutdown_timeout=Settings.from_environment().grace,
        print=None,
    )


if __name__ == "__main__":
    main()
