"""Semaphores, conditions and barriers survive a death between any two system calls of their operations."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from aioproc import Barrier, BoundedSemaphore, Condition, Event, Lock, Semaphore
from tests.crash.killing import died, every_point, forked, kill_before_call
from tests.crash.test_lock_points import SECONDS, until
from tests.shared import Wire


def at(point: int, work: Callable[[], object]) -> Callable[[], None]:
    """The work, in which the process dies before its so-many-th system call."""

    def dying() -> None:
        kill_before_call(point)
        work()

    return dying


def test_semaphore_acquire() -> None:
    """Whoever dies while taking one has taken it or not; the others go on with what is left."""
    semaphore, wire = Semaphore(0), Wire()

    def wait() -> None:
        assert semaphore.sync.acquire(timeout=SECONDS)
        wire.say("got")

    def scenario(point: int) -> bool:
        dying = forked(lambda: semaphore.sync.acquire(timeout=SECONDS), point)
        until(lambda: not semaphore._line.free, dying)
        waiting = forked(wait)
        semaphore.release(2)
        assert wire.hear(SECONDS) == "got"
        dead = died(dying)
        assert not died(waiting)
        assert semaphore.get_value() in ((0, 1) if dead else (0,))
        while semaphore.get_value():
            assert semaphore.sync.acquire(timeout=SECONDS)
        return dead

    every_point(scenario, 4)


def test_permit_release() -> None:
    """Whoever dies while giving a permit back has given it back."""
    limit = BoundedSemaphore(3)

    def work() -> None:
        with limit.sync:
            pass

    def scenario(point: int) -> bool:
        dead = died(forked(work, point))
        assert limit.get_value() == 3
        return dead

    every_point(scenario, 3)


@pytest.mark.parametrize("make", [Lock, None], ids=["lock", "rlock"])
def test_condition_wait(make: Any) -> None:
    """A waiter that dies before, at or after its notification leaves it to the next one."""
    condition, wire = Condition(make and make()), Wire()

    def wait(word: str) -> None:
        with condition.sync:
            wire.say("here")
            condition.sync.wait(SECONDS)
        wire.say(word)

    def scenario(point: int) -> bool:
        before = condition._notices.waiting
        dying = forked(at(point, partial(dying_wait, condition)))
        until(lambda: condition._notices.waiting > before, dying)
        other = forked(partial(wait, "woken"))
        assert wire.hear(SECONDS) == "here"
        with condition.sync:  # and so after it waits
            condition.notify(1)
        with condition.sync:
            condition.notify(1)
        assert wire.hear(SECONDS) == "woken"
        dead = died(dying)
        assert not died(other)
        with condition.sync:
            pass
        return dead

    every_point(scenario, 10)


def dying_wait(condition: Condition) -> None:
    with condition.sync:
        condition.sync.wait(SECONDS)


def test_condition_notify() -> None:
    """A notifier that dies half-way, with the lock, leaves nobody asleep."""
    condition, wire = Condition(), Wire()

    def wait() -> None:
        with condition.sync:
            wire.say("here")
            condition.sync.wait(None)
        wire.say("woken")

    def notify() -> None:
        with condition.sync:
            condition.notify_all()

    def scenario(point: int) -> bool:
        waiting = [forked(wait) for _ in range(2)]
        assert [wire.hear(SECONDS) for _ in waiting] == ["here"] * 2
        with condition.sync:
            pass
        dead = died(forked(notify, point))
        if point == 1:  # it died before it had the lock, so it was nobody's notifier
            notify()
        assert [wire.hear(SECONDS) for _ in waiting] == ["woken"] * 2
        assert not any(map(died, waiting))
        return dead

    every_point(scenario, 8)


def test_barrier_wait() -> None:
    """A member that dies at any point breaks the barrier, unless it came to nothing or all had gone on."""
    wire = Wire()

    def wait(barrier: Barrier) -> None:
        try:
            wire.say(barrier.sync.wait(SECONDS) >= 0)
        except Exception as error:
            wire.say(type(error).__name__)

    def scenario(point: int) -> bool:
        barrier = Barrier(3)
        first = forked(partial(wait, barrier))
        until(lambda: barrier.n_waiting == 1)
        dying = forked(at(point, lambda: barrier.sync.wait(SECONDS)))
        until(lambda: barrier.n_waiting == 2 or barrier.broken, dying)
        counted = barrier.n_waiting == 2 or barrier.broken
        others = [forked(partial(wait, barrier)) for _ in range(1 if counted else 2)]
        heard = [wire.hear(SECONDS) for _ in (first, *others)]
        dead = died(dying)
        assert set(heard) <= {True, "BrokenBarrierError"}
        assert dead or heard == [True, True]
        assert not any(map(died, (first, *others)))
        barrier.reset()
        assert not barrier.broken
        assert barrier.n_waiting == 0
        return dead

    every_point(scenario, 15)


def test_event() -> None:
    """Set or clear: one system call each, so before it nothing has happened, and after it all."""
    event = Event()
    assert every_point(lambda point: died(forked(event.set, point)), 0) == 1
    assert event.is_set()
    assert every_point(lambda point: died(forked(event.clear, point)), 0) == 1
    assert not event.is_set()
