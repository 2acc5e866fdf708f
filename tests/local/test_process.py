"""Process: starting, waiting, results, signals, attributes, errors; on each loop, by each start method."""

from __future__ import annotations

import asyncio
import gc
import multiprocessing
import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from typing import Any

import anyio
import numpy as np
import psutil
import pytest

import aioproc
from aioproc import Process, ProcessDied, RemoteError, RemoteTraceback
from aioproc._kernel.forkserver import server
from aioproc._kernel.handle import Handle
from aioproc._kernel.start import _Run
from aioproc.context import Context
from aioproc.local import process
from tests.conftest import BACKENDS, open_descriptors
from tests.local import process_targets as targets
from tests.shared import spare_descriptors

pytestmark = pytest.mark.anyio
NONE_FREE = r"Too many open files|no free file descriptor"


@pytest.fixture
def ctx(start_method: str) -> Context:
    """A context of each start method."""
    return aioproc.get_context(start_method)


class Words:
    """The lines that children tell."""

    def __init__(self) -> None:
        reading, writing = os.pipe()
        self.to = Handle(writing)
        self._reading = open(reading, "rb", buffering=0)  # noqa: SIM115

    async def next(self) -> str:
        """The next line."""
        line = b""
        while not line.endswith(b"\n"):
            with anyio.fail_after(30):
                await anyio.wait_readable(self._reading)
            piece = self._reading.read(1)
            if not piece:
                return "the end"
            line += piece
        return line.decode().strip()

    def close(self) -> None:
        self.to.close()
        self._reading.close()


@pytest.fixture
def words() -> Iterator[Words]:
    made = Words()
    yield made
    made.close()


# Starting and results


@pytest.mark.parametrize("target", [targets.plain_add, targets.async_add])
async def test_target_runs_with_its_arguments(ctx: Context, target: Callable[..., Any]) -> None:
    """args and kwargs reach plain and async targets; kwargs beat defaults; the result comes home."""
    p = ctx.Process(target=target, args=(1,), kwargs={"b": 2})
    await p.start()
    assert await p.result() == 3
    assert await p.join() is None  # type: ignore[func-returns-value]
    assert p.exitcode == 0
    assert await ctx.Process(target=target, args=[1]) == 11
    assert await ctx.Process(target=target, args=iter([1])) == 11


async def test_no_target_is_no_work(ctx: Context) -> None:
    """A process without target ends with None and exit code 0, as in the stdlib."""
    p = ctx.Process()
    assert await p is None
    assert p.exitcode == 0


async def test_async_target_gets_the_parents_kind_of_loop(ctx: Context, anyio_backend: Any) -> None:
    """The child's loop is asyncio, uvloop or trio, as the parent's."""
    name, options = anyio_backend
    expected = "uvloop" if options.get("use_uvloop") else name
    assert await ctx.Process(target=targets.loop_kind) == expected


@pytest.mark.parametrize("kind", [targets.PlainSubclass, targets.AsyncSubclass])
async def test_overridden_run(kind: type[targets.PlainSubclass]) -> None:
    """A subclass may override run() as def or async def; its attributes travel."""
    assert await kind(1, 2) == 3


async def test_forgotten_super_init_is_named() -> None:
    """Without super().__init__() every use says what is missing."""
    p = targets.Forgetful()
    with pytest.raises(RuntimeError, match=r"Forgetful.__init__\(\) did not call super\(\).__init__\(\)"):
        await p.start()
    with pytest.raises(RuntimeError, match="super"):
        await p
    with pytest.raises(RuntimeError, match="super"):
        _ = p.pid
    assert "Forgetful" in repr(p)


async def test_start_does_not_wait_for_the_child(ctx: Context, words: Words) -> None:
    """start() returns while the child runs; async with joins it."""
    async with ctx.Process(target=targets.plain_wait, args=(words.to,)) as p:
        assert await words.next() == "ready"
        assert p.is_alive()
        assert p.exitcode is None
        p.kill()
    assert p.exitcode == -signal.SIGKILL


async def test_join_and_result_time_out(words: Words) -> None:
    """join(timeout) returns None and result(timeout) raises TimeoutError while the child runs."""
    async with Process(target=targets.async_wait, args=(words.to,)) as p:
        await p.join(0.01)
        assert p.exitcode is None
        with pytest.raises(TimeoutError):
            await p.result(timeout=0)
        p.kill()
    with pytest.raises(ProcessDied):
        await p.result()


async def test_many_tasks_wait_for_one_child(words: Words) -> None:
    """join and result of the same child in several tasks all end."""
    done: list[str] = []

    async def wait(kind: str) -> None:
        await (p.join() if kind == "join" else p.result())
        done.append(kind)

    async with Process(target=targets.plain_add, args=(1,)) as p, anyio.create_task_group() as group:
        for kind in ("join", "result") * 5:
            group.start_soon(wait, kind)
    assert len(done) == 10


async def test_two_tasks_await_one_that_was_not_started(ctx: Context) -> None:
    """The first starts it; the second waits for that, and both have the result."""
    p = ctx.Process(target=targets.plain_add, args=(1,))
    got: list[int] = []

    async def wait() -> None:
        got.append(await p)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(wait)
        tasks.start_soon(wait)
    assert got == [11, 11]


async def test_result_can_be_asked_for_again(ctx: Context) -> None:
    """The outcome is kept: twice the same value, twice the same error."""
    p = ctx.Process(target=targets.plain_add, args=(1, 2))
    assert await p == await p == 3
    p = ctx.Process(target=targets.plain_raise, args=(ValueError("x"),))
    for _ in range(2):
        with pytest.raises(ValueError, match="x"):
            await p


# Exceptions


@pytest.mark.parametrize("target", [targets.plain_raise, targets.async_raise])
async def test_exception_comes_home_with_its_traceback(ctx: Context, target: Any) -> None:
    """The target's own exception is raised, with the child's traceback in the chain; exit code 1."""
    p = ctx.Process(target=target, args=(KeyError("lost"),))
    with pytest.raises(KeyError, match="lost") as caught:
        await p
    cause = caught.value.__cause__
    assert isinstance(cause, RemoteTraceback)
    assert f"in {target.__name__}" in str(cause)
    assert "aioproc/_kernel" not in str(cause)
    assert p.exitcode == 1


@pytest.mark.parametrize("method", ["fork", "spawn"])  # the fork server keeps the stderr that it began with
async def test_exception_is_printed_where_nobody_waits_for_it(method: str, capfd: Any) -> None:
    """After start() and join() the child has printed its traceback, as in the stdlib; after `await p` not."""
    kind = aioproc.get_context(method).Process
    p = kind(target=targets.plain_raise, args=(KeyError("seen"),), name="Loud")
    await p.start()
    await p.join()
    printed = capfd.readouterr().err
    assert printed.startswith("Process Loud:\nTraceback")
    assert printed.count("KeyError") == 1
    with pytest.raises(KeyError):
        await kind(target=targets.plain_raise, args=(KeyError("quiet"),))
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    ("target", "text"),
    [
        (targets.raise_stubborn, "Stubborn: only"),
        (targets.raise_unpicklable, "Unpicklable: with a lock inside"),
        (targets.raise_what_exits, "OpensAs: as something else"),
        (targets.raise_what_interrupts, "OpensAs: as something else"),
        (targets.raise_what_is_none, "OpensAs: as something else"),
        (targets.raise_what_is_fatal, "OpensAs: as something else"),
    ],
)
async def test_exception_that_cannot_be_pickled_comes_as_text(target: Any, text: str) -> None:
    """RemoteError carries the text and the traceback of what could not travel."""
    with pytest.raises(RemoteError, match=text) as caught:
        await Process(target=target)
    assert target.__name__ in str(caught.value.__cause__)


@pytest.mark.parametrize("error", [asyncio.CancelledError("own"), GeneratorExit("own"), targets.Fatal("own")])
async def test_what_is_no_exception_comes_as_text(error: BaseException, ctx: Context) -> None:
    """A child's cancellation is none of the task that waits for it."""
    with pytest.raises(RemoteError, match=f"{type(error).__name__}: own"):
        await ctx.Process(target=targets.plain_raise, args=(error,))


async def test_result_that_cannot_be_pickled_is_an_error() -> None:
    """The error names what could not be pickled."""
    with pytest.raises(pickle.PicklingError, match="lock"):
        await Process(target=targets.return_lock)


async def test_result_that_cannot_be_sent_is_an_error(ctx: Context) -> None:
    """Without a free descriptor for a large result the error comes home, and not silence with exit code 0."""
    p = ctx.Process(target=targets.return_without_room)
    with pytest.raises(OSError, match=NONE_FREE):
        await p
    assert p.exitcode == 1


@pytest.mark.parametrize(("code", "expected"), [(3, 3), (None, 0), (0, 0), ("bye", 1)])
async def test_sys_exit_gives_the_exit_code(code: Any, expected: int, capfd: Any) -> None:
    """sys.exit in a child gives its exit code; there is no result, and that is said."""
    p = aioproc.get_context("spawn").Process(target=targets.exit_with, args=(code,))
    with pytest.raises(ProcessDied, match=f"exit code {expected}") as caught:
        await p
    assert (caught.value.exitcode, caught.value.pid) == (expected, p.pid)
    assert p.exitcode == expected
    assert capfd.readouterr().err == ("bye\n" if code == "bye" else "")


async def test_child_that_dies_without_a_word(ctx: Context) -> None:
    """A killed child gives ProcessDied with its pid and exit code."""
    p = ctx.Process(target=targets.die, args=(signal.SIGKILL,))
    with pytest.raises(ProcessDied, match="SIGKILL") as caught:
        await p
    assert (caught.value.pid, caught.value.exitcode) == (p.pid, -9)
    copy = pickle.loads(pickle.dumps(caught.value))
    assert (copy.pid, copy.exitcode, str(copy)) == (p.pid, -9, str(caught.value))


async def test_child_that_a_real_time_signal_kills() -> None:
    """Such a signal has no name in Python; the death is told all the same."""
    number = signal.SIGRTMIN + 1
    with pytest.raises(ProcessDied, match=f"killed by signal {number}"):
        await Process(target=targets.die, args=(number,))


async def test_large_result(ctx: Context) -> None:
    """100 MB come home equal, and writable."""
    array = await ctx.Process(target=targets.large, args=(100_000_000,))
    assert array.nbytes == 100_000_000
    assert (array[::1000] == np.arange(12_500_000)[::1000]).all()
    array[0] = 1


async def test_result_without_room_for_it_can_be_asked_for_again() -> None:
    """While no descriptor is free, result() says so; afterwards the result is still there."""
    p = Process(target=targets.large, args=(1 << 20,))
    await p.start()
    await p.join()
    with spare_descriptors(0), pytest.raises(OSError, match="descriptor"):
        await p.result()
    assert len(await p.result()) > 0


async def test_loops_in_two_threads_ask_for_a_result() -> None:
    """One opens it, which may take a while; the other waits for that and has the same."""
    p = Process(target=targets.SlowlyOpened)
    await p.start()
    got: list[Any] = []

    def ask() -> None:
        got.append(anyio.run(p.result))

    async with anyio.create_task_group() as tasks:
        for _ in range(2):
            tasks.start_soon(anyio.to_thread.run_sync, ask)
    assert got == [7, 7]


async def test_child_killed_while_it_sends_its_result() -> None:
    """Killed at any moment around a large send: the whole value, or ProcessDied; never a part of it."""
    outcomes = set()
    for step in range(24):
        p = Process(target=targets.large, args=(20_000_000,))
        await p.start()
        await p.join(0.002 * step)
        p.kill()
        try:
            array = await p.result()
            assert array[-1] == 20_000_000 // 8 - 1
            outcomes.add("value")
        except ProcessDied:
            outcomes.add("died")
        p.close()
    assert "died" in outcomes


async def test_arguments_that_cannot_be_unpickled(capfd: Any) -> None:
    """What goes wrong before the target is called comes home as well, and is not printed besides."""
    with pytest.raises(ValueError, match="poison"):
        await aioproc.get_context("spawn").Process(target=print, args=(targets.Poison(),))
    assert capfd.readouterr().err == ""


async def test_generator_as_target_is_refused() -> None:
    """A generator function is a TypeError that says what hands out what it yields."""
    with pytest.raises(TypeError, match=r"yields\(\) is a generator.*AsyncPool.stream"):
        await Process(target=targets.yields)


# Ending


@pytest.mark.parametrize("target", [targets.plain_wait, targets.async_wait])
async def test_sigterm_unwinds(ctx: Context, words: Words, target: Any) -> None:
    """terminate() runs the `finally` blocks of plain and async targets; the exit code says -15."""
    p = ctx.Process(target=target, args=(words.to,))
    await p.start()
    assert await words.next() == "ready"
    p.terminate()
    p.terminate()  # a second one does not disturb the unwinding
    await p.join()
    assert await words.next() == "finally"
    assert p.exitcode == -signal.SIGTERM
    with pytest.raises(ProcessDied, match="SIGTERM"):
        await p.result()


async def test_sigterm_at_every_step_of_the_end(words: Words) -> None:
    """However late another SIGTERM comes to a child that unwinds, the exit code says -15."""
    async with Process(target=targets.signalled_at_every_step_of_the_end, args=(words.to,)) as p:
        assert await words.next() == "ready"
        p.terminate()
    assert await words.next() == "finally"
    assert p.exitcode == -signal.SIGTERM


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_after_the_target_has_returned(number: int, capfd: Any) -> None:
    """It ends the child at once, quietly: the value has gone home, and the exit code tells of the signal."""
    p = Process(target=targets.signalled_at_exit, args=(number,))
    assert await p == "returned"
    await p.join()
    assert p.exitcode == -number
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("target", [targets.plain_wait, targets.async_wait])
async def test_interrupt_unwinds_quietly(ctx: Context, words: Words, target: Any, capfd: Any) -> None:
    """interrupt() runs `finally`, prints no traceback, and the exit code says -2."""
    p = ctx.Process(target=target, args=(words.to,))
    await p.start()
    assert await words.next() == "ready"
    p.interrupt()
    await p.join()
    assert await words.next() == "finally"
    assert p.exitcode == -signal.SIGINT
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("target", [targets.ignore_sigterm, targets.ignore_cancellation, targets.stuck_in_c])
async def test_stop_kills_after_grace(words: Words, target: Any) -> None:
    """A child that ignores SIGTERM or cancellation, or is busy in C code, is killed after the grace."""
    p = Process(target=target, args=(words.to,))
    await p.start()
    assert await words.next() == "ready"
    with anyio.fail_after(10):
        assert await p.stop(grace=0.1) == -signal.SIGKILL


async def test_stop_returns_the_exit_code(ctx: Context, words: Words) -> None:
    """stop() asks first, and waits no longer than needed."""
    p = ctx.Process(target=targets.async_wait, args=(words.to,))
    await p.start()
    assert await words.next() == "ready"
    with anyio.fail_after(30):
        assert await p.stop(grace=60) == -signal.SIGTERM
    assert await p.stop() == -signal.SIGTERM


async def test_cancelled_stop_kills_at_once(words: Words) -> None:
    """Cancelling stop() leaves no child."""
    p = Process(target=targets.ignore_sigterm, args=(words.to,))
    await p.start()
    assert await words.next() == "ready"
    with anyio.move_on_after(0.05):
        await p.stop(grace=60)
    assert p.exitcode == -signal.SIGKILL


async def test_async_with_stops_on_error(words: Words) -> None:
    """An exception in the body stops the child before it goes on."""
    with pytest.raises(ValueError, match="body"):
        async with Process(target=targets.async_wait, args=(words.to,)) as p:
            assert await words.next() == "ready"
            raise ValueError("body")
    assert p.exitcode == -signal.SIGTERM


async def test_async_with_stops_on_cancellation(words: Words) -> None:
    """A cancelled block stops the child before the cancellation goes on, also when it was joining."""
    for where in ("body", "join"):
        with anyio.CancelScope() as scope:
            async with Process(target=targets.async_wait, args=(words.to,)) as p:
                assert await words.next() == "ready"
                scope.cancel()
                if where == "body":
                    await anyio.sleep(60)
        assert await words.next() == "finally"
        assert p.exitcode == -signal.SIGTERM


async def test_cancelled_waits_leave_the_child_alone(words: Words) -> None:
    """A cancelled join or result takes nothing: the child goes on and can be waited for again."""
    async with Process(target=targets.plain_wait, args=(words.to,)) as p:
        assert await words.next() == "ready"
        for wait in (p.join, p.result) * 20:
            with anyio.move_on_after(0):
                await wait()
        assert p.is_alive()
        p.terminate()


@pytest.mark.parametrize("delay", [0, 0.001, 0.005, 0.02])
async def test_cancelled_start_leaves_no_child(ctx: Context, delay: float, words: Words) -> None:
    """Cancelled at any moment of a start: no child, one that was killed, or one as if not cancelled."""
    p = ctx.Process(target=targets.async_wait, args=(words.to,))
    with anyio.move_on_after(delay) as scope:
        await p.start()
    if scope.cancelled_caught:
        words.to.close()
        said = await words.next()
        if said == "ready":
            said = await words.next()
        assert said == "the end"  # every copy of the child's end is closed, and no "finally" was run
    else:
        await p.stop()


@pytest.mark.parametrize("method", ["forkserver", "spawn"])
async def test_start_cancelled_before_its_thread_has_begun(
    method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was kept for the launch is let go at once, however late the thread comes."""
    begin, work = threading.Event(), _Run.work

    def late(run: _Run) -> None:
        begin.wait()
        work(run)

    monkeypatch.setattr(_Run, "work", late)
    p = aioproc.get_context(method).Process(target=targets.plain_add, args=(1,), daemon=True)
    before = set(open_descriptors().values())
    try:
        with anyio.move_on_after(0.01):
            await p.start()
        del p
        gc.collect()
        more = set(open_descriptors().values()) - before
        assert not [one for one in more if one.startswith("socket:")]
    finally:
        begin.set()


# Attributes and the stdlib's rules


async def test_attributes(ctx: Context) -> None:
    """name, pid, ident, daemon, authkey, sentinel, exitcode and is_alive, here and in the child."""
    p = ctx.Process(target=targets.describe_self, name="Ada", daemon=True)
    assert (p.pid, p.ident, p.exitcode, p.is_alive()) == (None, None, None, False)
    with pytest.raises(ValueError, match="not started"):
        _ = p.sentinel
    p.authkey = b"secret"
    p.name = "Grace"
    await p.start()
    assert isinstance(p.sentinel, int)
    seen = await p.result()
    assert seen == {
        "name": "Grace",
        "pid": p.pid,
        "os_pid": p.pid,
        "daemon": True,
        "authkey": b"secret",
        "alive": True,
    }
    assert p.ident == p.pid
    assert "Grace" in repr(p)
    assert "stopped" in repr(p)


@pytest.mark.parametrize("method", ["forkserver", "spawn"])
async def test_current_process_while_arguments_are_unpickled(method: str) -> None:
    """What is imported or unpickled in a child can ask for its name, as with the stdlib."""
    args = (targets.AskedWhileUnpickled(),)
    assert await aioproc.get_context(method).Process(target=targets.same, args=args, name="named") == "named"


async def test_default_names_count_up() -> None:
    """Names are Process-N, N counting up; a subclass gives its own."""
    first: Process[None] = Process()
    second: Process[None] = Process()
    assert first.name.startswith("Process-")
    assert int(second.name.split("-")[1]) == int(first.name.split("-")[1]) + 1
    assert targets.PlainSubclass(1, 2).name.startswith("PlainSubclass-")


async def test_sentinel_is_ready_at_the_end(ctx: Context) -> None:
    """The sentinel works with multiprocessing.connection.wait, and stays ready."""
    p = ctx.Process(target=targets.plain_add, args=(1,))
    await p.start()
    await anyio.wait_readable(p.sentinel)
    assert multiprocessing.connection.wait([p.sentinel], 0) == [p.sentinel]
    await p.join()
    assert multiprocessing.connection.wait([p.sentinel], 0) == [p.sentinel]


@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.parametrize("ignored", [True, False])
async def test_child_that_somebody_else_reaped(method: str, ignored: bool) -> None:
    """Where SIGCHLD is ignored, or others wait for any child, the end is seen all the same."""
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN) if ignored else None
    try:
        p = aioproc.get_context(method).Process(target=targets.plain_add, args=(1,))
        await p.start()
        await anyio.wait_readable(p.sentinel)
        if not ignored:
            os.waitpid(p.pid or 0, 0)
        with anyio.fail_after(5):
            assert await p.result() == 11
        assert p.exitcode == 255  # nobody knows it any more
        assert aioproc.active_children() == []
        p.close()
    finally:
        if ignored:
            signal.signal(signal.SIGCHLD, before)


async def test_active_children(words: Words) -> None:
    """active_children() lists those that run, and the stdlib sees them too."""
    assert aioproc.active_children() == []
    async with Process(target=targets.plain_wait, args=(words.to,)) as p:
        assert aioproc.active_children() == [p]
        assert [child.pid for child in multiprocessing.active_children()] == [p.pid]
        p.kill()
    assert aioproc.active_children() == []


async def test_close_inside_of_its_block() -> None:
    """Leaving the block of a process that was closed inside is no error."""
    async with Process(target=targets.plain_add, args=(1,)) as p:
        assert await p.result() == 11
        p.close()


async def test_close_while_others_wait(ctx: Context, words: Words) -> None:
    """Of several tasks that wait for the end, the first may close the object: all are told of it."""
    p = ctx.Process(target=targets.plain_wait, args=(words.to,))
    await p.start()

    async def join_and_close() -> None:
        await p.join()
        p.close()

    async def result() -> None:
        with pytest.raises(ProcessDied, match="SIGKILL"):
            await p.result()

    async with anyio.create_task_group() as tasks:
        for wait in (join_and_close, p.join, result):
            tasks.start_soon(wait)
        assert await words.next() == "ready"
        p.kill()


async def test_start_that_failed_can_be_tried_again(ctx: Context) -> None:
    """Without enough descriptors, or when cancelled, there is no child; later there can be one."""
    p = ctx.Process(target=targets.plain_add, args=(1,), daemon=True)
    server.ensure_running()
    for spare in range(5):  # it fails elsewhere each time
        with (
            spare_descriptors(spare),
            pytest.raises(OSError, match=NONE_FREE),
        ):
            await p.start()
    with anyio.CancelScope() as scope:
        scope.cancel()
        await p.start()
    assert scope.cancelled_caught
    assert await p == 11


async def test_close_after_a_start_that_failed() -> None:
    """It is as if it had never been started."""
    p = Process(target=targets.plain_add, args=(1,), daemon=True)
    with spare_descriptors(2), pytest.raises(OSError, match=NONE_FREE):
        await p.start()
    p.close()


async def test_close_while_it_starts(ctx: Context, monkeypatch: pytest.MonkeyPatch, words: Words) -> None:
    """close() refuses also while the child is being made; nothing is lost by that."""
    p = ctx.Process(target=targets.plain_wait, args=(words.to,))
    start: Any = vars(process)["start"]

    async def closed_in_between(child: Any, method: str) -> None:
        with pytest.raises(ValueError, match="being started"):
            p.close()
        await start(child, method)

    monkeypatch.setattr(process, "start", closed_in_between)
    async with p:
        p.kill()


async def test_close(ctx: Context, words: Words) -> None:
    """close() refuses while the child runs; afterwards methods and attributes raise ValueError."""
    p = ctx.Process(target=targets.plain_wait, args=(words.to,))
    await p.start()
    with pytest.raises(ValueError, match="still running"):
        p.close()
    p.kill()
    await p.join()
    p.close()
    p.close()
    for use in ("is_alive", "terminate", "kill", "interrupt"):
        with pytest.raises(ValueError, match="closed"):
            getattr(p, use)()
    for name in ("name", "daemon", "pid", "ident", "exitcode", "authkey", "sentinel"):
        with pytest.raises(ValueError, match="closed"):
            getattr(p, name)
    for name, value in (("name", "late"), ("daemon", True), ("authkey", b"late")):
        with pytest.raises(ValueError, match="closed"):
            setattr(p, name, value)
    for wait in (p.join, p.result, p.start, p.stop):
        with pytest.raises(ValueError, match="closed"):
            await wait()
    assert "closed" in repr(p)


async def test_once_only(ctx: Context) -> None:
    """A second start, a join before the start and a late daemon are the stdlib's AssertionErrors."""
    p = ctx.Process(target=targets.plain_add, args=(1,))
    for wait in (p.join, p.result, p.stop):
        with pytest.raises(AssertionError, match="can only join a started process"):
            await wait()
    for use in (p.terminate, p.kill, p.interrupt):
        with pytest.raises(ValueError, match="not started"):
            use()
    await p.start()
    with pytest.raises(AssertionError, match="cannot start a process twice"):
        await p.start()
    with pytest.raises(AssertionError, match="already started"):
        p.daemon = True
    await p.join()


@pytest.mark.parametrize(
    ("kwargs", "error", "text"),
    [
        ({"target": 3}, TypeError, "callable, not 3"),
        ({"target": print, "args": "sum"}, TypeError, r"args=\(x,\)"),
        ({"target": print, "args": {1, 2}}, TypeError, "must be a tuple"),
        ({"target": print, "args": 5}, TypeError, r"must be a tuple of arguments, not 5"),
        ({"target": print, "kwargs": [1]}, TypeError, "mapping"),
        ({"group": 1}, AssertionError, "group"),
        ({"target": print, "name": 5}, AssertionError, "name must be a string, not 5"),
        ({"stdin": "mine"}, ValueError, "inherit"),
    ],
)
def test_bad_arguments_are_refused_at_the_call(kwargs: Any, error: type[Exception], text: str) -> None:
    """Each wrong argument is an error of the stdlib's type, with the value in it."""
    with pytest.raises(error, match=text):
        Process(**kwargs)


async def test_bad_timeouts_are_refused() -> None:
    """Negative seconds are a ValueError."""
    async with Process(target=targets.plain_add, args=(1,)) as p:
        for wait in (p.join, p.result, p.stop):
            with pytest.raises(ValueError, match="-1"):
                await wait(-1)


async def test_a_process_object_in_another_process() -> None:
    """It is a copy there, which is of no use, and says so."""
    queue: aioproc.Queue[Process[int]] = aioproc.Queue()
    await queue.put(Process(target=targets.plain_add, args=(1,)))
    copy = await queue.get()
    assert repr(copy) == "<Process copy>"
    for use in (copy.is_alive, copy.start, copy.join, lambda: copy.name):
        with pytest.raises(RuntimeError, match="this Process is a pickled copy"):
            done: Any = use()
            await done


async def test_argument_that_cannot_be_pickled(start_method: str) -> None:
    """The error names the object and comes from start(); nothing is left; fork needs no pickle."""
    p = aioproc.get_context(start_method).Process(target=targets.plain_add, args=(threading.Lock(),))
    if start_method == "fork":
        with pytest.raises(TypeError, match="unsupported operand"):
            await p
    else:
        with pytest.raises(pickle.PicklingError, match=r"plain_add.*<unlocked _thread.lock"):
            await p.start()
        assert p.pid is None


async def test_lambda_travels_with_cloudpickle(ctx: Context) -> None:
    """A lambda and a closure are targets like others where cloudpickle is installed."""
    seven = 7
    assert await ctx.Process(target=lambda x: x + seven, args=(1,)) == 8

    async def closure() -> int:
        return seven

    assert await ctx.Process(target=closure) == 7


@pytest.mark.parametrize("method", ["forkserver", "spawn"])
async def test_lambda_without_cloudpickle_says_what_to_install(
    method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without cloudpickle the error names it."""
    monkeypatch.setitem(sys.modules, "cloudpickle", None)
    with pytest.raises(pickle.PicklingError, match=r"pip install aioproc\[cloudpickle\]"):
        await aioproc.get_context(method).Process(target=lambda: 1).start()


async def test_daemon_has_no_children(ctx: Context) -> None:
    """A daemon that starts a process gets the stdlib's AssertionError."""
    with pytest.raises(AssertionError, match="daemonic processes are not allowed to have children"):
        await ctx.Process(target=targets.start_another, daemon=True)


@pytest.mark.parametrize("inner", ["fork", "forkserver", "spawn"])
async def test_children_of_children(ctx: Context, inner: str) -> None:
    """A child may have children of its own, by each start method."""
    assert await ctx.Process(target=targets.start_grandchild, args=(inner,)) == 3


@pytest.mark.parametrize("inner", ["fork", "forkserver", "spawn"])
@pytest.mark.leaks_allowed  # the stdlib keeps its fork server
def test_children_of_a_child_of_multiprocessing(inner: str) -> None:
    """The same in a child that the stdlib's own fork server has made, with which ours shares no secret."""
    stdlib = multiprocessing.get_context("forkserver")
    child = stdlib.Process(target=targets.run_grandchild, args=(inner,))
    child.start()
    child.join()
    assert child.exitcode == 0


# Standard input


async def test_input_in_a_child_says_what_to_do(ctx: Context) -> None:
    """input() in a child is an EOFError that names stdin="inherit"; descriptor 0 is the null device."""
    with pytest.raises(EOFError, match="stdin='inherit'"):
        await ctx.Process(target=targets.read_line)
    assert await ctx.Process(target=targets.read_null) == b""


@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
def test_a_child_warns_of_no_leak(method: str) -> None:
    """In Python's development mode a child ends without a word, whatever stands for its standard input."""
    program = f"""if True:
        import aioproc
        async def main():
            print(await aioproc.get_context({method!r}).Process(target=abs, args=(-3,)))
        aioproc.run(main)
    """
    command = [sys.executable, "-X", "dev", "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stdout, done.stderr) == (0, "3\n", "")


async def test_inherited_input_can_be_read(ctx: Context) -> None:
    """With stdin="inherit" the child reads the parent's standard input."""
    reading, writing = os.pipe()
    saved = os.dup(0)
    os.dup2(reading, 0)
    try:
        os.write(writing, b"hello\n")
        assert await ctx.Process(target=targets.read_line, stdin="inherit") == "hello"
    finally:
        os.dup2(saved, 0)
        for fd in (reading, writing, saved):
            os.close(fd)


# What a fork must not share


async def test_forked_child_shares_neither_wakeup_nor_handlers() -> None:
    """Under fork the parent's wake-up descriptor, handlers and signal mask are gone in the child."""
    caught: list[int] = []
    before = signal.signal(signal.SIGUSR1, lambda number, frame: caught.append(number))
    try:
        result = await aioproc.get_context("fork").Process(target=targets.signals_as_they_should_be)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert result == [-1, True, set()]


@pytest.fixture
async def stirred() -> AsyncIterator[list[int]]:
    """The signals that the test's own loop sees."""
    seen: list[int] = []
    async with anyio.create_task_group() as group:

        async def watch(*, task_status: Any) -> None:
            with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGUSR1) as signals:
                task_status.started()
                async for number in signals:
                    seen.append(number)

        await group.start(watch)
        yield seen
        group.cancel_scope.cancel()


async def test_signal_to_a_child_never_stirs_the_parent(
    ctx: Context, words: Words, stirred: list[int]
) -> None:
    """Signals sent to a child reach only the child, though the parent's loop handles the same ones."""
    for target in (targets.plain_wait, targets.async_wait):
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
            p = ctx.Process(target=target, args=(words.to,))
            await p.start()
            assert await words.next() == "ready"
            assert p.pid is not None
            os.kill(p.pid, number)
            await p.join()
            assert p.exitcode == -number
            if number != signal.SIGUSR1:
                assert await words.next() == "finally"
    assert stirred == []


@pytest.mark.parametrize("target", [targets.plain_with_forks, targets.async_with_forks])
async def test_what_a_child_forks_hears_signals(ctx: Context, target: Any) -> None:
    """A child unwinds by them; what the stdlib forks there ends by them, and the child goes on."""
    async with ctx.Process(target=target) as process:
        assert await process.result(timeout=30) == [-signal.SIGTERM, "left", 3]


# Many


@pytest.mark.parametrize(
    ("method", "anyio_backend"),
    [("forkserver", BACKENDS[loop]) for loop in BACKENDS]
    + [("fork", BACKENDS["asyncio"]), ("spawn", BACKENDS["asyncio"])],
)
async def test_thirty_at_once(method: str) -> None:
    """Thirty children started at the same time all bring their result; nothing is left (see leak_guard)."""
    ctx = aioproc.get_context(method)
    results: list[int] = []

    async def one(number: int) -> None:
        results.append(await ctx.Process(target=targets.plain_add, args=(number,)))

    async with anyio.create_task_group() as group:
        for number in range(30):
            group.start_soon(one, number)
    assert sorted(results) == [number + 10 for number in range(30)]


@pytest.mark.parametrize("count", [30, pytest.param(500, marks=[pytest.mark.slow, pytest.mark.timeout(300)])])
async def test_many_in_sequence(count: int) -> None:
    """Hundreds one after the other leave no descriptor, thread or zombie, though none is closed by hand."""
    await Process(target=targets.plain_add, args=(1,))
    descriptors, threads = len(open_descriptors()), threading.active_count()
    for number in range(count):
        assert await Process(target=targets.async_add, args=(number,)) == number + 10
    assert len(open_descriptors()) <= descriptors
    assert threading.active_count() <= threads + 1
    assert not [p for p in psutil.Process().children() if p.status() == psutil.STATUS_ZOMBIE]


# The fork server


async def test_killed_fork_server(words: Words) -> None:
    """When the fork server is killed, its children live on and are waited for, and the next start works."""
    first = Process(target=targets.async_wait, args=(words.to,))
    await first.start()
    assert await words.next() == "ready"
    os.kill(server._forkserver_pid, signal.SIGKILL)
    await anyio.wait_readable(first.sentinel)
    assert first.is_alive()
    await first.join(0)
    assert first.is_alive()
    second = Process(target=targets.plain_add, args=(1,))
    assert await second == 11
    first.terminate()
    await first.join()
    assert await words.next() == "finally"
    assert first.exitcode == 255  # nobody knows it any more
    with pytest.raises(ProcessDied):
        await first.result()


async def test_fork_server_killed_while_several_ask_it() -> None:
    """Each start that asks a server which is killed meanwhile has the next one, or says what happened."""
    server.ensure_running()
    killed = server._forkserver_pid
    outcomes: list[Any] = []

    async def one() -> None:
        try:
            outcomes.append(await Process(target=targets.plain_add, args=(1,)))
        except RuntimeError as error:  # it had taken the order, and before Python 3.14 it takes any
            outcomes.append("the fork server ended" in str(error))

    os.kill(killed, signal.SIGSTOP)
    with anyio.fail_after(20):
        async with anyio.create_task_group() as group:
            for _ in range(4):
                group.start_soon(one)
            while _connections_to(server._forkserver_address) < 4:
                await anyio.sleep(0.01)
            os.kill(killed, signal.SIGKILL)
    assert len(outcomes) == 4
    assert set(outcomes) <= {11, True}
    assert await Process(target=targets.plain_add, args=(1,)) == 11


def _connections_to(address: str) -> int:
    name = address.replace("\0", "@")
    with open("/proc/net/unix") as sockets:
        return sum(line.endswith(f" {name}\n") for line in sockets) - 1  # the one that listens


async def test_fork_server_outlives_a_client_that_dies(words: Words) -> None:
    """One that is killed between its connection and its request; the exit code of another child is known."""
    p = Process(target=targets.plain_wait, args=(words.to,))
    await p.start()
    before = server._forkserver_pid
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(server._forkserver_address)
    assert await Process(target=targets.plain_add, args=(1,)) == 11
    assert server._forkserver_pid == before
    p.kill()
    await p.join()
    assert p.exitcode == -9


async def test_fork_server_outlives_a_lack_of_descriptors(words: Words) -> None:
    """A start that fails for want of them, wherever it does, leaves the server alone."""
    p = Process(target=targets.plain_wait, args=(words.to,))
    await p.start()
    before = server._forkserver_pid
    for spare in range(12):
        other = Process(target=targets.plain_add, args=(1,))
        with suppress(OSError):
            with spare_descriptors(spare):
                await other.start()
            await other.join()
    assert await Process(target=targets.plain_add, args=(1,)) == 11
    assert server._forkserver_pid == before
    p.kill()
    await p.join()
    assert p.exitcode == -9


def test_fork_server_lets_signals_wait() -> None:
    """SIGTERM and SIGINT are blocked in it from the first, and so in a child that is being made."""
    program = """if True:
        from aioproc._kernel.forkserver import server
        server.ensure_running()
        with open(f"/proc/{server._forkserver_pid}/status") as status:
            (blocked,) = (line.split()[1] for line in status if line.startswith("SigBlk:"))
        print(*(number for number in range(1, 65) if int(blocked, 16) >> number - 1 & 1))
    """
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stderr) == (0, "")
    assert {signal.SIGTERM, signal.SIGINT} <= set(map(int, done.stdout.split()))


async def test_fork_server_whose_socket_was_removed() -> None:
    """Where somebody cleaned up the folder for temporary files, the next start has another server."""
    server.ensure_running()
    first, address = server._forkserver_pid, server._forkserver_address
    if address.startswith("\0"):
        pytest.skip("it has no file here")
    os.unlink(address)
    with anyio.fail_after(20):
        assert await Process(target=targets.plain_add, args=(1,)) == 11
    assert server._forkserver_pid != first
    os.waitpid(first, 0)  # nobody holds it any more


def test_the_next_fork_server_is_not_given_up_with_the_last() -> None:
    """A thread that learns late of a server's death leaves alone the one that another thread has started."""
    server.ensure_running()
    killed = server._forkserver_address
    os.kill(server._forkserver_pid, signal.SIGKILL)
    server._forget(killed)
    server.ensure_running()
    second = server._forkserver_pid
    server._forget(killed)
    assert server._forkserver_pid == second


# Contexts


def test_setting_the_start_method_leaves_the_stdlib_alone() -> None:
    """Our default and multiprocessing's are two settings."""
    program = """if True:
        import aioproc, multiprocessing
        from tests.local.process_targets import plain_add
        assert aioproc.get_start_method(allow_none=True) is None
        assert aioproc.get_start_method() == "forkserver"
        async def main():
            assert await aioproc.Process(target=plain_add, args=(1,)) == 11
        if __name__ == "__main__":
            aioproc.run(main)
            assert multiprocessing.get_start_method(allow_none=True) is None
            multiprocessing.set_start_method("spawn")
            aioproc.set_start_method("fork")
            assert aioproc.get_start_method() == "fork"
            assert multiprocessing.get_start_method() == "spawn"
            try:
                aioproc.set_start_method("spawn")
            except RuntimeError as error:
                print(error)
    """
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stderr) == (0, "")
    assert "already been set to 'fork'" in done.stdout


def test_start_methods_of_other_libraries_are_theirs(monkeypatch: pytest.MonkeyPatch) -> None:
    """loky adds its own to multiprocessing's once it is imported; that is none of ours."""
    before = aioproc.get_all_start_methods()
    monkeypatch.setattr(multiprocessing, "get_all_start_methods", lambda: ["loky", *before])
    assert aioproc.get_all_start_methods() == before
    assert aioproc.get_start_method() == before[0]
    with pytest.raises(ValueError, match="cannot find context for 'loky'"):
        aioproc.get_context("loky")


def test_contexts_have_every_name() -> None:
    """A context offers what the module offers; unknown methods and names are the stdlib's errors."""
    for method in (None, *aioproc.get_all_start_methods()):
        ctx = aioproc.get_context(method)
        for name in aioproc.__all__:
            assert getattr(ctx, name) is not None
        assert issubclass(ctx.Process, Process)
        assert pickle.loads(pickle.dumps(ctx)) is ctx
    with pytest.raises(ValueError, match="cannot find context for 'teleport'"):
        aioproc.get_context("teleport")
    with pytest.raises(AttributeError, match="nonsense"):
        _ = aioproc.get_context().nonsense
    with pytest.raises(ValueError, match="cannot find context for 'teleport'"):
        type(aioproc.get_context())("teleport")
    wrong: Any
    for wrong in ([1], "json"):
        with pytest.raises(TypeError, match="strings"):
            aioproc.set_forkserver_preload(wrong)
