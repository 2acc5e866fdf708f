"""The counts of a queue, kept by the kernel and right again after any death.

To move a packet and to count it takes two system calls, and a process may die between them. So each such
change is an *entry*: while it lasts the process holds the writing end of a pipe, under a shared `flock`, and
one mark in a counter. A death closes that end, frees the lock and leaves the mark. Who then gets the lock for
itself alone knows that nobody is in the middle of anything, and sets the counts right from what the kernel
holds.

Source: eventfd(2), flock(2), fifo(7), proc(5) (/proc/self/fd, /proc/self/fdinfo).
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Final

from aioproc._kernel.bell import Bell
from aioproc._kernel.channel import Channel
from aioproc._kernel.forks import no_fork
from aioproc._kernel.handle import Handle
from aioproc._kernel.reopening import reopening_pipe
from aioproc._kernel.watch import readable

_COUNTER: Final = os.EFD_CLOEXEC | os.EFD_NONBLOCK | os.EFD_SEMAPHORE
_WRITING: Final = os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC


def counter(value: int = 0) -> Handle:
    """A count that the kernel keeps; each read takes one from it."""
    return Handle(os.eventfd(value, _COUNTER))


def value_of(count: Handle) -> int:
    """What a counter holds; nothing is taken."""
    fd = os.open(f"/proc/self/fdinfo/{count.fileno()}", os.O_RDONLY | os.O_CLOEXEC)
    try:
        _, _, rest = os.pread(fd, 4096, 0).partition(b"eventfd-count:")
    finally:
        os.close(fd)
    return int(rest.split(None, 1)[0], 16)


def reopened(pipe: Handle) -> int:
    """A new writing end of a pipe of which we hold the reading end."""
    return os.open(b"/proc/self/fd/%d" % pipe.fileno(), _WRITING)


class Busy(Exception):
    """Somebody is in the middle of an entry."""


class Tally:
    """Tasks that were sent, received, done and lost; each open one holds the writing end of ``work``."""

    __slots__ = ("done", "lost", "received", "sent", "work")

    def __init__(self, *counts: Handle) -> None:
        self.work, self.sent, self.received, self.done, self.lost = counts or _new_tally()

    def __reduce__(self) -> tuple[Any, ...]:
        return Tally, (self.work, self.sent, self.received, self.done, self.lost)

    def note(self, count: Handle, tasks: int = 1) -> None:
        """Count tasks that were sent, received, done or lost."""
        os.eventfd_write(count.fileno(), tasks)

    def set_right(self, packets: int) -> None:
        """After a death: what was sent is what was received and what still lies there."""
        behind = self.waiting() - packets
        if behind:
            os.eventfd_write((self.received if behind > 0 else self.sent).fileno(), abs(behind))

    def waiting(self) -> int:
        """How many were sent and not yet received; less than none while one is counted too late."""
        return value_of(self.sent) - value_of(self.received)

    def unfinished(self) -> int:
        """How many tasks were sent and are neither done nor known to be lost."""
        return value_of(self.sent) - value_of(self.done) - value_of(self.lost)

    def close(self) -> None:
        for handle in (self.work, self.sent, self.received, self.done, self.lost):
            handle.close()


def _new_tally() -> tuple[Handle, ...]:
    return _pipe(), counter(), counter(), counter(), counter()


def _pipe() -> Handle:
    with no_fork:  # a forked child would keep the writing end
        reader, writer = reopening_pipe()
        os.close(writer)
    return Handle(reader)


class Ledger:
    """Places of a bounded queue, and the tally of a joinable one.

    Attributes:
        size: How many places there are; 0 when they are not limited.
        places: The free places, as a counter; None when they are not limited.
        tally: None when items are no tasks.
        gate: Hangs up when the last entry ends, by itself or by a death.
    """

    __slots__ = ("gate", "marks", "places", "size", "tally")

    def __init__(
        self,
        size: int,
        tally: Tally | None,
        gate: Handle | None = None,
        marks: Handle | None = None,
        places: Handle | None = None,
    ) -> None:
        self.size = size
        self.tally = tally
        self.gate = gate or _pipe()
        self.marks = marks
        self.places = places
        if marks is None and (size or tally):
            self.marks = counter()
            self.places = counter(size) if size else None

    def __reduce__(self) -> tuple[Any, ...]:
        return Ledger, (self.size, self.tally, self.gate, self.marks, self.places)

    def take_place(self) -> None:
        """Take a free place; BlockingIOError when there is none."""
        if self.places is not None:
            os.eventfd_read(self.places.fileno())

    def give_place(self) -> None:
        """Free a place."""
        if self.places is not None:
            os.eventfd_write(self.places.fileno(), 1)

    def enter(self) -> int:
        """Begin an entry, which its caller must `leave`.

        Raises:
            BlockingIOError: Somebody sets the counts right.
        """
        assert self.marks is not None
        no_fork.acquire()  # a child forked in the middle of an entry would keep it open
        entry = -1
        try:
            entry = reopened(self.gate)
            fcntl.flock(entry, fcntl.LOCK_SH | fcntl.LOCK_NB)
            os.eventfd_write(self.marks.fileno(), 1)
        except BaseException:
            self.leave(entry, is_right=False)
            raise
        return entry

    def leave(self, entry: int, *, is_right: bool = True) -> None:
        """End an entry.

        Args:
            entry: Negative if it goes on without us.
            is_right: Whether all was done or undone; if not, its mark stays, as after a death.
        """
        assert self.marks is not None
        try:
            if entry >= 0:
                if is_right:
                    os.eventfd_read(self.marks.fileno())
                os.close(entry)
        finally:
            no_fork.release()

    def ended(self, held: Handle) -> None:
        """The end of an entry that went on."""
        assert self.marks is not None
        os.eventfd_read(self.marks.fileno())
        held.close()

    @contextmanager
    def _locked(self, how: int) -> Iterator[None]:
        with no_fork:  # a forked child would keep the lock
            lock = reopened(self.gate)  # a writing end: whoever it keeps out hears it close
            try:
                fcntl.flock(lock, how)
                yield
            finally:
                os.close(lock)

    def alone(self) -> AbstractContextManager[None]:
        """While inside, nobody else is in an entry; BlockingIOError when somebody is."""
        return self._locked(fcntl.LOCK_EX | fcntl.LOCK_NB)

    def let_others_look(self) -> None:
        """Wait, asleep in this thread, until nobody is `alone` with the counts any more, which is short."""
        with self._locked(fcntl.LOCK_SH):
            pass

    @contextmanager
    def entries(self) -> Iterator[tuple[Callable[[], None], Handle]]:
        """An attempt that succeeds when nobody is in an entry, and what to wait for in between."""
        bell = Bell(edges=[self.gate])

        def over() -> None:
            bell.quiet()  # whoever leaves from here on rings it
            with self.alone():
                pass

        try:
            yield over, bell.handle
        finally:
            bell.close()

    def set_right(self, packets: Channel) -> bool:
        """If somebody died in the middle of an entry and nobody else is in one now, set the counts right.

        If a peer dies: The marks go last, so the next caller does again what this one did not finish.
        """
        if self.marks is None or len(readable(self.gate, self.marks)) < 2:  # somebody is, or nobody died
            return False
        try:
            with self.alone():
                return self.set_right_alone(packets)
        except BlockingIOError:  # somebody is in an entry: its end rings the gate
            return False

    def set_right_alone(self, packets: Channel) -> bool:
        """The same for a caller that is `alone`."""
        assert self.marks is not None
        left = value_of(self.marks)
        if left:
            self._count_again(packets.count())
        for _ in range(left):
            os.eventfd_read(self.marks.fileno())
        return left > 0

    def _count_again(self, packets: int) -> None:
        if self.places is not None:
            missing = self.size - packets - value_of(self.places)
            if missing > 0:
                os.eventfd_write(self.places.fileno(), missing)
        if self.tally is not None:
            self.tally.set_right(packets)

    def count(self, packets: Channel, unmoved: Callable[[], AbstractContextManager[int]]) -> int:
        """How many packets there are, those included that this process has yet to write.

        Args:
            packets: The channel's reading end.
            unmoved: Says how many those are, and keeps them as they are while inside.
        """
        self.set_right(packets)
        if self.places is not None:  # of which each has one already
            return self.size - value_of(self.places)
        if self.tally is not None:  # to look through them would keep others out of their entries
            with unmoved() as unwritten:
                return max(self.tally.waiting(), 0) + unwritten
        with self._locked(fcntl.LOCK_EX), unmoved() as unwritten:  # for counts only, and those are short
            return packets.count() + unwritten

    def close(self) -> None:
        for handle in (self.gate, self.marks, self.places, self.tally):
            if handle is not None:
                handle.close()
