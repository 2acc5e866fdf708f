"""The tasks of a joinable queue: those that this process has in hand, and whether all are done, or lost."""

from __future__ import annotations

import threading

from aioproc._kernel import channel as packets
from aioproc._kernel.channel import Arrival, Channel
from aioproc._kernel.forks import Private
from aioproc._kernel.handle import Handle
from aioproc._kernel.ledger import Busy, Ledger, value_of
from aioproc._kernel.watch import hung_up
from aioproc.errors import TasksLost


class Tasks(Private):
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
        self._lock = threading.Lock()
        self._in_hand = 0
        self._open: Handle | None = None  # one end stands for all that are in hand
        super().__init__()

    def received(self, arrival: Arrival) -> None:
        """Note one that has just been received."""
        self._tally.note(self._tally.received)
        task = packets.take_tail(arrival)
        with self._lock:
            self._in_hand += 1
            if self._open is None:
                self._open = task
                return
        task.close()

    def done(self) -> None:
        """One of those that this process has in hand is done; ValueError when it has none."""
        with self._lock:
            if not self._in_hand:
                raise ValueError("task_done() called too many times")
            self._tally.note(self._tally.done)  # of all of them before the end is closed
            self._in_hand -= 1
            if not self._in_hand:
                self._let_go()

    def _let_go(self) -> None:
        task, self._open = self._open, None
        if task is not None:
            task.close()

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

    def close(self) -> None:
        """Let go of those in hand: they are lost."""
        with self._lock:
            self._in_hand = 0
            self._let_go()

    def drop(self) -> None:
        """In a forked child: what its parent has in hand is the parent's to finish."""
        self._lock, self._in_hand, self._open = threading.Lock(), 0, None
