"""Who gets what: sending ahead, taking back, stealing.

See ``docs/design/pool.md`` for the rules and what shows them.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Collection, Iterable
from typing import Final

from aioproc._kernel.station import Station
from aioproc.task import Task

__all__ = ["Dealer"]

AHEAD_SECONDS: Final = 0.01  # about so much work is sent ahead to a worker
AHEAD_MOST: Final = 15  # tasks
LONG_SECONDS: Final = 0.005  # what was sent ahead waits no longer behind a task than this


class Dealer:
    """Hands tasks to workers.

    Args:
        stations: The workers there are; somebody else adds and removes.
        tasks_at_once: How many coroutines one may run at a time.
        tasks_per_child: How many tasks one may get in all.

    Attributes:
        waiting: How many tasks are in the backlogs, without those that were cancelled there.
        ending: Nothing is handed out any more.
    """

    def __init__(
        self, stations: Collection[Station], tasks_at_once: int, tasks_per_child: int | None
    ) -> None:
        self._stations = stations
        self._tasks_at_once = tasks_at_once
        self._tasks_per_child = tasks_per_child
        self._idle: dict[Station, None] = {}
        self._backlog: deque[Task] = deque()
        self._shared_backlog: deque[Task] = deque()
        self._mean_seconds = 1.0
        self._looked = 0.0
        self.waiting = 0
        self.ending = False

    def enqueue(self, task: Task) -> None:
        """Take a task, and hand it out if a worker is idle."""
        task.waits = True
        self.waiting += 1
        if task.shared:
            self._shared_backlog.append(task)
            self.feed(self._stations)
            return
        self._backlog.append(task)
        if self._idle:
            self._feed_one(next(reversed(self._idle)))  # the one whose memory is warm

    def strike_out(self, task: Task) -> None:
        """A task that waits has been cancelled."""
        task.waits = False
        self.waiting -= 1
        if self.waiting == 0:
            self._clear()

    def give_up(self) -> list[Task]:
        """All that waits; it is no longer here."""
        tasks = [*self._backlog, *self._shared_backlog]
        self._clear()
        self.waiting = 0
        return tasks

    def _clear(self) -> None:
        self._backlog.clear()
        self._shared_backlog.clear()

    def leave_out(self, station: Station) -> None:
        """A worker gets nothing more for being idle."""
        self._idle.pop(station, None)

    def ended(self, station: Station, task: Task, seconds: float) -> None:
        """A worker has done a task, which took so long."""
        if not task.shared:
            self._mean_seconds += 0.2 * (seconds - self._mean_seconds)
        self.mark_running(station)

    def ahead(self) -> int:
        """How many tasks were sent ahead and wait at a worker."""
        return sum(max(0, len(s.sent) - self.room_to_run(s)) for s in self._stations)

    def _queue_of(self, task: Task) -> deque[Task]:
        return self._shared_backlog if task.shared else self._backlog

    def give_back(self, tasks: list[Task]) -> None:
        """Put tasks, oldest first, before all others."""
        for task in reversed(tasks):
            if not task.result.ready():
                self._queue_of(task).appendleft(task)
                task.waits = True
                self.waiting += 1

    def room_to_run(self, station: Station) -> int:
        """How many tasks of the kind that it has a worker runs at once."""
        if self._tasks_at_once == 1:
            return 1
        first = next(iter(station.sent.values()), None)
        return self._tasks_at_once if first is not None and first.shared else 1

    def feed(self, stations: Iterable[Station]) -> None:
        """Send tasks to workers that have room; fewest tasks first."""
        if self.ending:
            return
        if self._take_back_behind_long_ones():
            stations = self._stations
        if not isinstance(stations, tuple):
            stations = sorted(stations, key=lambda station: len(station.sent))
        for station in stations:
            if station.ready and not station.retired:
                self._feed_one(station)
                if not station.sent:
                    self._steal_for(station)
                if not station.sent:
                    self._idle[station] = None
            if self._tasks_per_child is not None:
                self._retire_worn_out(station)

    def feed_all(self) -> None:
        """The same for all workers."""
        self.feed(list(self._stations))

    def _feed_one(self, station: Station) -> None:
        if self._tasks_at_once > 1:
            self._feed_shared(station)
            return
        backlog, sent, most = self._backlog, station.sent, self._tasks_per_child
        room = 1 if _streams(station) else self._most_ahead() + 1
        while backlog and len(sent) < room and (most is None or station.assigned < most):
            task = backlog[0]
            if task.result._done:  # cancelled while it waited
                backlog.popleft()
            elif (sent and not task.may_wait) or not self._send(station, task, backlog) or task.item:
                return

    def _feed_shared(self, station: Station) -> None:
        """The same, where a worker runs several coroutines at a time."""
        most = self._tasks_per_child
        while self.waiting and (most is None or station.assigned < most):
            queue = self._queue_for(station)
            if queue is None or not self._send(station, queue[0], queue):
                return

    def _queue_for(self, station: Station) -> deque[Task] | None:
        """Where the oldest waiting task is that this worker has room for."""
        queues = [q for q in (self._backlog, self._shared_backlog) if _drop_settled(q)]
        first = next(iter(station.sent.values()), None)
        if first is not None:
            queues = [q for q in queues if q[0].shared == first.shared]
        if not queues:
            return None
        queue = min(queues, key=lambda queue: queue[0].number)
        return queue if self._has_room(station, queue[0]) else None

    def _has_room(self, station: Station, task: Task) -> bool:
        count = len(station.sent)
        if task.shared:
            return count < self._tasks_at_once
        return count == 0 or (count <= self._most_ahead() and task.may_wait and not _streams(station))

    def _most_ahead(self) -> int:
        """How many short tasks a worker gets beside the one that it runs."""
        return min(AHEAD_MOST, int(AHEAD_SECONDS / max(self._mean_seconds, 1e-6)))

    def _send(self, station: Station, task: Task, queue: deque[Task]) -> bool:
        """Send the first of a queue; False when the worker cannot take it now."""
        try:
            if not station.send(task):
                return False
        except OSError as failure:
            task.failure = failure
        queue.popleft()
        task.waits = False
        self.waiting -= 1
        if task.failure is not None:
            task.result._raise(task.failure)
            return True
        self._idle.pop(station, None)
        if len(station.sent) <= self._tasks_at_once:
            self.mark_running(station)
        return True

    def mark_running(self, station: Station) -> None:
        """Tell the results of what a worker runs now that they have started."""
        running = self.room_to_run(station)
        for task in station.sent.values():
            result = task.result
            if not result.started:
                result.started, result.pid = True, station.pid
            running -= 1
            if running == 0:
                return

    def _steal_for(self, idle: Station) -> None:
        """Give an idle worker half of what waits in the fullest inbox."""
        fullest = max(self._stations, key=lambda s: len(s.sent), default=None)
        if fullest is None:
            return
        surplus = len(fullest.sent) - self.room_to_run(fullest)
        if surplus > 0:
            self.give_back(fullest.take_back_some((surplus + 1) // 2))
            self._feed_one(idle)

    def _take_back_behind_long_ones(self) -> bool:
        """What was sent ahead to a worker whose task turns out to be long is for all again.

        Returns:
            Whether a worker has nothing now: it had not even begun, and will have nothing to report.
        """
        now, emptied = time.monotonic(), False
        if now - self._looked < LONG_SECONDS:
            return False
        self._looked = now
        for station in self._stations:
            if len(station.sent) > self.room_to_run(station) and now - station.since > LONG_SECONDS:
                self.give_back(station.take_back())
                emptied = emptied or not station.sent
        return emptied

    def _retire_worn_out(self, station: Station) -> None:
        worn = self._tasks_per_child is not None and station.assigned >= self._tasks_per_child
        if worn and not station.sent and not station.retired:
            self._idle.pop(station, None)
            station.retire()


def _streams(station: Station) -> bool:
    """Whether a worker runs a generator, which may take as long as its consumer."""
    return next((task.item is not None for task in station.sent.values()), False)


def _drop_settled(queue: deque[Task]) -> bool:
    """Drop what was cancelled while it waited; whether anything is left."""
    while queue and queue[0].result._done:
        queue.popleft()
    return bool(queue)
