"""How a pool's workers end: with their parent, and not by signals that are the parent's affair."""

from __future__ import annotations

import asyncio
import concurrent.futures
import fcntl
import multiprocessing
import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
import uvloop

from aioproc import AsyncPool
from aioproc.staff import Staff
from tests import tasks

ROOT = Path(__file__).parent.parent
Program = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture(params=["asyncio", "uvloop", "trio"])
def program(request: pytest.FixtureRequest) -> Iterator[Program]:
    """Starts a program of ``tests/pool_programs.py`` in a process group of its own."""
    started: list[subprocess.Popen[str]] = []

    def start(name: str, **more: str) -> subprocess.Popen[str]:
        environment = os.environ | {"PYTHONPATH": str(ROOT)} | more
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.pool_programs", name, request.param],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env=environment,
            start_new_session=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        process.communicate()


def line(process: subprocess.Popen[str]) -> str:
    """The next line that a program prints."""
    assert process.stdout is not None
    return process.stdout.readline().strip()


def test_workers_die_with_a_killed_parent(program: Program) -> None:
    """SIGKILL to the parent ends its workers, idle or busy with either kind of task."""
    parent = program("killed_parent")
    workers = [psutil.Process(int(pid)) for pid in line(parent).split()]
    assert len(workers) == 3
    parent.kill()
    _, alive = psutil.wait_procs(workers, timeout=10)
    assert not [worker for worker in alive if worker.status() != psutil.STATUS_ZOMBIE]


def test_a_pool_that_is_not_closed_holds_up_no_exit(program: Program) -> None:
    """The program ends at its end, and its workers with it."""
    out, err = program("unclosed").communicate(timeout=20)
    assert (out, err) == ("9\n", "")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_to_the_whole_group(program: Program, number: signal.Signals) -> None:
    """Workers leave it to the parent, which lets calls finish: no WorkerDied, no worker replaced."""
    parent = program("signalled")
    assert line(parent) == "ready"
    os.killpg(parent.pid, number)
    out, err = parent.communicate(timeout=20)
    assert (out, err) == (f"got {number.name}\nfinished 0.7 16\nleft 0\n", "")
    assert parent.returncode == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_while_workers_start(program: Program, number: signal.Signals, tmp_path: Path) -> None:
    """Workers that still import the main module leave it to the parent too: none dies, none is replaced."""
    gate = tmp_path / "gate"
    gate.touch()
    os.mkfifo(f"{gate}.here")
    with gate.open() as shut:
        fcntl.flock(shut, fcntl.LOCK_EX)
        parent = program("starting", AIOPROC_TEST_GATE=str(gate))
        with open(f"{gate}.here", "rb", buffering=0) as here:
            for _ in range(4):
                assert here.read(1) == b"."
        os.killpg(parent.pid, number)
        assert line(parent) == f"got {number.name}"
    out, err = parent.communicate(timeout=20)
    assert (out, err) == ("finished [0, 1, 4, 9, 16, 25, 36, 49]\nleft 0\n", "")
    assert parent.returncode == 0


def test_ctrl_c(program: Program) -> None:
    """An unhandled Ctrl-C ends program and workers at once, with nothing but KeyboardInterrupt shown."""
    parent = program("interrupted")
    assert line(parent) == "ready"
    os.killpg(parent.pid, signal.SIGINT)
    out, err = parent.communicate(timeout=20)
    assert out == ""
    assert err.strip().splitlines()[-1].startswith("KeyboardInterrupt")
    assert "WorkerDied" not in err
    assert parent.returncode != 0


def test_ends_while_workers_are_replaced(program: Program) -> None:
    """A program ends at once though the pool, which nobody closed, is about to replace workers."""
    parent = program("cancelled_and_left")
    assert line(parent) == "cancelled"
    out, err = parent.communicate(timeout=20)
    assert (out, err) == ("", "")
    assert parent.returncode == 0


@pytest.mark.anyio
@pytest.mark.parametrize("with_a_loop", [False, True])
async def test_what_a_task_forks_hears_signals(with_a_loop: bool) -> None:
    """The pool's worker leaves them to its parent; what the stdlib forks there ends by them as anywhere."""
    async with AsyncPool(1) as pool:
        if with_a_loop:
            await pool.apply(tasks.square_later, (3,))
        assert await pool.apply(tasks.fork_and_terminate) == -signal.SIGTERM
        assert await pool.options(timeout=20).apply(tasks.leave_a_busy_pool) == "left"
        assert await pool.apply(tasks.fork_and_interrupt) == 3
        os.kill(await pool.apply(os.getpid), signal.SIGTERM)
        assert await pool.apply(tasks.square, (3,)) == 9
        assert pool.stats().restarts == 0


@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop])
@pytest.mark.parametrize("dies", [False, True])
def test_a_pool_that_nobody_closed_ends_with_its_loop(
    new_loop: Callable[[], asyncio.AbstractEventLoop], dies: bool
) -> None:
    """What the loop hears of while it shuts down, as of a worker's death, begins nothing new."""
    loop, pool = new_loop(), AsyncPool(1)

    async def use() -> int:
        return await pool.apply(os.getpid)

    worker = loop.run_until_complete(use())
    if dies:
        os.kill(worker, signal.SIGKILL)
    loop.run_until_complete(loop.shutdown_asyncgens())
    assert (pool.stats().workers, multiprocessing.active_children()) == ((), [])
    assert asyncio.all_tasks(loop) == set()
    with pytest.raises(concurrent.futures.CancelledError, match="the pool's event loop was shut down"):
        loop.run_until_complete(use())
    loop.close()


@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_a_death_heard_of_when_the_loop_has_begun_to_end(
    new_loop: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    """After the loop has said that it ends, and before the pool has heard of it: it ends all the same."""
    loop, pool = new_loop(), AsyncPool(1)

    async def use() -> int:
        return await pool.apply(os.getpid)

    async def end() -> None:
        (station,) = staff.stations
        os.kill(worker, signal.SIGKILL)
        select.select([station.ended], [], [])
        ending = asyncio.ensure_future(loop.shutdown_asyncgens())
        loop.call_soon(staff._ended, station)
        await ending

    worker = loop.run_until_complete(use())
    staff: Staff = pool._books._engine._staff  # type: ignore[union-attr]
    loop.run_until_complete(end())
    assert (pool.stats().workers, multiprocessing.active_children()) == ((), [])
    assert asyncio.all_tasks(loop) == set()
    loop.close()
