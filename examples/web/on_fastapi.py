"""The application on FastAPI, for uvicorn."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Query, Request, Response
from fastapi.responses import HTMLResponse

from examples.web.asgi import while_connected
from examples.web.on_starlette import response, service_of
from examples.web.service import MOST, PAGE, Service, opened


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[dict[str, Any]]:
    """The pool lives as long as the server."""
    async with opened() as service:
        yield {"service": service}


app = FastAPI(lifespan=lifespan)
TheService = Annotated[Service, Depends(service_of)]
Below = Annotated[int, Query(gt=0, le=MOST)]


@app.get("/", response_class=HTMLResponse)
async def page() -> str:
    return PAGE


@app.get("/health")
async def health(service: TheService) -> Response:
    return response(service.health())


@app.get("/primes")
async def primes(request: Request, service: TheService, below: Below = 1_000_000) -> Response:
    return response(await while_connected(request.receive, service.primes(below)))


@app.get("/primes/stream")
async def stream(request: Request, service: TheService, below: Below = 1_000_000) -> Response:
    return response(await while_connected(request.receive, service.stream(below)))


@app.post("/jobs")
async def submit(service: TheService, below: Below = 1_000_000) -> Response:
    return response(service.submit(below))


@app.get("/jobs/{number}")
async def job(service: TheService, number: str) -> Response:
    return response(service.job(number))


@app.get("/jobs/{number}/events")
async def follow(service: TheService, number: str) -> Response:
    return response(service.follow(number))


@app.delete("/jobs/{number}")
async def cancel(service: TheService, number: str) -> Response:
    return response(service.cancel(number))


@app.post("/tickets")
async def buy(request: Request, service: TheService, paying: float = 0.0) -> Response:
    return response(await while_connected(request.receive, service.buy(paying)))
