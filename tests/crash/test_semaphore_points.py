"""A semaphore and its line survive a death between any two system calls of waiting and handing over."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Any

import pytest

from aioproc import Semaphore
from tests.crash.killing import died, every_point, forked, gone, kill_before_call
from tests.crash.test_lock_points import SECONDS, until
from tests.shared import Wire

AT_ONCE = pytest.mark.parametrize("at_once", [True, False], ids=["at-once", "one-by-one"])


class GaveUp(Exception):
    """Ends a wait from outside."""


class Row:
    """Processes that wait for one semaphore in a known order; one of them is to die."""

    def __init__(self) -> None:
        self.semaphore, self.wire = Semaphore(0), Wire()
        self.line = self.semaphore._line
        self.released = self.got = 0

    def join(self, dying: int = 0, point: int = 0, work: Callable[[], None] | None = None) -> int:
        """A process that waits, as the head or behind those who came before.

        Args:
            dying: Who is not waited for any more once it is dead.
            point: Before which of its system calls the new one dies.
            work: How it waits.
        """
        behind = self.line.waiting + (not self.line.free)
        one = forked(work or (self.take if point else self.wait), point)
        self.stands(behind, dying or one)
        return one

    def stands(self, behind: int, dying: int) -> None:
        """Wait until somebody is the head, or so many stand behind him."""
        until(lambda: self.line.waiting >= behind if behind else not self.line.free, dying)

    def wait(self) -> None:
        self.take()
        self.wire.say("got")

    def take(self) -> None:
        assert self.semaphore.sync.acquire(timeout=SECONDS)

    def release(self, times: int = 1) -> None:
        if times:
            self.semaphore.release(times)
        self.released += times

    def served(self, *waiting: int, by: int = 0) -> None:
        """All of these get one, in whatever order, and end.

        Args:
            waiting: Who.
            by: How many to release for each.
        """
        for _ in waiting:
            self.release(by)
            assert self.wire.hear(SECONDS) == "got"
            self.got += 1
        assert not any(map(died, waiting))

    def check(self, *taken: int) -> None:
        """The one that was to die took so many, and the semaphore is as new."""
        left = self.semaphore.get_value()
        assert self.released - self.got - left in taken
        for _ in range(left):
            assert self.semaphore.sync.acquire(timeout=SECONDS)
        assert not self.semaphore.sync.acquire(timeout=0.001)
        self.semaphore.release()
        assert self.semaphore.sync.acquire(timeout=SECONDS)


@AT_ONCE
@pytest.mark.parametrize("waiters", [1, 2])
def test_hand_over(at_once: bool, waiters: int) -> None:
    """The head dies before it takes one, or while it hands over: those behind it get theirs."""

    def scenario(point: int) -> bool:
        row = Row()
        dying = row.join(point=point)
        waiting = [row.join(dying) for _ in range(waiters)]
        row.release(1 + at_once * waiters)
        dead = died(dying)
        row.served(*waiting, by=not at_once)
        row.check(*((0, 1) if dead else (1,)))
        return dead

    every_point(scenario, 15)


@AT_ONCE
def test_in_line(at_once: bool) -> None:
    """One in line dies: while it joins, after the counter was armed for it, or as it gets the token."""

    def scenario(point: int) -> bool:
        row = Row()
        head = row.join()
        dying = row.join(point=point)
        last = row.join(dying)
        row.release(3 if at_once else 1)
        row.served(head)
        row.release(not at_once)
        dead = died(dying)
        row.served(last, by=not at_once)
        row.check(*((0, 1) if dead else (1,)))
        return dead

    every_point(scenario, 30)


def test_recovery() -> None:
    """One in line dies while it makes the token of a killed head anew, and arms the counter for itself."""

    def scenario(point: int) -> bool:
        row = Row()
        with gone(row.join()):
            dying = row.join(point=point)
        row.release()
        dead = died(dying)
        row.check(*((0, 1) if dead else (1,)))
        return dead

    every_point(scenario, 30)


def test_recovery_among_others() -> None:
    """The same while two more try it as well: they get theirs, whoever is quicker."""
    for point in range(1, 60):
        row = Row()
        with gone(row.join()):
            dying = row.join(point=point)
            waiting = [row.join(dying), row.join(dying)]
        row.release(3)
        row.served(*waiting)
        row.check(*((0, 1) if died(dying) else (1,)))


@pytest.mark.parametrize("raised", [False, True])
def test_giving_up(raised: bool) -> None:
    """One whose counter was armed, or has just fired, dies while it gives up: the next one gets it."""

    def scenario(point: int) -> bool:
        row = Row()
        head = row.join()
        dying = row.join(work=lambda: give_up(row, point))
        last = row.join()
        row.release()
        row.served(head)
        os.kill(dying, signal.SIGSTOP)
        row.release(raised)
        os.kill(dying, signal.SIGUSR1)
        os.kill(dying, signal.SIGCONT)
        dead = died(dying)
        row.served(last, by=not raised)
        row.check(0)
        return dead

    every_point(scenario, 10)


def give_up(row: Row, point: int) -> None:
    """Wait until a signal comes, and die before the so-many-th system call after it."""

    def interrupted(number: int, frame: Any) -> None:
        kill_before_call(point)
        raise GaveUp

    signal.signal(signal.SIGUSR1, interrupted)
    with pytest.raises(GaveUp):
        row.take()
