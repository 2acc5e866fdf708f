"""The line of a semaphore: who becomes its head sleeps on, and only a release wakes him."""

from __future__ import annotations

import fcntl
import os
import select
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import anyio
import pytest

from aioproc import Process, Semaphore
from aioproc._kernel import quiet
from tests.conftest import BACKENDS
from tests.crash.killing import died, forked, kill_before_call
from tests.crash.test_lock_points import SECONDS, until
from tests.crash.test_semaphore_points import Row
from tests.local import sync_children as children
from tests.local.test_idle import WATCHED_SECONDS, run_so_far
from tests.local.test_semaphore import standing
from tests.shared import Wire

ENTRIES = 5  # of a place that no counter was armed for: see `Place` and `QuietPlace`
LOOPS_PER_FILE = 500  # that one file may wake through an epoll descriptor each


def is_asleep(process: int) -> bool:
    with open(f"/proc/{process}/stat") as stat:
        return stat.read().rpartition(")")[2].split()[0] == "S"


@contextmanager
def sleeping(process: int) -> Iterator[None]:
    """Inside, a process that has begun to wait does not run."""
    until(lambda: is_asleep(process))
    before = run_so_far(process)
    yield
    time.sleep(WATCHED_SECONDS)
    assert run_so_far(process) == before
    assert is_asleep(process)


def entries(watch: Any) -> int:
    """How many descriptors an epoll descriptor watches."""
    with open(f"/proc/self/fdinfo/{watch.fileno()}") as info:
        return sum(line.startswith("tfd:") for line in info)


def in_loop(backend: str, row: Row) -> Callable[[], None]:
    """What waits for the semaphore in a loop."""

    async def main() -> None:
        assert await row.semaphore.acquire(timeout=SECONDS)
        row.wire.say("got")

    name, options = BACKENDS[backend]
    return lambda: anyio.run(main, backend=name, backend_options=options)


@pytest.mark.parametrize("backend", [None, *BACKENDS])
def test_who_becomes_the_head_sleeps_on(backend: str | None) -> None:
    """A hand-over does not wake the next one, who then makes no system call until a release."""
    row = Row()
    head = row.join()
    following = row.join(work=in_loop(backend, row) if backend else None)
    last = row.join()
    with sleeping(following):
        row.release()
        row.served(head)
    with sleeping(last):
        row.served(following, by=1)
    row.served(last, by=1)
    row.check(0)


@pytest.mark.parametrize("killed", [False, True])
def test_the_counter_fires_before_the_token_comes(killed: bool) -> None:
    """Who is woken between the two steps of a hand-over sleeps until the token comes, or is made anew."""
    row = Row()

    def stop_before_sending() -> None:
        kill_before_call(1, {"sendmsg"}, how=signal.SIGSTOP)
        row.wait()

    head = row.join(work=stop_before_sending)
    following, last = row.join(), row.join()
    row.release()
    assert os.WIFSTOPPED(os.waitpid(head, os.WUNTRACED)[1])
    until(lambda: is_asleep(following))
    ran = run_so_far(following)
    row.release()
    until(lambda: run_so_far(following) > ran)
    with sleeping(following):
        pass
    os.kill(head, signal.SIGKILL if killed else signal.SIGCONT)
    if killed:
        assert died(head)
        row.released -= 1  # what it had taken
        row.release()
        row.served(following, last)
    else:
        row.served(head, following)
        row.served(last, by=1)
    row.check(0)


def test_the_value_is_taken_before_the_head_looks() -> None:
    """The head keeps its turn, and gets the next one."""
    row = Row()

    def stop_before_looking() -> None:
        kill_before_call(1, {"eventfd_read"}, how=signal.SIGSTOP)
        row.wait()

    head = row.join()
    following = row.join(work=stop_before_looking)
    last = row.join()
    row.release()
    row.served(head)
    row.release()
    assert os.WIFSTOPPED(os.waitpid(following, os.WUNTRACED)[1])
    row.semaphore._value.take()  # as one does who saw that nobody waited, just before the head came
    os.kill(following, signal.SIGCONT)
    with sleeping(following):
        pass
    row.served(following, by=1)
    row.served(last, by=1)
    row.check(1)


async def started_head(semaphore: Semaphore, wire: Wire) -> Process[None]:
    """A child that waits for the semaphore, the first in its line, and says when it has taken one."""
    head = Process(target=children.take, args=(semaphore.sync, wire, "head"))
    await head.start()
    while semaphore._line.free:
        await anyio.sleep(0.001)
    return head


@pytest.mark.anyio
@pytest.mark.parametrize("raised", [False, True])
async def test_a_cancelled_head_passes_its_turn_on(anyio_backend: Any, raised: bool) -> None:
    """Whether the counter has fired for it or not, the next one gets what is released."""
    semaphore, wire = Semaphore(0), Wire()
    head = await started_head(semaphore, wire)
    last = Process(target=children.take, args=(semaphore.sync, wire, "last"))
    async with anyio.create_task_group() as group:
        group.start_soon(semaphore.acquire)
        await standing(semaphore, 1)
        await last.start()
        await standing(semaphore, 2)
        semaphore.release()
        assert await wire.ahear() == "head"
        await head.result()
        if raised:
            semaphore.release()
        group.cancel_scope.cancel()
    if not raised:
        semaphore.release()
    assert await wire.ahear() == "last"
    await last.result()
    assert semaphore.get_value() == 0


def test_a_bystander_of_the_head_is_not_disturbed() -> None:
    """A child that the head forked, and that lives on, keeps neither its turn nor its sleep."""
    row, fork, forked_one = Row(), Wire(), Wire()

    def wait_and_fork() -> None:
        warnings.simplefilter("ignore")  # a thread is running
        threading.Thread(target=row.wait, daemon=True).start()
        fork.hear(SECONDS)
        forked_one.say(forked(signal.pause))
        signal.pause()

    head = row.join()
    following = row.join(work=wait_and_fork)
    last = row.join()
    row.release()
    row.served(head)
    fork.say()
    bystander = forked_one.hear(SECONDS)
    try:
        os.kill(following, signal.SIGKILL)
        assert died(following)
        row.served(last, by=1)
        row.check(0)
    finally:
        os.kill(bystander, signal.SIGKILL)


def test_numbers_of_the_counter_do_not_pile_up() -> None:
    """However many numbers the counter has in those that hand over, a place keeps a few."""
    row, most = Row(), 0

    def wait_with(number: int) -> None:
        handle = row.semaphore._value.handle
        handle._fd = fcntl.fcntl(handle.fileno(), fcntl.F_DUPFD_CLOEXEC, number)
        row.wait()

    def release() -> None:
        row.stands(1, 0)
        row.semaphore.release(1)
        assert row.wire.hear(SECONDS) == "got"
        row.semaphore.release(1)

    for number in range(100, 110):
        head = row.join(work=lambda number=number: wait_with(number))  # type: ignore[misc]
        helper = forked(release)
        row.take()
        assert not died(head)
        assert not died(helper)
        most = max(most, *(entries(place.watch) for place in row.line._places._idle), 0)
    assert ENTRIES < most <= ENTRIES + quiet.MOST_NUMBERS
    row.check(0)


@pytest.mark.anyio
async def test_no_room_for_the_counter(anyio_backend: Any) -> None:
    """Where the kernel lets no more loops wait for the counter, the token wakes who becomes the head."""
    semaphore, wire = Semaphore(0), Wire()
    head = await started_head(semaphore, wire)
    with select.epoll() as outer, watched_often(semaphore, outer):
        async with anyio.create_task_group() as group:
            group.start_soon(semaphore.acquire)
            await standing(semaphore, 1)
            (place,) = semaphore._line._places._of_loop.values()
            semaphore.release()
            await head.result()
            assert entries(place.watch) == ENTRIES
            semaphore.release()
    assert semaphore.get_value() == 0


@pytest.mark.anyio
async def test_room_for_a_loop_that_comes_later(anyio_backend: Any) -> None:
    """Who gives the turn to a place that no loop watches yet takes none of the room that it needs then."""
    semaphore, wire = Semaphore(0), Wire()
    head = await started_head(semaphore, wire)
    with select.epoll() as outer, watched_often(semaphore, outer):
        place = semaphore._line._places.of_loop()  # its ticket stands in the line
        semaphore.release()
        assert await anyio.to_thread.run_sync(wire.hear, SECONDS) == "head"
        assert entries(place.watch) == ENTRIES
        with anyio.move_on_after(0.01):
            await semaphore.acquire()
        semaphore._line._places.leave(place)
    await head.result()


@contextmanager
def watched_often(semaphore: Semaphore, outer: select.epoll) -> Iterator[None]:
    """As many loops as may watch its counter do."""
    inner = [select.epoll() for _ in range(LOOPS_PER_FILE)]
    try:
        for one in inner:
            one.register(semaphore._value.handle.fileno(), select.EPOLLIN)
            outer.register(one.fileno(), select.EPOLLIN)
        yield
    finally:
        for one in inner:
            one.close()
