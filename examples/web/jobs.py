"""Jobs that outlive the request that made them: submit, look, follow, cancel."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import anyio

from aioproc import AsyncPool, AsyncResult, Queue
from examples.web import work

REMEMBERED = 100  # of those that have ended


class Job:
    """One job, as this process sees it."""

    def __init__(self, number: str) -> None:
        self.number = number
        self.result: AsyncResult[dict[str, Any]]
        self.progress: dict[str, Any] = {"done": 0.0, "primes": 0}
        self.changed = anyio.Event()

    def change(self, progress: dict[str, Any] | None = None) -> None:
        """Tell all who follow it."""
        self.progress = progress or self.progress
        self.changed.set()
        self.changed = anyio.Event()

    def state(self) -> dict[str, Any]:
        """What a client is told."""
        return {"job": self.number, "state": self._word(), **self.progress}

    def _word(self) -> str:
        if not self.result.ready():
            return "running" if self.result.started else "waiting"
        if self.result.successful():
            return "done"
        return "cancelled" if self.result.cancelled() else "failed"


class Following:
    """A job's states, from now to its end; who is slow gets the latest and misses some."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._changed: anyio.Event | None = None
        self._ended = False

    def __aiter__(self) -> Following:
        return self

    async def __anext__(self) -> dict[str, Any]:
        if self._ended:
            raise StopAsyncIteration
        if self._changed is not None:
            await self._changed.wait()
        self._changed = self._job.changed
        self._ended = self._job.result.ready()
        return self._job.state()


class Jobs:
    """The jobs of this process, on its pool.

    Args:
        pool: Runs them; its ``max_pending`` bounds how many may wait.
    """

    def __init__(self, pool: AsyncPool) -> None:
        self._pool = pool
        self._reports: Queue[tuple[str, dict[str, Any]]] = Queue()
        self._jobs: dict[str, Job] = {}

    async def listen(self) -> None:
        """Take the workers' reports, for ever."""
        async for number, progress in self._reports:
            job = self._jobs.get(number)
            if job is not None and not job.result.ready():  # the result may overtake the last reports
                job.change(progress)

    def submit(self, below: int) -> Job:
        """Take on a job; QueueFull when too much waits already."""
        job = Job(uuid4().hex)
        arguments = job.number, below, self._reports.sync
        job.result = self._pool.apply_async(
            work.job, arguments, callback=job.change, error_callback=lambda _: job.change()
        )
        self._jobs[job.number] = job
        self._forget_the_oldest()
        return job

    def __getitem__(self, number: str) -> Job:
        return self._jobs[number]

    def _forget_the_oldest(self) -> None:
        ended = [number for number, job in self._jobs.items() if job.result.ready()]
        for number in ended[:-REMEMBERED]:
            del self._jobs[number]
