"""The tasks of a joinable queue: those that this process has in hand, and whether all are done, or lost."""

from __future__ import annotations

import threading
import weakref

from aioproc._kernel import channel as packets
from aioproc._kernel.channel import Arrival, Channel
from aioproc._kernel.forks import Private, no_fork
from aioproc._kernel.handle import Handle
from aioproc._kernel.ledger import Busy, Ledger, value_of
from aioproc._kernel.watch import hung_up
from aioproc.errors import TasksLost


class Hand(Private):
    """The tasks of a queue that this process has in hand, however often the queue came to it; `_hand_of`."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.count = 0
        self._open: Handle | None = None  # one end stands for all
        super().__init__()

    def take(self, task: Handle) -> None:
        """One more, with its end."""
        with self.lock:
            self.count += 1
            if self._open is None:
                self._open = task
                if _keeps:
                    _kept.add(self)
                return
        task.close()

    def let_go(self) -> None:
        """One less, with the lock; the last one closes the end."""
        self.count -= 1
        if not self.count:
            task, self._open = self._open, None
            _kept.discard(self)
            if task is not None:
                task.close()

    def drop(self) -> None:
        """In a forked child: what its parent has in hand is the parent's to finish."""
        self.lock, self.count, self._open = threading.Lock(), 0, None
        _kept.discard(self)


_here: weakref.WeakValueDictionary[tuple[int, int], Hand] = weakref.WeakValueDictionary()
_kept: set[Hand] = set()  # also while the process has no object of the queue
_keeps = False


def keep_between_calls() -> None:
    """From now on: a queue comes and goes with a call, and what it gave may be done in another one."""
    global _keeps
    _keeps = True


def _hand_of(work: Handle) -> Hand:
    queue = work.identity()
    with no_fork:
        found = _here.get(queue)
        if found is None:
            found = _here[queue] = Hand()
        return found


class Tasks:
    """What this process knows of the tasks; docs/design/lost_tasks.md says how.

    Args:
        ledger: Has the tally of them.
        reader: Where those lie that nobody has received.

    If a peer dies: The tasks that it held are lost once nobody alive holds one.
    """

    def __init__(self, ledger: Ledger, reader: Channel) -> None:
        assert ledger.tally is not None
        self._ledger = ledger
        self._tally = ledger.tally
        self._reader = reader
        self._hand = _hand_of(self.work)

    @property
    def in_hand(self) -> int:
        """How many this process has taken and not yet done."""
        return self._hand.count

    def closed(self) -> None:
        """Those in hand may still be done through this object; they are let go of with it."""
        _kept.discard(self._hand)

    def received(self, arrival: Arrival) -> None:
        """Note one that has just been received."""
        self._tally.note(self._tally.received)
        self._hand.take(packets.take_tail(arrival))

    def done(self) -> None:
        """One of those that this process has in hand is done; ValueError when it has none."""
        with self._hand.lock:
            if not self._hand.count:
                raise ValueError("task_done() called too many times")
            self._tally.note(self._tally.done)  # of all of them before the end is closed
            self._hand.let_go()

    def lost(self) -> int:
        """How many were found to be lost so far."""
        return value_of(self._tally.lost)

    @property
    def work(self) -> Handle:
        """What to wait for until all are done: it hangs up when nobody holds an open one."""
        return self._tally.work

    def joined(self, lost_before: int) -> None:
        """Whether all are done: BlockingIOError if not.

        Raises:
            Busy: It cannot be told now; wait for the end of `Ledger.entries`.
            TasksLost: Since there were so many, more were found to be lost, here or by another who waits.
        """
        if not self._all_closed():
            raise BlockingIOError
        try:
            with self._ledger.alone():
                all_closed = self._all_closed()
                if all_closed:
                    self._lose_unfinished()
        except BlockingIOError:
            raise Busy from None
        if not all_closed:
            raise BlockingIOError
        lost = value_of(self._tally.lost) - lost_before
        if lost:
            raise TasksLost(lost)

    def _all_closed(self) -> bool:
        return bool(hung_up(self.work.fileno()))

    def _lose_unfinished(self) -> None:
        self._ledger.set_right_alone(self._reader)
        unfinished = self._tally.unfinished()
        if unfinished > 0:
            self._tally.note(self._tally.lost, unfinished)
