"""A queue without a face: packets, counts, and what this process holds of them. Its methods are attempts."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

from aioproc._kernel import channel as packets
from aioproc._kernel.arguments import integer
from aioproc._kernel.arrears import Arrears
from aioproc._kernel.backlog import backlog_of
from aioproc._kernel.bell import Bell
from aioproc._kernel.channel import Arrival, Channel, Crowded
from aioproc._kernel.handle import Handle
from aioproc._kernel.intake import Intake, Returned, T
from aioproc._kernel.ledger import Ledger, Tally, reopened
from aioproc._kernel.listening import Listening
from aioproc._kernel.parcel import Packed, pack
from aioproc._kernel.tasks import Tasks
from aioproc._kernel.waiting import Right
from aioproc._kernel.watch import hung_up, readable
from aioproc._kernel.weakly import weakly

RIGHTS_TO_PUT: Final = 2  # each put rings those who listen for places once more
IN_A_ROW: Final = 3  # after so many that went well, the next is tried without a look first

_UNDONE: Final = (BlockingIOError, BrokenPipeError, EOFError)  # what leaves the counts as they were


class Store(Intake):
    """What the faces of a queue share.

    Args:
        maxsize: Most items there may be; 0 or less for no limit.
        tasks: Whether items are tasks, open until they are done.
    """

    def __init__(self, maxsize: int = 0, tasks: bool = False) -> None:
        writer, reader = packets.channel()
        size = max(integer("maxsize", maxsize), 0)
        ledger = Ledger(size, Tally() if tasks else None)
        putters = Listening(most=RIGHTS_TO_PUT) if size else None
        self._set_up(writer, reader, ledger, Listening(), putters)

    closed = True  # until it is set up
    _at_end: Any = None  # what is done then

    def _set_up(
        self, writer: Channel, reader: Channel, ledger: Ledger, getters: Listening, putters: Listening | None
    ) -> None:
        super().__init__(reader)
        self.backlog = backlog_of(self, writer, reader)
        self.writer = self.backlog.writer
        self.ledger = ledger
        self._getters = getters
        self._putters = putters
        self.right_to_get: Callable[[], Right | None] = getters.right  # what to hold while asleep in a get
        self._arrears = Arrears(ledger)
        # a put may wait: for a place, or a moment, until somebody has looked through the counts
        self.may_wait = ledger.marks is not None
        self.tasks = None if ledger.tally is None else Tasks(ledger, reader)
        self._bell: Bell | None = None
        self._ending = False
        self._puts_in_a_row = self._takes_in_a_row = 0
        self.is_plain = not self.may_wait  # a put: nothing to count, neither closed nor ending
        self.is_odd = self.may_wait
        self.closed = False

    def __reduce__(self) -> tuple[Any, ...]:
        self.check()
        return _arrived, (self.writer, self.reader, self.ledger, self._getters, self._putters)

    def check(self) -> None:
        """ValueError once it is closed in this process."""
        if self.closed:
            raise ValueError("the queue is closed in this process")

    def right_to_put(self) -> Right | None:
        """What to hold while asleep in a put."""
        return None if self._putters is None else self._putters.right()

    # -- putting

    def patience(self, timeout: float | None) -> float | None:
        """How long a put waits: without a limit to the items it is never full, and that moment is short."""
        return timeout if self.ledger.size else None

    def put(self, packed: Packed, in_loop: bool) -> None:
        """Put an item.

        Raises:
            BlockingIOError: There is no free place.
            BrokenPipeError: The queue was shut down.
            OSError: Too many descriptors are on their way, and none in this queue.
        """
        if self.is_plain and not self.backlog.kept:
            try:
                self.writer.send(packed)
                return
            except BlockingIOError:
                pass
            except Crowded:
                if not self.writer.unread:
                    raise
            self.backlog.keep(packed, None, None, in_loop)
            return
        if self.may_wait:
            self._put_entered(packed, in_loop)
        elif self._has_place():
            self.backlog.keep(packed, None, None, in_loop)

    def _put_entered(self, packed: Packed, in_loop: bool) -> None:
        """To enter in vain rings everybody who waits, so look first, unless it has gone well for a while."""
        if (self._puts_in_a_row >= IN_A_ROW and not self.backlog.kept) or self._has_place():
            try:
                self._put_counted(packed, in_loop)
                self._puts_in_a_row += 1
                return
            except BlockingIOError:
                pass
        self._puts_in_a_row = 0
        if self._bell is not None:
            self._bell.quiet()  # what ends or dies from here on rings it
        self.ledger.set_right(self.reader)
        if not self._has_place():
            raise BlockingIOError
        self._put_counted(packed, in_loop)

    def _has_place(self) -> bool:
        """Whether there is a place; BrokenPipeError when the queue was shut down."""
        if self._ending:
            self.check()
            raise BrokenPipeError("shut down")
        end, places = self.writer.handle, self.ledger.places
        found = readable(end) if places is None else readable(end, places)
        if end.fileno() in found:
            raise BrokenPipeError("shut down")
        return places is None or bool(found)

    def _sent(self, packed: Packed, tail: Handle | None) -> bool:
        try:
            self.writer.send(packed, tail)
        except BlockingIOError:
            return False
        except Crowded:  # a receipt makes room, if it can be one from here
            if not self.writer.unread:
                raise
            return False
        return True

    def _put_counted(self, packed: Packed, in_loop: bool) -> None:
        if not isinstance(packed, bytes):
            packets.seal(packed)  # which may take long
        ledger, tally = self.ledger, self.ledger.tally
        entry = ledger.enter()
        try:
            ledger.take_place()
            try:
                task = None if tally is None else Handle(reopened(tally.work), forks=False)
                if self.backlog.kept or not self._sent(packed, task):
                    packets.hold(packed)  # or it fails, while the entry is still ours
                    entry, task = self._arrears.add(entry, task)
                    self._keep_counted(packed, task, in_loop)
                elif tally is not None:
                    tally.note(tally.sent)
            except OSError:
                ledger.give_place()
                raise
        except BaseException as failure:
            ledger.leave(entry, is_right=isinstance(failure, _UNDONE))
            raise
        ledger.leave(entry)

    def _keep_counted(self, packed: Packed, task: Handle | None, in_loop: bool) -> None:
        try:
            self.backlog.keep(packed, task, self._arrears.settle, in_loop)
        except RuntimeError:
            self._arrears.settle(sent=False)
            raise

    @property
    def putters(self) -> bool:
        """Whether tasks of this process wait for a place."""
        return self._bell is not None and bool(self._bell.handle.lines)

    @property
    def room(self) -> Handle:
        """What to wait for when there is no place: a free one, a death, the end."""
        assert self.ledger.places is not None or self.ledger.tally is not None
        if self._bell is None or self._bell.handle.closed:
            places = [] if self.ledger.places is None else [self.ledger.places]
            self._bell = Bell([*places, self.writer.handle], [self.ledger.gate])
        return self._bell.handle

    # -- getting

    def take(self) -> Arrival | None:
        """Take an item, to be opened; None stands for one that was opened and came back.

        Raises:
            BlockingIOError: There is none.
            EOFError: There is none, and the queue was shut down.
        """
        if self._returned:
            return None
        if self.may_wait:
            self.check()
            return self._take_entered()
        try:
            return self._received(self.reader.pull)
        except ValueError:
            self.check()
            raise

    def _received(self, receive: Callable[[], T]) -> T:
        """Where there is nothing, what this process keeps is written first."""
        try:
            return receive()
        except BlockingIOError:
            if not self.backlog.kept:
                raise
        self.pump()
        return receive()

    def _take_entered(self) -> Arrival:
        """See `_put_entered`."""
        reader = self.reader
        if reader.kept:
            return reader.pull()
        if self._takes_in_a_row >= IN_A_ROW:
            try:
                return self._take_counted()
            except (BlockingIOError, EOFError):
                self._takes_in_a_row = 0
        if self._something_came():
            self._takes_in_a_row += 1
            return self._take_counted()
        self._takes_in_a_row = 0
        self.ledger.set_right(reader)
        if not hung_up(reader.handle.fileno()):
            raise BlockingIOError
        if not reader.waiting_bytes:  # else it was put since that look, just before the end
            raise EOFError("shut down")
        return self._take_counted()

    def _something_came(self) -> bool:
        if self.reader.waiting_bytes:
            return True
        if not self.backlog.kept:
            return False
        self.pump()
        return self.reader.waiting_bytes > 0

    def _take_counted(self) -> Arrival:
        ledger = self.ledger
        entry = ledger.enter()
        try:
            arrival = self.reader.pull()
            ledger.give_place()
            if self.tasks is not None:
                self.tasks.received(arrival)
        except BaseException as failure:
            ledger.leave(entry, is_right=isinstance(failure, _UNDONE))
            raise
        ledger.leave(entry)
        return arrival

    def pump(self) -> None:
        """Write what goes of what this process has put and still keeps."""
        if self.backlog.kept:
            try:
                self.backlog.pump()
            except (BlockingIOError, Crowded):
                pass

    def take_more(self, found: list[Any], most: int, in_loop: bool) -> Arrival | None:
        """Take what is there now, until there are ``most``; what fails raises at the next get.

        Returns:
            An item that was taken and would hold up the loop if it was opened here; or None.
        """
        while len(found) < most:
            try:
                arrival = self.take()
            except (OSError, EOFError):  # what was found so far is not to be lost with the descriptors
                return None
            if in_loop and arrival is not None and packets.heavy(arrival):
                return arrival
            try:
                found.append(self.open(arrival))
            except Exception as failure:
                self.give_back(None, failure)
                return None
        return None

    # -- state and end

    def qsize(self) -> int:
        """How many items there are, with those that this process has not yet written."""
        self.check()
        return self.kept + self.ledger.count(self.reader, self.backlog.unmoved)

    def empty(self) -> bool:
        self.check()
        with self.backlog.unmoved() as unwritten:
            return not (self.kept or self.reader.waiting_bytes or unwritten)

    def full(self) -> bool:
        self.check()
        return bool(self.ledger.size) and self.qsize() >= self.ledger.size

    def shut_down(self, immediate: bool) -> None:
        """Let nobody put any more; throw away what is left, if ``immediate``."""
        self.check()
        self._ending, self.is_plain = True, False
        if immediate:
            self.writer.send_end()
            self._throw_away()
        elif self.backlog.kept:
            self.backlog.then(self.writer.send_end)
        else:
            self.writer.send_end()

    def _throw_away(self) -> None:
        self.pump()
        while True:
            try:
                arrival = self.take()
            except BlockingIOError:
                self.ledger.let_others_look()  # nothing else holds up a receipt once nobody can send
                continue
            except EOFError:
                return
            if arrival is None:
                self._returned.popleft()
            else:
                packets.drop(arrival)
            if self.tasks is not None:
                self.tasks.done()

    def close(self) -> None:
        """No more is put or taken by this process; what it has put is still written."""
        if self.closed:
            return
        if self.kept and not self._left_to_another():
            self._put_back()
        self.closed = self._ending = self.is_odd = True
        self.is_plain = False
        if self.tasks is not None:
            self.tasks.closed()
        if self._bell is not None:
            self._bell.close()
        self.reader.close()
        self.backlog.then(self._close_rest)

    def came_back(self) -> None:
        """What this process has taken and nobody here gets is not to end with it."""
        if self._at_end is None:
            from multiprocessing.util import Finalize

            self._at_end = Finalize(None, weakly(self._put_back), exitpriority=11)

    def _put_back(self) -> None:
        """Put what came back to the end of the queue, for others.

        Only what goes there at once, and counts for nothing: who took it never put anything that it would
        have to wait for. The rest is lost.
        """
        if self._at_end is not None:
            self._at_end.cancel()
        self._returned = deque(one for one in self._returned if one[2] is None)
        with suppress(Exception):
            while self.is_plain and self.kept and not self.backlog.kept:
                self.writer.send(pack(self.open(self.take())))

    def _close_rest(self) -> None:
        self.backlog.leave(self)
        self._close_ledger()
        for listening in (self._getters, self._putters):
            if listening is not None:
                listening.close()

    def _close_ledger(self) -> None:
        if self.tasks is None or not self.tasks.in_hand:  # else with the last that is done
            self.ledger.close()

    def task_done(self) -> None:
        """One of the tasks in hand is done; also after `close`, as in the stdlib, while there are some."""
        assert self.tasks is not None
        if not self.tasks.in_hand:
            self.check()
        self.tasks.done()
        if self.closed:
            self.backlog.then(self._close_ledger)

    def __del__(self) -> None:
        """What was taken and came back is not forgotten: this process's next get from this queue has it."""
        if self._at_end is not None:
            self._at_end.cancel()
        if not self.closed and self.kept and not self._left_to_another():
            _left_behind[self.reader.handle.identity()] = self._returned, self.reader

    def _left_to_another(self) -> bool:
        """Leave what came back to another object of this process, if there is one."""
        for other in self.backlog.users:
            if other is not self and not other.closed:
                returned, self._returned = self._returned, deque()
                other._inherit(returned, self.reader)
                return True
        return False

    def drop(self) -> None:
        """In a forked child: nothing came back to this process yet."""
        super().drop()
        self._at_end = None

    def _inherit(self, returned: deque[Returned], reader: Channel) -> None:
        for one in returned:
            self.put_in(one)
        self.came_back()
        self.reader.inherit(reader)


_left_behind: dict[tuple[int, int], tuple[deque[Returned], Channel]] = {}
os.register_at_fork(after_in_child=_left_behind.clear)


def _arrived(*parts: Any) -> Store:
    store = Store.__new__(Store)
    store._set_up(*parts)
    if _left_behind and (left := _left_behind.pop(store.reader.handle.identity(), None)):
        store._inherit(*left)
    return store
