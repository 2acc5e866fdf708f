"""What a launch makes of a child that is quicker than its parent."""

from __future__ import annotations

import errno
import os
import select
import signal
import threading
from collections.abc import Callable
from multiprocessing import connection
from typing import Any

import anyio
import psutil
import pytest

import aioproc
from aioproc._kernel import child, launch, lifeline
from aioproc._kernel.watch import hung_up
from aioproc.local.process import ForkProcess, ForkServerProcess

pytestmark = pytest.mark.anyio


async def test_ended_before_it_could_be_watched(monkeypatch: pytest.MonkeyPatch) -> None:
    """A child that the fork server has reaped before the parent looks has the exit code it ended with."""

    def too_late(pid: int, flags: int = 0) -> int:
        raise ProcessLookupError

    monkeypatch.setattr(os, "pidfd_open", too_late)
    p = ForkServerProcess(target=pow, args=(2, 5))
    assert await p == 32
    assert p.exitcode == 0
    p.close()


def test_forks_of_other_threads_have_no_end_of_a_lifeline(monkeypatch: pytest.MonkeyPatch) -> None:
    """A child that another thread forks while a lifeline is made does not keep it from hanging up."""
    forked: list[int] = []
    pipe: Callable[[], tuple[int, int]] = os.pipe

    def fork() -> None:
        pid = os.fork()
        if pid == 0:
            signal.pause()
        forked.append(pid)

    thread = threading.Thread(target=fork)

    def pipe_and_fork() -> tuple[int, int]:
        ends = pipe()
        thread.start()
        thread.join(0.5)  # not in time, if forks have to wait
        return ends

    monkeypatch.setattr(os, "pipe", pipe_and_fork)
    ours, theirs = lifeline.lifeline()
    thread.join()
    try:
        ours.close()
        select.select([theirs.fileno()], [], [], 1)
        assert hung_up(theirs.fileno())
    finally:
        os.kill(forked[0], signal.SIGKILL)
        os.waitpid(forked[0], 0)
        theirs.close()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_a_signal_to_a_child_just_forked(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """It ends the child, which never runs on as a copy of its parent."""
    parent, forget = os.getpid(), child.forget_the_parents_loop

    def forget_and_signal() -> None:
        forget()
        os.kill(os.getpid(), number)

    monkeypatch.setattr(launch, "forget_the_parents_loop", forget_and_signal)
    p = ForkProcess(target=pow, args=(2, 5))
    try:
        await p.start()
    finally:
        if os.getpid() != parent:
            os._exit(99)
    await p.join()
    assert p.exitcode == -number
    p.close()


async def test_child_that_cannot_be_watched_is_killed(
    start_method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A start that fails when the child is already there, for want of a descriptor, leaves none behind."""
    made: list[int] = []

    def none_free(pid: int, flags: int = 0) -> int:
        made.append(pid)
        raise OSError(errno.EMFILE, "none is free")

    kind: Any = aioproc.get_context(start_method).Process
    with monkeypatch.context() as patch, pytest.raises(OSError, match="none is free"):
        patch.setattr(os, "pidfd_open", none_free)
        await kind(target=signal.pause).start()
    with anyio.fail_after(10):
        while psutil.pid_exists(made[0]):
            await anyio.sleep(0.01)


async def test_number_of_an_ended_child_gets_no_signal(
    start_method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fork server, or somebody else, may have reaped it: its pid may by then be another process's."""
    sent: list[int] = []
    p = aioproc.get_context(start_method).Process(target=pow, args=(2, 5))
    await p.start()
    await anyio.wait_readable(p.sentinel)
    with monkeypatch.context() as patch:
        patch.setattr(os, "kill", lambda pid, number: sent.append(pid))
        p.kill()
    assert not sent
    assert await p.result() == 32


async def test_two_threads_learn_of_an_end_at_once(
    start_method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both have seen that it is there to be read; one reads it, and both know it."""
    kind: Any = aioproc.get_context(start_method).Process
    p = kind(target=os._exit, args=(3,))
    await p.start()
    await anyio.wait_readable(p.sentinel)
    both = threading.Barrier(2)
    wait = connection.wait

    def wait_for_each_other(objects: list[int], timeout: float | None) -> list[Any]:
        ready = wait(objects, timeout)
        both.wait()
        return ready

    def ask() -> None:
        codes.append(p.exitcode)

    codes: list[int | None] = []
    with monkeypatch.context() as patch:
        patch.setattr(connection, "wait", wait_for_each_other)
        threads = [threading.Thread(target=ask) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            await anyio.to_thread.run_sync(thread.join, 10)
    assert codes == [3, 3]
    p.close()
