"""A lock survives a death between any two system calls of acquiring, releasing and recovering."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

import pytest

from aioproc import BoundedSemaphore, Lock
from tests.crash.killing import died, every_point, forked, gone, kill_before_call
from tests.shared import Wire

SECONDS = 20  # by then a lock has been lost


def take_and_die(lock: Lock | BoundedSemaphore) -> None:
    """Leave the lock to the dead."""
    assert not died(forked(lock.sync.acquire))


def stands(lock: Lock | BoundedSemaphore, count: int = 1) -> Callable[[], bool]:
    return lambda: lock._tokens.waiting >= count


def until(true: Callable[[], bool], child: int = 0) -> None:
    """Wait for another process to come so far, or to have died on its way."""
    while not true():
        if child and os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            return
        time.sleep(0.0005)


def still_works(lock: Lock | BoundedSemaphore) -> None:
    """It can be taken and released, and then is as new."""
    assert lock.sync.acquire(timeout=SECONDS)
    lock.release()
    assert lock.sync.acquire(timeout=SECONDS)
    assert not lock.abandoned
    assert not lock.sync.acquire(False)
    lock.release()


def test_acquire_of_a_free_lock() -> None:
    lock = Lock()

    def scenario(point: int) -> bool:
        dead = died(forked(lock.sync.acquire, point))
        still_works(lock)
        return dead

    every_point(scenario, 1)


def test_release() -> None:
    lock = Lock()

    def work() -> None:
        lock.sync.acquire()
        lock.release()

    def scenario(point: int) -> bool:
        dead = died(forked(work, point))
        still_works(lock)
        return dead

    every_point(scenario, 3)


@pytest.mark.parametrize("waiters", [1, 2])
def test_release_to_waiters(waiters: int) -> None:
    """Whoever waits gets the lock although the one that releases it dies half-way."""
    lock, go, wire = Lock(), Wire(), Wire()

    def hold() -> None:
        lock.sync.acquire()
        wire.say("held")
        go.hear()

    def hold_and_release() -> None:
        hold()
        kill_before_call(points[0])
        lock.release()

    def wait() -> None:
        assert lock.sync.acquire(timeout=SECONDS)
        wire.say("got")
        lock.release()

    points = [0]

    def scenario(point: int) -> bool:
        points[0] = point
        holder = forked(hold_and_release)
        assert wire.hear() == "held"
        waiting = [forked(wait) for _ in range(waiters)]
        until(stands(lock, waiters))
        go.say()
        assert [wire.hear(SECONDS) for _ in waiting] == ["got"] * waiters
        dead = died(holder)
        assert not any(map(died, waiting))
        still_works(lock)
        return dead

    every_point(scenario, 4)


@pytest.mark.parametrize("waiters", [0, 1])
def test_acquire_of_a_held_lock(waiters: int) -> None:
    """One who dies while it waits, or just as it gets the lock, leaves it to the next."""
    lock, wire = Lock(), Wire()

    def wait() -> None:
        assert lock.sync.acquire(timeout=SECONDS)
        wire.say("got")
        lock.release()

    def scenario(point: int) -> bool:
        lock.sync.acquire()
        before = lock._tokens.waiting
        dying = forked(lambda: lock.sync.acquire(timeout=SECONDS), point)
        until(stands(lock, before + 1), dying)
        before = lock._tokens.waiting
        waiting = [forked(wait) for _ in range(waiters)]
        until(stands(lock, before + waiters))
        lock.release()
        assert [wire.hear(SECONDS) for _ in waiting] == ["got"] * waiters
        dead = died(dying)
        assert not any(map(died, waiting))
        still_works(lock)
        return dead

    every_point(scenario, 12)


@pytest.mark.parametrize("make", [Lock, lambda: BoundedSemaphore(2)], ids=["lock", "permits"])
@pytest.mark.parametrize("waiters", [0, 2])
def test_recovery(make: Callable[[], Lock | BoundedSemaphore], waiters: int) -> None:
    """One who dies while it makes a dead holder's token anew leaves that to the next, who sees it."""
    lock, wire = make(), Wire()
    count = lock._tokens.count

    def wait() -> None:
        assert lock.sync.acquire(timeout=SECONDS)
        wire.say(lock.abandoned)
        lock.release()

    def scenario(point: int) -> bool:
        for _ in range(count):
            take_and_die(lock)
        dying = forked(lambda: lock.sync.acquire(timeout=SECONDS), point)
        waiting = [forked(wait) for _ in range(waiters)]
        seen = [wire.hear(SECONDS) for _ in waiting]
        assert any(seen) or not waiting
        dead = died(dying)
        assert not any(map(died, waiting))
        for _ in range(count):
            assert lock.sync.acquire(timeout=SECONDS)
        for _ in range(count):
            lock.release()
        for _ in range(count):
            assert lock.sync.acquire(timeout=SECONDS)
        assert not lock.abandoned
        assert not lock.sync.acquire(False)
        for _ in range(count):
            lock.release()
        return dead

    if waiters:  # they may be quicker, so the child may live at any point
        for point in range(1, 30):
            scenario(point)
    else:
        every_point(scenario, 6)


def test_giving_up() -> None:
    """One who dies while it leaves the line after a time-out leaves nothing behind."""
    lock = Lock()

    def scenario(point: int) -> bool:
        lock.sync.acquire()
        dying = forked(lambda: lock.sync.acquire(timeout=0.002), point)
        until(lambda: False, dying)
        lock.release()
        dead = died(dying)
        still_works(lock)
        return dead

    every_point(scenario, 12)


def test_a_bystander_is_not_disturbed() -> None:
    """A child that was forked by a holder, and lives on, does not keep the lock."""
    lock, go = Lock(), Wire()
    lock.sync.acquire()
    with gone(forked(go.hear)):
        lock.release()
        take_and_die(lock)
        still_works(lock)
