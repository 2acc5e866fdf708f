"""Stopping one task: cancelled, interrupted, or killed with its worker; never another one in its place."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from aioproc._kernel.background import Loop, Stop
from aioproc._kernel.station import Station
from aioproc._kernel.wire import Kind
from aioproc.dealing import Dealer
from aioproc.task import Task

__all__ = ["Stopper"]

STREAM_STOP_SECONDS: Final = 1.0  # for a generator's `finally`, before its worker is killed


class Stopper:
    """Stops tasks that workers have, and keeps what is to be done when their time is over.

    Args:
        dealer: What was sent ahead goes back to it.
        kill: Kills a worker.

    Attributes:
        timers: What will be done about whom.
    """

    def __init__(self, loop: Loop, dealer: Dealer, kill: Callable[[Station], None]) -> None:
        self._loop = loop
        self._dealer = dealer
        self._kill = kill
        self.timers: dict[Task | Station, Stop] = {}

    def stop(self, task: Task, station: Station) -> None:
        """Stop a task that was sent to a worker.

        First its inbox is emptied: from then on it is settled which tasks the worker has taken, and none but
        those can be hit by what follows.
        """
        self._dealer.give_back(station.take_back())
        if task.station is station:
            if task.in_loop or task.item is not None:
                self._cancel_there(task, station)
            elif next(reversed(station.sent)) == task.number:  # else it has ended: a later one was taken
                self._interrupt_or_kill(task, station)
        self._dealer.feed_all()

    def _cancel_there(self, task: Task, station: Station) -> None:
        station.tell(Kind.CANCEL, task.number)
        grace = max(task.settings.grace, STREAM_STOP_SECONDS)
        self.after(task, grace, lambda: self._kill_if_only(task, station))

    def _interrupt_or_kill(self, task: Task, station: Station) -> None:
        if task.settings.grace > 0:
            station.interrupt(task.number)
            self.after(task, task.settings.grace, lambda: self._kill_if_only(task, station))
        else:
            self._kill(station)

    def leaves(self, station: Station, number: int) -> None:
        """A worker ends after an interrupted task; it may take as long for that as the task might have."""
        task: Task | None = station.sent.get(number)
        grace = 0.0 if task is None else task.settings.grace
        self._let_go(station)
        self.after(station, grace, lambda: self._kill(station))
        self._dealer.feed_all()

    def after(self, about: Task | Station, seconds: float, call: Callable[[], None]) -> None:
        """Call later, unless the task or the worker has ended before."""
        self.forget(about)
        self.timers[about] = self._loop.later(seconds, call)

    def forget(self, about: Task | Station) -> None:
        """It has ended: call no more."""
        if stop := self.timers.pop(about, None):
            stop()

    def _kill_if_only(self, task: Task, station: Station) -> None:
        """Kill a worker that did not let go of a stopped task, as soon as no others would be lost."""
        if station.sent.get(task.number) is task:
            station.holds_on = True
            self._let_go(station)
            self.kill_if_done(station)
            self._dealer.feed_all()

    def _let_go(self, station: Station) -> None:
        """A worker gets no more tasks, and what it has not taken is for others."""
        self._dealer.give_back(station.take_back())
        self._dealer.leave_out(station)
        if not station.retired:
            station.retire()

    def kill_if_done(self, station: Station) -> None:
        """Kill a worker that holds on to stopped tasks, and now has no others."""
        if station.holds_on and all(task.result.ready() for task in station.sent.values()):
            self._kill(station)
