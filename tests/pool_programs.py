"""Programs with a pool that tests start, watch from outside, and send signals to."""

from __future__ import annotations

import fcntl
import os
import signal
import sys
import time
from typing import Any

import anyio

import aioproc
from aioproc import AsyncPool, WorkerDied
from tests import tasks

if __name__ == "__mp_main__" and "AIOPROC_TEST_GATE" in os.environ:
    with (
        open(os.environ["AIOPROC_TEST_GATE"] + ".here", "wb") as here,
        open(os.environ["AIOPROC_TEST_GATE"]) as gate,
    ):
        here.write(b".")
        here.flush()
        fcntl.flock(gate, fcntl.LOCK_SH)


def say(*words: object) -> None:
    """A line for the test that watches."""
    print(*words, flush=True)


def nap_and_tell(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


async def killed_parent() -> None:
    """Workers idle and busy; the test kills this process."""
    async with AsyncPool(3) as pool:
        running: list[aioproc.AsyncResult[Any]] = [
            pool.submit(time.sleep, 600),
            pool.submit(tasks.meet_others, "/nowhere"),
        ]
        while not all(result.started for result in running):
            await anyio.sleep(0.01)
        await pool.apply(tasks.square, (1,))
        say(*[worker.pid for worker in pool.stats().workers])
        await anyio.sleep(600)


async def unclosed() -> None:
    """Leaves its pool open and ends."""
    pool = AsyncPool(2)
    say(await pool.apply(tasks.square, (3,)))
    pool.submit(time.sleep, 600)


async def signalled() -> None:
    """Takes a signal that the whole group got, lets the calls finish, and ends in order."""
    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async with AsyncPool(2, tasks_per_worker=2) as pool:
            await pool.map(tasks.sleep, [0.05, 0.05], 1)
            plain = pool.submit(nap_and_tell, 0.7)
            coroutine = pool.submit(tasks.square_later, 3)
            await coroutine
            say("ready")
            async for number in signals:
                say("got", signal.Signals(number).name)
                break
            try:
                say("finished", await plain, await pool.apply(tasks.square_later, (4,)))
            except WorkerDied as died:
                say("spurious", died)
    say("left", pool.stats().restarts)


async def starting() -> None:
    """Takes a signal that the whole group got while its workers import this module, and ends in order."""
    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async with AsyncPool(4, context=aioproc.get_context("spawn")) as pool:
            squares = pool.map_async(tasks.square, range(8))
            async for number in signals:
                say("got", signal.Signals(number).name)
                break
            say("finished", await squares)
    say("left", pool.stats().restarts)


async def interrupted() -> None:
    """Leaves the handling of Ctrl-C to the event loop."""
    async with AsyncPool(2) as pool:
        await pool.map(tasks.sleep, [0.05, 0.05], 1)
        say("ready")
        await pool.apply(time.sleep, (600,))


async def cancelled_and_left() -> None:
    """Cancels calls that run, and ends while their workers are being replaced, without closing the pool."""
    pool = AsyncPool(2)
    await pool.map(tasks.square, range(2), 1)
    with anyio.move_on_after(0.1):
        await pool.map(time.sleep, [600, 600], 1)
    say("cancelled")


if __name__ == "__main__":
    assert os.environ.get("PYTHONPATH") is not None
    backend = sys.argv[2]
    programs = (killed_parent, unclosed, signalled, starting, interrupted, cancelled_and_left)
    program = {each.__name__: each for each in programs}[sys.argv[1]]
    if backend == "trio":
        aioproc.run(program, backend="trio")
    else:
        aioproc.run(program, use_uvloop=backend == "uvloop")
