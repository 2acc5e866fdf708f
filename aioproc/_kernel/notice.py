"""Those who wait to be notified: a line of tickets beside a token's own, from which they move over to it.

Who is notified is not woken for that: he wakes when the token reaches him. If he is dead by then, the
ticket's heirs, that is this line, get the notification.
"""

from __future__ import annotations

import math
import socket
import weakref
from functools import partial
from typing import Any

from aioproc._kernel.forks import Private, no_fork
from aioproc._kernel.handle import Handle, SocketView
from aioproc._kernel.place import Place, Places
from aioproc._kernel.rights import Received
from aioproc._kernel.ticket import next_ticket, take_out_the_gone
from aioproc._kernel.token import Tokens, unread
from aioproc._kernel.watch import HANG_UP, ONCE, READ


class Notices(Private):
    """The line of a condition.

    Args:
        tokens: The lock's token.
        line: The end that receives tickets and the one that sends them; None makes a new line.
    """

    def __init__(self, tokens: Tokens, line: tuple[Handle, Handle] | None = None) -> None:
        if line is None:
            front, back = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            line = Handle(front.detach()), Handle(back.detach())
        self._tokens, self._shared = tokens, line
        self._front, self._back, self._token_line = *map(SocketView, line), SocketView(tokens.back)
        self.places = Places(partial(NoticePlace, weakref.proxy(tokens), line[1], weakref.proxy(self)))
        super().__init__()

    def __reduce__(self) -> tuple[Any, ...]:
        return Notices, (self._tokens, self._shared)

    def drop(self) -> None:
        """In a forked child: the places are its parent's."""
        self.places.forget()

    @property
    def waiting(self) -> int:
        """How many tickets stand in the line, those of waits that were cancelled included."""
        return unread(self._shared[0])

    def notify(self) -> bool:
        """Move the oldest ticket whose owner lives; False when there is none."""
        with no_fork:
            ticket = next_ticket(self._front)
            if ticket is None:
                return False
            ticket.inherit(self._shared[0].fileno())
            return ticket.put(self._token_line)

    def sweep(self) -> bool:
        """Take the tickets of the gone out of the line, for who has the token; False if there was none."""
        before = self.waiting
        take_out_the_gone(self._front, self._back, before)
        return self.waiting < before


class NoticePlace(Place):
    """Where the tasks of one loop, or one thread, wait to be notified and given the token.

    When a process dies with the token, or with the last of our tickets, it may have been about to notify:
    then those who wait here ask for the token as they are, to look what has changed. Others may have made the
    token anew before we look at its pipe; so the byte that they left in it counts as well.
    """

    free = 0  # a free token is nothing for who was not notified
    death = READ | HANG_UP | ONCE
    most = math.inf  # a notification is for one who waits already

    def __init__(self, source: Tokens, line: Handle, notices: Notices) -> None:
        self.got_late = False
        self._notices = notices
        self._asking = 0
        super().__init__(source, line)
        self._token_line = SocketView(source.back)

    def join(self) -> None:
        """One more waits here, and has the token: what tells of a death tells of one before this wait."""
        if not self.waiters:
            self.watch.ready()
        super().join()

    def attempt(self) -> None:
        """Take a token that was sent here, or, after a death, a free one.

        Raises:
            BlockingIOError: Not yet.
        """
        ready = self.watch.ready()
        self._note_lost(ready)
        if self._hung_up(ready):
            self._ask()  # also if a token came: that is for one of us
        if self._mine.fileno() in ready and self._came():
            return None
        if not self._tickets:
            self._ask()
        self._recover(ready)
        if self.stale:
            return self._source.take()
        raise BlockingIOError

    def _found_no_room(self) -> bool:
        """The gone leave the line, whose token our caller has.

        Raises:
            BlockingIOError: It is full of those who live, and no ticket of ours is in it.
        """
        if self._notices.sweep():
            return True
        if not self._tickets:
            raise BlockingIOError
        return False

    def _ask(self) -> None:
        """Have a ticket in the token's line for everybody here; who comes later waits at a new place."""
        self.stale, self.free, self.death = True, READ, HANG_UP
        for pipe in self._source.pipes():
            self.watch.change(pipe, self.death)
        try:
            while self._asking < self.waiters:
                self._send_ticket(self._token_line)
                self._asking += 1
                self._tickets += 1
        except BlockingIOError:
            self._wait_for_room(True)
        else:
            self._wait_for_room(False)

    def _arrived_late(self, got: Received) -> None:
        self._source.keep(got)
        self.got_late = True
