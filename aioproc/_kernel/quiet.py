"""A line whose head sleeps until a counter is raised, and is not woken in order to become the head.

Who leaves the head puts the counter into the next one's epoll descriptor, for one event, and then sends the
token into a socket of that one which nobody watches. So whoever raises the counter, by one system call that
knows nothing of the line, wakes the head alone. docs/design/synchronisation.md argues for the order.

Source: epoll_ctl(2) (EPOLLONESHOT), epoll(7) (what identifies an entry), unix(7) (SCM_RIGHTS).
"""

from __future__ import annotations

import os
import select
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from socket import SocketType
from typing import Any, Final

from aioproc._kernel.counter import Counter
from aioproc._kernel.forks import no_fork
from aioproc._kernel.handle import Handle, SocketView
from aioproc._kernel.place import Place
from aioproc._kernel.rights import SEND_FLAGS, receive, rights
from aioproc._kernel.ticket import Ticket
from aioproc._kernel.token import Tokens, free_tokens
from aioproc._kernel.watch import READ

ONE_EVENT: Final = READ | select.EPOLLONESHOT  # and inert after it, until it is armed again
SHOWN: Final = b"q"
ROOM: Final = 8  # loops that may, at one time, be about to watch a place whose counter is armed
MOST_NUMBERS: Final = 2  # the counter's in those that armed a place: a parent has one, its children another


class QuietTicket(Ticket):
    """A ticket that is redeemed without waking its owner while the counter is zero.

    The counter is armed before the token is sent. The other order would leave the token, if the sender died
    in between, with somebody who sleeps on. As it is, the token dies with the sender and is made anew.

    Args:
        counter: What its owner sleeps for.
        descriptors: See `Ticket`.
    """

    __slots__ = ("_counter",)

    def __init__(self, counter: Counter, *descriptors: int) -> None:
        super().__init__(*descriptors)
        self._counter = counter

    def redeem(self, packet: bytes, token: int) -> bool:
        """Send the token, and the receipt, to the owner; see `Ticket.redeem`."""
        if not self._counter.raised:
            self._quieten()
        return super().redeem(packet, token)

    def _quieten(self) -> None:
        """Let the counter wake the owner, not the token; where that cannot be, leave it at the token."""
        found = self._shown()
        try:
            if len(found) == 2 and _armed(found.pop(0), self._counter.handle.fileno()):
                self._descriptors[0], found[0] = found[0], self._descriptors[0]
        finally:
            for fd in found:
                os.close(fd)

    def _shown(self) -> list[int]:
        """The owner's epoll descriptor and its quiet end; see `QuietPlace`."""
        end = SocketType(socket.AF_UNIX, socket.SOCK_SEQPACKET, 0, self._descriptors[0])
        try:
            return [*receive(end, 1, 2, socket.MSG_PEEK)[1]]
        except OSError:  # it has left
            return []
        finally:
            end.detach()


class QuietPlace(Place):
    """Where the tasks of one loop, or one thread, wait for the right to look, and sleep on as the head.

    An armed counter stays in our epoll descriptor, inert once it has fired, under the number that it has in
    the process that armed it; only where it has this number could it be taken out. And the kernel lets 500
    entries of one file wake loops. So where there are more numbers, the place is given up for a new one.
    """

    def __init__(self, source: Tokens, line: Handle) -> None:
        self._loud = False  # whether we watch the quiet end: the counter fired, the token was on its way
        self._numbers = set[int]()
        with no_fork:
            mine, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            self._quiet = Handle(mine.detach())
            with theirs:
                super().__init__(source, line)
                self._show(theirs.fileno())
        self._ends.insert(0, SocketView(self._quiet))
        self.watch.add(self._quiet, 0)

    def _show(self, end: int) -> None:
        """Leave our epoll descriptor and the quiet end where every holder of a ticket can look at them."""
        self._ends[0].sendmsg([SHOWN], rights(self.watch.fileno(), end), SEND_FLAGS)

    def attempt(self) -> None:
        """Take the token once it or the counter woke us, or a free one; stand in line otherwise.

        Raises:
            BlockingIOError: Not yet.
        """
        ready = self.watch.ready()
        self._note_lost(ready)
        fired = self._worn_by({fd for fd, events in ready.items() if events & READ})
        if fired and (self._came() or self._taken()):
            return self._be_loud(False)
        self._be_loud(self._loud or fired)
        self._recover(ready)
        self._post()
        raise BlockingIOError

    def _taken(self) -> bool:
        try:
            self._source.take()
        except BlockingIOError:
            return False
        return True

    def _worn_by(self, fired: set[int]) -> bool:
        """Note the numbers that fired; whether there are any."""
        ours = {self._mine.fileno(), self._quiet.fileno(), self._source.back.fileno()}
        self._numbers |= fired - ours
        self.stale = len(self._numbers) > MOST_NUMBERS
        return bool(fired)

    def _be_loud(self, loud: bool) -> None:
        if loud != self._loud:
            self.watch.change(self._quiet, READ if loud else 0)
            self._loud = loud

    def drop(self) -> None:
        super().drop()
        self._quiet.close()


class QuietTokens(Tokens):
    """The right to look at a counter, that nobody else then lowers.

    Args:
        counter: What those who wait for the right will look at.
        shared: See `Tokens`.
    """

    _place = QuietPlace

    def __init__(self, counter: Counter, *shared: Any) -> None:
        super().__init__(*shared)
        self.counter = counter
        self._shared = (counter, *self._shared)
        self._ticket = partial(QuietTicket, counter)


def quiet_tokens(counter: Counter) -> QuietTokens:
    """The right to look at the counter, which nobody has yet."""
    return QuietTokens(counter, *free_tokens(1, 1))


def _armed(descriptor: int, counter: int) -> bool:
    """Let an epoll descriptor report the counter once, also if it is raised already, and close it.

    Returns:
        Whether it will; not if the kernel has no room for one more.
    """
    epoll = select.epoll.fromfd(descriptor)
    try:
        try:
            epoll.modify(counter, ONE_EVENT)
        except FileNotFoundError:
            with _with_room(epoll):
                epoll.register(counter, ONE_EVENT)
    except OSError:
        return False
    finally:
        epoll.close()
    return True


@contextmanager
def _with_room(epoll: select.epoll) -> Iterator[None]:
    """What is registered inside leaves room for loops that are still to watch this epoll descriptor.

    One that has just begun to wait, or waits again, may not watch it yet. It would be refused then, for what
    we did; libuv, which uvloop stands on, ends the process there.
    """
    loops = [select.epoll() for _ in range(ROOM)]
    try:
        for loop in loops:
            loop.register(epoll.fileno(), READ)
        yield
    finally:
        for loop in loops:
            loop.close()
