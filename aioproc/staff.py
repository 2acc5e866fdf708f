"""The workers of a pool: started together, replaced when they end, given up when they cannot start."""

from __future__ import annotations

import copy
from collections.abc import Callable
from concurrent.futures import CancelledError
from functools import partial
from typing import Final, Protocol

from aioproc._kernel.background import Loop, Stop
from aioproc._kernel.channel import Channel
from aioproc._kernel.outcome import ending, opened, summary
from aioproc._kernel.station import Station
from aioproc._kernel.waiting import running_backend
from aioproc._kernel.wire import Message
from aioproc._kernel.worker import Worker
from aioproc.errors import WorkerDied
from aioproc.orders import WorkerStats

__all__ = ["Staff", "again", "stats_of"]

CRASHES_ON_START: Final = 3  # in a row, then the pool gives up


class Owner(Protocol):
    """Who is told what happens to workers."""

    def heard(self, station: Station) -> None:
        """It has sent something."""

    def hear_all(self, station: Station) -> bool:
        """Take in what it has sent; whether there may be more."""

    def lost(self, station: Station, code: int) -> None:
        """It has ended, with this exit code, and all that it had sent was taken in."""

    def broke(self, failure: BaseException) -> None:
        """No worker can start; every call fails with this."""

    def left(self) -> None:
        """One is gone for good."""

    async def join(self) -> None:
        """Wait until all are gone."""


class Staff:
    """As many workers as there should be.

    Args:
        owner: Is told what happens.
        processes: How many.
        make: Makes what runs in each.
        method: How they are started.

    Attributes:
        stations: The workers, and how to stop watching each.
        restarts: How many were replaced.
        broken: Why none can start.
        closed: None is started any more.
    """

    def __init__(
        self, loop: Loop, owner: Owner, processes: int, make: Callable[[Channel], Worker], method: str
    ) -> None:
        self._loop = loop
        self._backend = running_backend()
        self._owner = owner
        self._processes = processes
        self._make = make
        self._method = method
        self._crashes = 0
        self._not_at_end: Stop | None = None
        self.stations: dict[Station, list[Stop]] = {}
        self.restarts = 0
        self.broken: BaseException | None = None
        self.closed = False

    def fill(self) -> None:
        """Start those that are missing."""
        while len(self.stations) < self._processes and not self.closed and self.broken is None:
            station = Station()
            self.stations[station] = []
            stop = self._loop.spawn(partial(self._started, station), "start a worker")
            self.stations[station].append(stop)
        if self._not_at_end is None and self.stations:
            self._not_at_end = self._loop.at_end(self._loop_ends)

    async def _loop_ends(self) -> None:
        self.give_up(CancelledError("the pool's event loop was shut down"))
        await self._owner.join()

    def _leaves(self, station: Station) -> list[Stop]:
        stops = self.stations.pop(station)
        is_over = self.closed or self.broken is not None  # else the loop may be ending, and has begun to tell
        if is_over and not self.stations and self._not_at_end is not None:
            self._not_at_end()
            self._not_at_end = None
        return stops

    async def _started(self, station: Station) -> None:
        try:
            await station.start(self._make, self._backend, self._method)
        except BaseException as failure:
            self._leaves(station)
            if not isinstance(failure, Exception):  # somebody cancels all tasks
                if not self.stations:
                    self._owner.broke(CancelledError("the start of the pool's workers was cancelled"))
                self._owner.left()
                raise
            self._crashes += 1
            if self._crashes < CRASHES_ON_START:
                self.fill()
            elif not self.stations:  # else the others go on, and the next call tries again
                self.give_up(failure)
            self._owner.left()
            return
        watch = self._loop.watch
        self.stations[station] = [
            watch(station.home.handle, lambda: self._owner.heard(station)),
            watch(station.ended, lambda: self._ended(station)),
        ]
        if station.died_on_purpose:
            station.kill()

    def ready(self, station: Station) -> None:
        """It can work."""
        station.ready = True
        self._crashes = 0
        if self.closed:
            station.retire()

    def close(self) -> None:
        """Let all end when they have done what they were sent."""
        self.closed = True
        for station in self.stations:
            if station.ready and not station.retired:
                station.retire()

    def kill(self, station: Station) -> None:
        """End a worker at once."""
        if station in self.stations:
            station.kill()

    def unwatch_home(self, station: Station) -> None:
        """It will send no more; its end is told by the process."""
        if stops := self.stations.get(station):
            stops[0]()

    def _ended(self, station: Station) -> None:
        code = station.reap()
        if code is None:
            return
        while self._owner.hear_all(station):
            pass
        for stop in self._leaves(station):
            stop()
        self._owner.lost(station, code)
        self._judge_start(station, code)
        station.close()
        if not self.closed and self.broken is None:
            self.restarts += 1
            self.fill()
        self._owner.left()

    def _judge_start(self, station: Station, code: int) -> None:
        if station.ready or station.died_on_purpose or self.closed or self.broken is not None:
            return
        self._crashes += 1
        if self._crashes >= CRASHES_ON_START:
            reason = _last_word(station)
            failure = WorkerDied(
                f"{self._crashes} workers in a row died before they could work, the last: {ending(code)}"
                + (f": {summary(reason)}" if reason else ""),
                station.pid,
                code,
            )
            failure.__cause__ = reason
            self.give_up(failure)

    def initializer_failed(self, station: Station, message: Message) -> None:
        """What every worker would meet: the pool's initializer has raised."""
        station.retired = True
        try:
            opened(message.open())
        except BaseException as error:
            text = f"the pool's initializer raised {summary(error)}"
            failure = WorkerDied(text, station.pid, None)
            failure.__cause__ = error
            self.give_up(failure)

    def give_up(self, failure: BaseException) -> None:
        """Start none any more, and end those there are."""
        self.broken = failure
        self._owner.broke(failure)
        for station in list(self.stations):
            self.kill(station)
        self._owner.left()


def _last_word(station: Station) -> BaseException | None:
    word, station.last_word = station.last_word, None
    if word is None:
        return None
    try:
        opened(word.open())
    except BaseException as error:
        return error
    return None


def again(failure: BaseException) -> BaseException:
    """The same failure for another call: each raises its own, which grows a traceback of its own."""
    try:
        mine = copy.copy(failure)
    except Exception:  # a class of its own kind
        return failure
    mine.__cause__ = failure.__cause__
    return mine.with_traceback(None)


def stats_of(station: Station) -> WorkerStats:
    """What a worker does."""
    first = next(iter(station.sent.values()), None)
    if not station.ready:
        state = "starting"
    elif station.retired:
        state = "ending"
    else:
        state = "idle" if first is None else "busy"
    return WorkerStats(station.pid, state, None if first is None else first.result.name, station.done)
