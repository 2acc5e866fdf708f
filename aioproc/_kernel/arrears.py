"""What a process owes a queue's counts: items that it has counted and the kernel has not yet taken.

However many they are, they hold one entry of the ledger open, and one open task of a joinable queue: one for
each item would be as many descriptors. If the process dies, both end, and all are counted again.
"""

from __future__ import annotations

import threading

from aioproc._kernel.forks import Private
from aioproc._kernel.handle import Handle
from aioproc._kernel.ledger import Ledger


class Arrears(Private):
    """The entry, and the open task, that stand for all counted items in this process's backlog."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._lock = threading.Lock()
        self._count = 0
        self._entry: Handle | None = None
        self._task: Handle | None = None
        super().__init__()

    def add(self, entry: int, task: Handle | None) -> tuple[int, Handle | None]:
        """One item more is kept.

        Args:
            entry: In which it was counted; taken over from the first, to be left by the caller else.
            task: An open one, likewise.

        Returns:
            What is left of the entry (negative for nothing), and the task that goes along with the item.
        """
        with self._lock:
            self._count += 1
            if self._entry is None:
                self._entry, self._task, entry = Handle(entry, forks=False), task, -1
            return entry, self._task

    def settle(self, sent: bool) -> None:
        """One of them was written, or cannot be."""
        if not sent:
            self._ledger.give_place()
        elif self._ledger.tally is not None:
            self._ledger.tally.note(self._ledger.tally.sent)
        with self._lock:
            self._count -= 1
            if self._count:
                return
            entry, self._entry, task, self._task = self._entry, None, self._task, None
        assert entry is not None
        if task is not None:
            task.close()
        self._ledger.ended(entry)

    def drop(self) -> None:
        """In a forked child: they are the parent's."""
        self._lock, self._count = threading.Lock(), 0
        self._entry = self._task = None
