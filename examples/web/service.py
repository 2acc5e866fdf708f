"""What the application does, whatever the framework: each method answers one kind of request."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import AsyncIterable, AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio

import aioproc
from examples.web import work
from examples.web.cpus import cpus
from examples.web.jobs import Following, Jobs
from examples.web.tickets import Tickets

PAGE = (Path(__file__).parent / "page.html").read_text()
MOST = 10**9  # what a client may ask for


@dataclass(frozen=True)
class Settings:
    """From the environment, since a server starts its workers with nothing else.

    Attributes:
        workers: Processes that compute; leave a core to the event loop.
        waiting: Requests that may wait for one of them; more are refused.
        grace: Seconds that what runs has for its end, when the server ends.
        folder: Where the tickets are, and where server processes meet.
    """

    workers: int = max(1, cpus() - 1)
    waiting: int = 8
    grace: float = 3.0
    folder: Path = Path(tempfile.gettempdir()) / f"shop-{os.getuid()}"

    @classmethod
    def from_environment(cls, variables: Mapping[str, str] = os.environ) -> Settings:
        """``SHOP_WORKERS``, ``SHOP_WAITING``, ``SHOP_GRACE``, ``SHOP_FOLDER``."""
        kinds = {"workers": int, "waiting": int, "grace": float, "folder": Path}
        given = {name: variables.get(f"SHOP_{name.upper()}") for name in kinds}
        return cls(**{name: kinds[name](value) for name, value in given.items() if value is not None})


@dataclass(frozen=True)
class Answer:
    """A status and what becomes JSON."""

    status: int
    body: dict[str, Any]
    headers: dict[str, str] = field(default_factory=dict)


BUSY = Answer(503, {"error": "busy"}, {"Retry-After": "1"})
DIED = Answer(503, {"error": "the worker died"}, {"Retry-After": "0"})
UNKNOWN = Answer(404, {"error": "no such job"})


class Events:
    """Server-sent events, one for each item; who drops this also stops the generator behind it."""

    def __init__(self, items: AsyncIterable[dict[str, Any]], first: dict[str, Any] | None = None) -> None:
        self._items = aiter(items)
        self._first = first

    def __aiter__(self) -> Events:
        return self

    async def __anext__(self) -> bytes:
        first, self._first = self._first, None
        try:
            item = first or await anext(self._items)
        except aioproc.WorkerDied:
            item = DIED.body
        return f"data: {json.dumps(item)}\n\n".encode()


class Service:
    """The application; `opened` makes one for the time between a server's start and its end."""

    def __init__(self, settings: Settings, pool: aioproc.AsyncPool, lock: aioproc.Lock) -> None:
        self._pool = pool
        self._room = settings.workers + settings.waiting
        self._tickets = Tickets(lock, settings.folder)
        self.jobs = Jobs(pool)

    def health(self) -> Answer:
        """Who is alive, and how much they have to do."""
        now = self._pool.stats()
        workers = [worker.pid for worker in now.workers]
        figures = {"running": now.running, "queued": now.queued, "restarts": now.restarts}
        return Answer(200, {"pid": os.getpid(), "workers": workers, **figures})

    async def primes(self, below: int) -> Answer:
        """One call in a worker; it is stopped when whoever awaits this is cancelled."""
        try:
            return Answer(200, await self._pool.submit(work.count, _checked(below)))
        except aioproc.QueueFull:
            return BUSY
        except aioproc.WorkerDied:
            return DIED
        except ValueError as error:
            return Answer(400, {"error": str(error)})

    async def stream(self, below: int) -> Answer | Events:
        """What a generator yields in a worker, as it comes."""
        now = self._pool.stats()
        if now.running + now.queued >= self._room:
            return BUSY
        items = self._pool.stream(work.counting, below)
        try:
            return Events(items, await anext(items))  # nothing was sent yet, so this may still be refused
        except aioproc.WorkerDied:
            return DIED

    def submit(self, below: int) -> Answer:
        """Take on a job, which goes on when its client has gone."""
        try:
            job = self.jobs.submit(_checked(below))
        except aioproc.QueueFull:
            return BUSY
        except ValueError as error:
            return Answer(400, {"error": str(error)})
        return Answer(202, job.state(), {"Location": f"/jobs/{job.number}"})

    def job(self, number: str) -> Answer:
        """How far it is."""
        try:
            return Answer(200, self.jobs[number].state())
        except KeyError:
            return UNKNOWN

    def follow(self, number: str) -> Answer | Events:
        """Every change of it, to its end."""
        try:
            return Events(Following(self.jobs[number]))
        except KeyError:
            return UNKNOWN

    def cancel(self, number: str) -> Answer:
        """Stop it, wherever it is."""
        try:
            job = self.jobs[number]
        except KeyError:
            return UNKNOWN
        job.result.cancel()
        return Answer(200, job.state())

    async def buy(self, paying: float = 0.0) -> Answer:
        """Buy a ticket; all server processes sell from the same ones."""
        number = await self._tickets.sell(paying)
        return Answer(200 if number else 410, {"ticket": number, "pid": os.getpid()})


def _checked(below: int) -> int:
    if not 0 < below <= MOST:
        raise ValueError(f"below must be a number from 1 to {MOST}")
    return below


@asynccontextmanager
async def opened(lock: aioproc.Lock | None = None) -> AsyncIterator[Service]:
    """The application, from a server's start to its end.

    Args:
        lock: For the tickets; None: the one of this name where all server processes meet.
    """
    settings = Settings.from_environment()
    settings.folder.mkdir(mode=0o700, exist_ok=True)
    async with AsyncExitStack() as stack:
        if lock is None:
            hub = await stack.enter_async_context(aioproc.meet(settings.folder / "meeting"))
            lock = hub.Lock("tickets")
        tasks = await stack.enter_async_context(anyio.create_task_group())
        pool = aioproc.AsyncPool(settings.workers, max_pending=settings.waiting)
        await stack.enter_async_context(pool)
        await pool.apply(os.getpid)  # the first request should find the workers running
        service = Service(settings, pool, lock)
        tasks.start_soon(service.jobs.listen)
        work.tell("serves")
        yield service
        pool.close()
        with anyio.move_on_after(settings.grace):
            await pool.join()
        pool.terminate()
        tasks.cancel_scope.cancel()
