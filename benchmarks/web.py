"""How long /health takes while other clients ask for work that computes, by where that work is done.

``python -m benchmarks.web [workers]``; needs the extra `web`. Loopback only; at most about a minute.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import statistics
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

import aioproc
from examples.web.work import is_prime

ROUNDS = 5
SECONDS = 2.0  # a round of one way
PAUSE_SECONDS = 0.005  # between two requests for /health
CLIENTS = 4  # that ask for work
BELOW = 20_000

Call = Callable[[], Awaitable[Any]]


def primes() -> int:
    """The work: some 20 ms in the interpreter."""
    return sum(map(is_prime, range(BELOW)))


@contextlib.asynccontextmanager
async def by_pool(workers: int) -> AsyncIterator[Call]:
    """In an AsyncPool."""
    async with aioproc.AsyncPool(workers) as pool:
        yield lambda: pool.apply(primes)


@contextlib.asynccontextmanager
async def by_loop(workers: int) -> AsyncIterator[Call]:
    """In the event loop itself."""

    async def call() -> int:
        return primes()

    yield call


@contextlib.asynccontextmanager
async def by_executor(executor: Executor) -> AsyncIterator[Call]:
    """With run_in_executor."""
    with executor:
        yield lambda: asyncio.get_running_loop().run_in_executor(executor, primes)


WAYS: dict[str, Callable[[int], Any]] = {
    "AsyncPool": by_pool,
    "run_in_executor, processes": lambda workers: by_executor(ProcessPoolExecutor(workers)),
    "run_in_executor, threads": lambda workers: by_executor(ThreadPoolExecutor(workers)),
    "in the event loop": by_loop,
}


def serve(way: str, workers: int, listener: socket.socket) -> None:
    """A server that works in this way."""

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[dict[str, Any]]:
        async with WAYS[way](workers) as call:
            await call()
            yield {"call": call}

    async def health(request: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def work(request: Request) -> Response:
        return JSONResponse(await request.state.call())

    app = Starlette(routes=[Route("/health", health), Route("/work", work)], lifespan=lifespan)
    config = uvicorn.Config(app, log_level="error", timeout_graceful_shutdown=1)
    uvicorn.Server(config).run(sockets=[listener])


class Client:
    """A connection that stays open."""

    def __init__(self, port: int) -> None:
        self._port = port

    async def __aenter__(self) -> Client:
        self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port)
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._writer.close()

    async def ask(self, path: str) -> float:
        """One request; the seconds until its answer was there."""
        began = time.perf_counter()
        self._writer.write(f"GET {path} HTTP/1.1\r\nHost: here\r\n\r\n".encode())
        head = await self._reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200"), head
        length = head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]
        await self._reader.readexactly(int(length))
        return time.perf_counter() - began


async def one_round(port: int, load: int) -> tuple[list[float], int]:
    """The seconds of each request for /health while others ask for work, and how many of those were done."""
    until = time.monotonic() + SECONDS
    done = 0

    async def ask_for_work() -> None:
        nonlocal done
        async with Client(port) as client:
            while time.monotonic() < until:
                await client.ask("/work")
                done += 1

    async with asyncio.TaskGroup() as tasks, Client(port) as client:
        for _ in range(load):
            tasks.create_task(ask_for_work())
        taken = []
        while time.monotonic() < until:
            taken.append(await client.ask("/health"))
            await asyncio.sleep(PAUSE_SECONDS)
    return taken, done


def line(name: str, taken: list[float], done: int) -> str:
    """Median, 99th percentile, worst, and the work done a second."""
    middle, last = statistics.median(taken), statistics.quantiles(taken, n=100)[98]
    columns = "".join(f"{1e3 * figure:9.1f}" for figure in (middle, last, max(taken)))
    return f"{name:28}{columns}{done / (ROUNDS * SECONDS):9.1f}{len(taken):9}"


async def main(workers: int) -> None:
    """Print a line for each way; they take turns."""
    async with contextlib.AsyncExitStack() as stack:
        ports = {}
        for way in WAYS:
            with socket.create_server(("127.0.0.1", 0)) as listener:
                server = aioproc.Process(target=serve, args=(way, workers, listener))
                await server.start()
                stack.push_async_callback(server.stop)
                ports[way] = listener.getsockname()[1]
            await one_round(ports[way], 1)  # warm
        rows = [(f"{way}", way, CLIENTS) for way in WAYS] + [("without load", "AsyncPool", 0)]
        taken: dict[str, list[float]] = {name: [] for name, *_ in rows}
        done = dict.fromkeys(taken, 0)
        for _ in range(ROUNDS):
            for name, way, load in rows:
                times, calls = await one_round(ports[way], load)
                taken[name] += times
                done[name] += calls
    print(f"/health, ms; {workers} workers, {os.cpu_count()} cores, {CLIENTS} clients that ask for work")
    print(f"{'':28}{'median':>9}{'99 %':>9}{'worst':>9}{'work/s':>9}{'asked':>9}")
    for name in taken:
        print(line(name, taken[name], done[name]))


if __name__ == "__main__":
    signal.alarm(120)
    asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else max(1, (os.cpu_count() or 2) - 1)))
