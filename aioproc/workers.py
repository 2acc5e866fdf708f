"""Our own workers: inboxes, sending ahead, stealing, recovery.

Everything here runs in the loop's thread as callbacks: a worker's message, a worker's end, a call. See
``docs/design/pool.md`` for the rules and what shows them.
"""

from __future__ import annotations

import copy
import signal
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from concurrent.futures import CancelledError
from functools import partial
from typing import Any, Final

from aioproc._kernel.background import Loop, Stop, Ticket
from aioproc._kernel.channel import Channel
from aioproc._kernel.outcome import opened
from aioproc._kernel.station import Station
from aioproc._kernel.waiting import in_thread, running_backend
from aioproc._kernel.wire import Kind, Letter, Message, called, is_asynchronous
from aioproc._kernel.worker import Worker
from aioproc.errors import WorkerDied
from aioproc.orders import Item, Order, WorkerStats
from aioproc.results import AsyncResult

__all__ = ["Workers"]

AHEAD_SECONDS: Final = 0.01  # about so much work is sent ahead to a worker
AHEAD_MOST: Final = 15  # tasks
LONG_SECONDS: Final = 0.005  # what was sent ahead waits no longer behind a task than this
CRASHES_ON_START: Final = 3  # in a row, then the pool gives up
STREAM_STOP_SECONDS: Final = 1.0  # for a generator's `finally`, before its worker is killed


class Task:
    """A call on its way through the pool."""

    __slots__ = (
        "grace",
        "in_loop",
        "is_small",
        "item",
        "mail",
        "number",
        "result",
        "retries",
        "shared",
        "station",
        "waits",
    )

    def __init__(self, number: int, order: Order, result: AsyncResult[Any], shares: bool) -> None:
        self.number = number
        self.result = result
        self.retries = order.retries
        self.grace = order.grace
        self.item = order.item
        self.station: Station | None = None
        self.in_loop = is_asynchronous(order.func)
        self.shared = shares and self.in_loop  # it may run beside others in one worker
        kind = Kind.CALL if order.item is None else Kind.STREAM
        self.mail = called(kind + self.in_loop, number, order.func, order.args, order.kwargs)
        self.is_small = type(self.mail) is bytes  # a small one may be sent ahead
        self.waits = False  # in a backlog


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
        self._loop = loop
        self._backend = running_backend()
        self._processes = processes
        self._initializer = initializer
        self._initargs = initargs
        self._tasks_per_child = tasks_per_child
        self._method = method
        self._tasks_at_once = tasks_at_once
        self._stations: dict[Station, list[Stop]] = {}
        self._idle: dict[Station, None] = {}
        self._backlog: deque[Task] = deque()
        self._shared_backlog: deque[Task] = deque()
        self._copying = 0  # large messages, in threads
        self._waiting = 0  # in the backlogs, without those that were cancelled there
        self._numbers = 0
        self._mean_seconds = 1.0
        self._looked = 0.0
        self._crashes = 0
        self._broken: BaseException | None = None
        self._closed = False
        self._ending = False
        self._emptied: list[Ticket] = []
        self._timers: dict[Task | Station, Stop] = {}
        self.name = "aioproc's own workers"
        self.restarts = 0
        self.capacity = processes * tasks_at_once

    # What the pool asks for

    def check(self, order: Order) -> None:
        """Every order can be met."""

    def submit(self, order: Order, result: AsyncResult[Any]) -> None:
        """Take on a call; what goes wrong comes out of its result."""
        if self._broken is not None:
            result._raise(_again(self._broken))
            return
        self._numbers += 1
        try:
            task = result._task = Task(self._numbers, order, result, self._tasks_at_once > 1)
        except Exception as failure:
            result._raise(failure)
            return
        if len(self._stations) < self._processes:
            self._start_missing()
        if isinstance(task.mail, Letter) and task.mail.is_heavy:
            self._beside(partial(self._seal, task, task.mail), f"pack {result.name}")
        else:
            self._enqueue(task)

    def _enqueue(self, task: Task) -> None:
        self._queue_of(task).append(task)
        task.waits = True
        self._waiting += 1
        if task.shared:
            self._feed(self._stations)
        elif self._idle:
            self._feed_one(next(reversed(self._idle)))  # the one whose memory is warm

    def stop(self, result: AsyncResult[Any], error: BaseException) -> bool:
        """Settle a result, and stop its task wherever it is."""
        task: Task | None = result._task
        result._raise(error)
        if task is None:
            return True
        if task.waits:
            task.waits = False
            self._waiting -= 1
            if self._waiting == 0:
                self._backlog.clear()
                self._shared_backlog.clear()
        elif task.station is not None:
            self._stop_sent(task, task.station)
        return True

    def grant(self, result: AsyncResult[Any], items: int) -> None:
        """Let a stream's generator send so many items more."""
        task: Task | None = result._task
        if task is not None and task.station is not None:
            task.station.tell(Kind.CREDIT, task.number, items)

    def close(self) -> None:
        """No more calls come, and all have been settled: let the workers end."""
        self._closed = True
        for station in self._stations:
            if station.ready and not station.retired:
                station.retire()

    def terminate(self, open_results: Iterable[AsyncResult[Any]]) -> None:
        """Cancel what is open and end the workers; plain tasks that have a grace period may use it."""
        self._closed = self._ending = True
        graces = {s: max((t.grace for t in s.sent.values()), default=0.0) for s in self._stations}
        for result in list(open_results):
            self.stop(result, CancelledError())
        for station, grace in graces.items():
            if grace > 0 and not station.retired:
                self._after(station, grace, partial(self._kill, station))
            else:
                self._kill(station)

    async def join(self) -> None:
        """Wait until every worker has ended."""
        while self._stations or self._copying:
            ticket = self._loop.ticket()
            self._emptied.append(ticket)
            await ticket

    def queued(self) -> int:
        """How many calls no worker has in hand."""
        ahead = sum(max(0, len(s.sent) - self._room_to_run(s)) for s in self._stations)
        return self._waiting + self._copying + ahead

    def workers(self) -> tuple[WorkerStats, ...]:
        """What each worker does."""
        return tuple(_stats(station) for station in self._stations)

    # Starting and ending workers

    def _start_missing(self) -> None:
        while len(self._stations) < self._processes and not self._closed and self._broken is None:
            station = Station()
            self._stations[station] = []
            stop = self._loop.spawn(partial(self._started, station), "start a worker")
            self._stations[station].append(stop)

    async def _started(self, station: Station) -> None:
        try:
            await station.start(self._make, self._backend, self._method)
        except BaseException as failure:
            del self._stations[station]
            if not isinstance(failure, Exception):
                self._left()
                raise
            self._crashes += 1
            if self._crashes >= CRASHES_ON_START:
                self._break(failure)
            self._start_missing()
            self._left()
            return
        watch = self._loop.watch
        self._stations[station] = [
            watch(station.home.handle, lambda: self._heard(station)),
            watch(station.ended, lambda: self._ended(station)),
        ]
        if station.died_on_purpose:
            station.kill()

    def _make(self, inbox: Channel) -> Worker:
        return Worker(inbox, self._initializer, self._initargs, self._tasks_at_once, self._backend)

    def _kill(self, station: Station) -> None:
        if station in self._stations:
            self._idle.pop(station, None)
            station.kill()

    def _ended(self, station: Station) -> None:
        code = station.reap()
        if code is None:
            return
        while self._hear_all(station):
            pass
        for stop in self._stations.pop(station):
            stop()
        self._idle.pop(station, None)
        self._give_back(station.take_back())
        self._forget(station)
        for task in list(station.sent.values()):
            self._forget(task)
            self._lost(task, station, code)
        self._judge_start(station, code)
        station.close()
        if not self._closed and self._broken is None:
            self.restarts += 1
            self._start_missing()
        self._left()

    def _left(self) -> None:
        if not self._stations and not self._copying:
            tickets, self._emptied = self._emptied, []
            for ticket in tickets:
                self._loop.wake(ticket)

    def _lost(self, task: Task, station: Station, code: int) -> None:
        task.station = None
        if task.result.ready():
            return
        if task.retries > 0:
            task.retries -= 1
            task.result.started = False
            self._give_back([task])
            return
        message = f"the worker (pid {station.pid}) that ran {task.result.name} died: {_how(code)}"
        task.result._raise(WorkerDied(message, station.pid, code))

    def _judge_start(self, station: Station, code: int) -> None:
        if station.ready or station.died_on_purpose or self._closed or self._broken is not None:
            return
        self._crashes += 1
        if self._crashes >= CRASHES_ON_START:
            reason = _last_word(station)
            failure = WorkerDied(
                f"{self._crashes} workers in a row died before they could work, the last: {_how(code)}"
                + (f": {type(reason).__name__}: {reason}" if reason else ""),
                station.pid,
                code,
            )
            failure.__cause__ = reason
            self._break(failure)

    def _break(self, failure: BaseException) -> None:
        """Fail every call, now and from now on."""
        self._broken = failure
        for task in [*self._backlog, *self._shared_backlog]:
            task.result._raise(_again(failure))
        self._backlog.clear()
        self._shared_backlog.clear()
        self._waiting = 0
        for station in list(self._stations):
            self._kill(station)
        self._left()

    # Hearing from workers

    def _heard(self, station: Station) -> None:
        self._hear_all(station)
        if self._closed and station.ready and not station.sent and not station.retired and not self._waiting:
            station.retire()
        elif station in self._stations and station.ready:
            self._feed((station,))

    def _hear_all(self, station: Station) -> bool:
        """Take in what a worker has sent; whether there may be more."""
        heard = False
        try:
            for message in station.messages():
                heard = True
                self._take_in(station, message)
        except EOFError:
            if stops := self._stations.get(station):
                stops[0]()  # its end is told by the process
            return False
        return heard

    def _take_in(self, station: Station, message: Message) -> None:
        kind = message.kind
        if kind == Kind.DONE or kind == Kind.FAILED or kind == Kind.STOPPED:
            self._take_outcome(station, message)
        elif kind == Kind.ITEM:
            task = station.sent.get(message.task)
            if task is None or task.result.ready():
                message.drop()
            else:
                _hand_over(task.item, message)
        elif kind == Kind.READY:
            message.drop()
            station.ready = True
            self._crashes = 0
            if self._closed:
                station.retire()
        elif kind == Kind.INITIALIZER_FAILED:
            station.retired = True
            self._break(_initializer_failed(message, station))

    def _take_outcome(self, station: Station, message: Message) -> None:
        task: Task | None = station.finished(message.task)
        if task is None:
            message.drop()
            return
        task.station = None
        if self._timers:
            self._forget(task)
        if not task.shared:
            self._mean_seconds += 0.2 * (message.number - self._mean_seconds)
        if station.sent:
            self._mark_running(station)
        result = task.result
        if result._done:
            message.drop()
        else:
            result.pid, result.started, result.elapsed = station.pid, True, message.number
            if message.is_heavy:
                self._beside(partial(self._open, result, message), f"open the result of {result.name}")
            else:
                _settle(result, *_outcome(message))

    # Large messages: copied in a thread, so that the loop is not held up

    def _beside(self, work: Callable[[], Awaitable[None]], name: str) -> None:
        async def run() -> None:
            try:
                await work()
            finally:
                self._copying -= 1
                self._left()

        self._copying += 1
        self._loop.spawn(run, name)

    async def _seal(self, task: Task, letter: Letter) -> None:
        try:
            await in_thread(letter.seal)
        except Exception as failure:
            task.result._raise(failure)
        if task.result._done:  # it was cancelled meanwhile, or the pool broke
            return
        if self._broken is not None:
            task.result._raise(_again(self._broken))
        else:
            self._enqueue(task)

    async def _open(self, result: AsyncResult[Any], message: Message) -> None:
        found: list[Outcome] = []
        await in_thread(lambda: found.append(_outcome(message)))
        _settle(result, *found[0])

    # Who gets what

    def _queue_of(self, task: Task) -> deque[Task]:
        return self._shared_backlog if task.shared else self._backlog

    def _give_back(self, tasks: list[Task]) -> None:
        """Put tasks, oldest first, before all others."""
        for task in reversed(tasks):
            if not task.result.ready():
                self._queue_of(task).appendleft(task)
                task.waits = True
                self._waiting += 1

    def _room_to_run(self, station: Station) -> int:
        """How many tasks of the kind that it has a worker runs at once."""
        if self._tasks_at_once == 1:
            return 1
        first = next(iter(station.sent.values()), None)
        return self._tasks_at_once if first is not None and first.shared else 1

    def _feed(self, stations: Iterable[Station]) -> None:
        """Send tasks to workers that have room; fewest tasks first."""
        if self._ending:
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

    def _feed_one(self, station: Station) -> None:
        if self._tasks_at_once > 1:
            self._feed_shared(station)
            return
        backlog, sent, most = self._backlog, station.sent, self._tasks_per_child
        room = self._ahead() + 1
        while backlog and len(sent) < room and (most is None or station.assigned < most):
            task = backlog[0]
            if task.result._done:  # cancelled while it waited
                backlog.popleft()
            elif (sent and not _may_wait_in(station, task)) or not self._send(station, task, backlog):
                return

    def _feed_shared(self, station: Station) -> None:
        """The same, where a worker runs several coroutines at a time."""
        most = self._tasks_per_child
        while self._waiting and (most is None or station.assigned < most):
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
        return count == 0 or (count <= self._ahead() and _may_wait_in(station, task))

    def _ahead(self) -> int:
        """How many short tasks a worker gets beside the one that it runs."""
        return min(AHEAD_MOST, int(AHEAD_SECONDS / max(self._mean_seconds, 1e-6)))

    def _send(self, station: Station, task: Task, queue: deque[Task]) -> bool:
        """Send the first of a queue; False when the worker cannot take it now."""
        try:
            if not station.send(task):
                return False
        except OSError as failure:
            self._leave_queue(task, queue)
            task.result._raise(failure)
            return True
        self._leave_queue(task, queue)
        self._idle.pop(station, None)
        if len(station.sent) <= self._tasks_at_once:
            self._mark_running(station)
        return True

    def _leave_queue(self, task: Task, queue: deque[Task]) -> None:
        queue.popleft()
        task.waits = False
        self._waiting -= 1

    def _mark_running(self, station: Station) -> None:
        running = self._room_to_run(station)
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
        surplus = len(fullest.sent) - self._room_to_run(fullest)
        if surplus > 0:
            self._give_back(fullest.take_back_some((surplus + 1) // 2))
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
            if len(station.sent) > self._room_to_run(station) and now - station.since > LONG_SECONDS:
                self._give_back(station.take_back())
                emptied = emptied or not station.sent
        return emptied

    def _retire_worn_out(self, station: Station) -> None:
        worn = self._tasks_per_child is not None and station.assigned >= self._tasks_per_child
        if worn and not station.sent and not station.retired:
            self._idle.pop(station, None)
            station.retire()

    # Stopping

    def _stop_sent(self, task: Task, station: Station) -> None:
        """Stop a task that was sent to a worker.

        First its inbox is emptied: from then on it is settled which tasks the worker has taken, and none but
        those can be hit by what follows.
        """
        self._give_back(station.take_back())
        if task.station is station:
            if task.in_loop or task.item is not None:
                self._cancel_there(task, station)
            elif next(reversed(station.sent)) == task.number:  # else it has ended: a later one was taken
                self._interrupt_or_kill(task, station)
        self._feed(list(self._stations))

    def _cancel_there(self, task: Task, station: Station) -> None:
        station.tell(Kind.CANCEL, task.number)
        grace = max(task.grace, STREAM_STOP_SECONDS)
        self._after(task, grace, lambda: self._kill_if_only(task, station))

    def _interrupt_or_kill(self, task: Task, station: Station) -> None:
        if task.grace > 0:
            station.interrupt(task.number)
            self._after(task, task.grace, lambda: self._kill_if_only(task, station))
        else:
            self._kill(station)

    def _after(self, about: Task | Station, seconds: float, call: Callable[[], None]) -> None:
        """Call later, unless the task or the worker has ended before."""
        self._forget(about)
        self._timers[about] = self._loop.later(seconds, call)

    def _forget(self, about: Task | Station) -> None:
        if stop := self._timers.pop(about, None):
            stop()

    def _kill_if_only(self, task: Task, station: Station) -> None:
        """Kill a worker that did not let go of a stopped task, unless others would be lost with it."""
        if station.sent.get(task.number) is task:
            self._give_back(station.take_back())
            if len(station.sent) == 1:
                self._kill(station)
            self._feed(list(self._stations))


def _may_wait_in(station: Station, task: Task) -> bool:
    """Whether a task may be sent ahead to a worker that has something else in hand."""
    return task.is_small and task.item is None and next(iter(station.sent.values())).item is None


def _drop_settled(queue: deque[Task]) -> bool:
    """Drop what was cancelled while it waited; whether anything is left."""
    while queue and queue[0].result._done:
        queue.popleft()
    return bool(queue)


Outcome = tuple[Any, BaseException | None]


def _outcome(message: Message) -> Outcome:
    """The value that a task returned, or why there is none."""
    kind = message.kind
    try:
        if kind == Kind.DONE:
            return message.open(), None
        if kind == Kind.FAILED:
            return opened(message.open()), None
    except BaseException as error:
        return None, error
    message.drop()
    return None, CancelledError()


def _settle(result: AsyncResult[Any], value: Any, error: BaseException | None) -> None:
    if error is None:
        result._return(value)
    else:
        result._raise(error)


def _hand_over(item: Item | None, message: Message) -> None:
    assert item is not None
    try:
        value = message.open()
    except BaseException as failure:
        item(None, failure)
    else:
        item(value, None)


def _initializer_failed(message: Message, station: Station) -> WorkerDied:
    try:
        opened(message.open())
    except BaseException as error:
        text = f"the pool's initializer raised {type(error).__name__}: {error}"
        failure = WorkerDied(text, station.pid, None)
        failure.__cause__ = error
        return failure
    raise AssertionError("an initializer that failed without an exception")


def _last_word(station: Station) -> BaseException | None:
    word, station.last_word = station.last_word, None
    if word is None:
        return None
    try:
        opened(word.open())
    except BaseException as error:
        return error
    return None


def _again(failure: BaseException) -> BaseException:
    """The same failure for another call: each raises its own, which grows a traceback of its own."""
    try:
        mine = copy.copy(failure)
    except Exception:  # a class of its own kind
        return failure
    mine.__cause__ = failure.__cause__
    return mine.with_traceback(None)


def _how(code: int) -> str:
    return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


def _stats(station: Station) -> WorkerStats:
    first = next(iter(station.sent.values()), None)
    if not station.ready:
        state = "starting"
    elif station.retired:
        state = "ending"
    else:
        state = "idle" if first is None else "busy"
    return WorkerStats(station.pid, state, None if first is None else first.result.name, station.done)
