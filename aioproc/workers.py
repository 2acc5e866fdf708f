"""Our own workers: the engine of a pool that has no executor.

Everything here runs in the loop's thread as callbacks: a worker's message, a worker's end, a call. Who starts
and replaces workers is in ``staff.py``, who gets what in ``dealing.py``, how one task is stopped in
``stopping.py``. See ``docs/design/pool.md`` for the rules and what shows them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import CancelledError
from functools import partial
from typing import Any, Final

from aioproc._kernel.background import Audience, Loop
from aioproc._kernel.channel import Channel
from aioproc._kernel.outcome import ending
from aioproc._kernel.station import Station
from aioproc._kernel.waiting import running_backend
from aioproc._kernel.wire import Call, Kind, Letter, Message
from aioproc._kernel.worker import Worker
from aioproc.copying import Copies
from aioproc.dealing import Dealer
from aioproc.errors import WorkerDied
from aioproc.orders import Item, Settings, WorkerStats
from aioproc.results import AsyncResult
from aioproc.staff import Staff, again, stats_of
from aioproc.stopping import Stopper
from aioproc.task import Task, hand_over, outcome_of

__all__ = ["Workers"]

OUTCOMES: Final = frozenset({Kind.DONE, Kind.FAILED, Kind.STOPPED})


class Workers:
    """The engine of a pool that has no executor: processes of our own.

    Args:
        processes: How many.
        initializer: Called first in each, with ``initargs``.
        tasks_per_child: After so many a worker is replaced.
        method: How they are started.
        tasks_at_once: How many coroutines one may run at a time.
    """

    def __init__(
        self,
        loop: Loop,
        processes: int,
        initializer: Callable[..., object] | None,
        initargs: tuple[Any, ...],
        tasks_per_child: int | None,
        method: str,
        tasks_at_once: int,
    ) -> None:
        backend = running_backend()

        def make(inbox: Channel) -> Worker:
            return Worker(inbox, initializer, initargs, tasks_at_once, backend)

        self._loop = loop
        self._staff = Staff(loop, self, processes, make, method)
        self._stations = self._staff.stations
        self._dealer = Dealer(self._stations, tasks_at_once, tasks_per_child)
        self._stopper = Stopper(loop, self._dealer, self._kill)
        self._copies = Copies(loop, self._packed, self.left)
        self._processes = processes
        self._shares = tasks_at_once > 1
        self._numbers = 0
        self._for_end = Audience()
        self.name = "aioproc's own workers"
        self.capacity = processes * tasks_at_once

    # What the pool asks for

    @property
    def restarts(self) -> int:
        """How many workers were replaced."""
        return self._staff.restarts

    def order(self, call: Call, settings: Settings, item: Item | None) -> Task:
        """An order for a call, whose ``item`` takes what a stream yields."""
        self._numbers += 1
        return Task(self._numbers, call, settings, item, self._shares)

    def submit(self, order: Task) -> None:
        """Take on a call that has its result; what goes wrong comes out of that."""
        broken = self._staff.broken
        failure = order.failure if broken is None else again(broken)
        if failure is not None:
            order.result._raise(failure)
            return
        if len(self._stations) < self._processes:
            self._staff.fill()
        if isinstance(order.mail, Letter) and order.mail.is_large:
            self._copies.pack(order, order.mail)
        else:
            self._dealer.enqueue(order)

    def _packed(self, task: Task) -> None:
        if self._staff.broken is not None:
            task.result._raise(again(self._staff.broken))
        else:
            self._dealer.enqueue(task)

    def stop(self, result: AsyncResult[Any], error: BaseException) -> bool:
        """Settle a result, and stop its task wherever it is."""
        task: Task | None = result._task
        result._raise(error)
        if task is None:
            return True
        if task.waits:
            self._dealer.strike_out(task)
        elif task.station is not None:
            self._stopper.stop(task, task.station)
        return True

    def grant(self, result: AsyncResult[Any], items: int) -> None:
        """Let a stream's generator send so many items more."""
        task: Task | None = result._task
        if task is not None and task.station is not None:
            task.station.tell(Kind.CREDIT, task.number, items)

    def close(self) -> None:
        """No more calls come, and all have been settled: let the workers end."""
        self._staff.close()

    def terminate(self, open_results: Iterable[AsyncResult[Any]]) -> None:
        """Cancel what is open and end the workers; plain tasks that have a grace period may use it."""
        self._staff.closed = self._dealer.ending = True
        graces = {s: max((t.settings.grace for t in s.sent.values()), default=0.0) for s in self._stations}
        for result in list(open_results):
            self.stop(result, CancelledError())
        for station, grace in graces.items():
            if grace > 0 and not station.retired:
                self._stopper.after(station, grace, partial(self._kill, station))
            else:
                self._kill(station)

    async def join(self) -> None:
        """Wait until every worker has ended."""
        while self._stations or self._copies.count:
            await self._for_end.news(self._loop)

    def queued(self) -> int:
        """How many calls no worker has in hand."""
        return self._dealer.waiting + self._dealer.ahead() + self._copies.packing

    def workers(self) -> tuple[WorkerStats, ...]:
        """What each worker does."""
        return tuple(stats_of(station) for station in self._stations)

    def _kill(self, station: Station) -> None:
        self._dealer.leave_out(station)
        self._staff.kill(station)

    # What the staff tells

    def heard(self, station: Station) -> None:
        """Take in what a worker has sent, and send it more."""
        self.hear_all(station)
        if station.holds_on:
            self._stopper.kill_if_done(station)
        if not station.ready or station not in self._stations:
            return
        if not self._staff.closed or self._dealer.waiting or station.sent or station.retired:
            self._dealer.feed((station,))
        else:
            station.retire()

    def hear_all(self, station: Station) -> bool:
        """Take in what a worker has sent; whether there may be more."""
        heard = False
        try:
            for message in station.messages():
                heard = True
                if message.kind in OUTCOMES:
                    self._take_outcome(station, message)
                else:
                    self._take_in(station, message)
        except EOFError:
            self._staff.unwatch_home(station)
            return False
        return heard

    def lost(self, station: Station, code: int) -> None:
        """Share out what a dead worker had not taken; what it had in hand fails, or is run again."""
        self._dealer.leave_out(station)
        self._dealer.give_back(station.take_back())
        self._stopper.forget(station)
        for task in list(station.sent.values()):
            self._stopper.forget(task)
            self._lose(task, station, code)
        if self._staff.broken is not None:  # what came back is for nobody
            self.broke(self._staff.broken)

    def _lose(self, task: Task, station: Station, code: int) -> None:
        task.station = None
        if task.result.ready():
            return
        if task.retries > 0:
            task.retries -= 1
            task.result.started = False
            self._dealer.give_back([task])
            return
        if self._staff.broken is not None and station.died_on_purpose:
            task.result._raise(again(self._staff.broken))
            return
        message = f"the worker (pid {station.pid}) that ran {task.result.name} died: {ending(code)}"
        task.result._raise(WorkerDied(message, station.pid, code))

    def broke(self, failure: BaseException) -> None:
        """Fail every call that waits."""
        for task in self._dealer.give_up():
            task.result._raise(again(failure))

    def left(self) -> None:
        """Wake who waits for the end, if this is it."""
        if not self._stations and not self._copies.count:
            self._for_end.tell(self._loop)

    # What workers say

    def _take_in(self, station: Station, message: Message) -> None:
        kind = message.kind
        if kind == Kind.ITEM:
            task = station.sent.get(message.task)
            if task is None or task.result.ready():
                message.drop()
            else:
                task.retries = 0  # its consumer would get these items once more
                hand_over(task.item, message)
        elif kind == Kind.READY:
            message.drop()
            self._staff.ready(station)
        elif kind == Kind.INITIALIZER_FAILED:
            self._staff.initializer_failed(station, message)
        elif kind == Kind.LEAVING:
            message.drop()
            self._stopper.leaves(station, message.task)

    def _take_outcome(self, station: Station, message: Message) -> None:
        task: Task | None = station.finished(message.task)
        if task is None:
            message.drop()
            return
        task.station = None
        if self._stopper.timers:
            self._stopper.forget(task)
        if isinstance(task.mail, Letter) and task.mail.is_large:
            self._copies.let_go(task.mail)
        self._dealer.ended(station, task, message.number)
        result = task.result
        if result._done:
            message.drop()
            return
        result.pid, result.started, result.elapsed = station.pid, True, message.number
        if message.is_heavy:
            self._copies.open(result, message)
        else:
            result._settle(*outcome_of(message))
