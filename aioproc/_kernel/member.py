"""What a member of a meeting holds: the table of names, a place on the roll, and a connection to the hub.

When the hub dies the connection hangs up. The member then goes to the hub that there is by then, or starts
one, and brings the table of names. Its methods are attempts, but for `knock` and `tend`.

Source: unix(7), fifo(7), poll(2).
"""

from __future__ import annotations

import errno
import os
import select
import socket
import threading
import weakref
from collections.abc import Callable
from typing import Final, TypeVar

from aioproc._kernel import bundle, door, hub, summons
from aioproc._kernel.handle import Handle, SocketView
from aioproc._kernel.names import DESCRIPTORS, Names
from aioproc._kernel.rights import RECEIVE_FLAGS, SEND_FLAGS, rights

ATTEMPTS: Final = 20  # hubs in a row that may be killed before they answer
_TEXT_BYTES: Final = 512

T = TypeVar("T")


class _Served(threading.local):
    """The members that a loop of this thread sees to."""

    def __init__(self) -> None:
        self.members: weakref.WeakSet[Member] = weakref.WeakSet()


_served = _Served()


class Member:
    """One process's part in a meeting.

    Attributes:
        on_roll: Whether newcomers to a new hub wait for this member to bring the names: only for one that
            is told at once when its hub dies.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.names: Names | None = None
        self.parted = False
        self._lost: OSError | None = None  # why no hub could be had when the last one died
        self.connection = Handle(-1)
        self.on_roll = True
        self._roll: Handle | None = None
        self.welcome_due = False
        self._tending = threading.Lock()  # by a thread of the loop's, or by who holds up the loop

    def knock(self) -> None:
        """Connect, and say who comes; blocks while a hub is started. Its answer is for `welcomed`."""
        with summons.held_back():
            connection = door.entered(self.path)
        self._greet(connection)

    def knock_at_once(self) -> bool:
        """The same if a hub is there; False if `knock` must be called."""
        try:
            connection = door.connected(self.path)
        except BlockingIOError:
            return False
        if connection is not None:
            self._greet(connection)
        return connection is not None

    def _greet(self, connection: Handle) -> None:
        self.connection.close()
        self.connection = connection
        self.welcome_due = True
        aside = b"" if self.on_roll else hub.ASIDE
        try:
            if self.names is None:
                SocketView(connection).send(hub.HELLO + aside, SEND_FLAGS)
            else:
                along = rights(*[handle.fileno() for handle in self.names.handles])
                SocketView(connection).sendmsg([hub.BRING + aside], along, SEND_FLAGS)
        except (BrokenPipeError, ConnectionResetError):
            pass  # `welcomed` says so

    def welcomed(self) -> None:
        """Receive what the hub hands out.

        Raises:
            BlockingIOError: Not yet.
            EOFError: The hub has died or ended; knock again.
            OSError: It refuses, or there is no free descriptor.
        """
        packet, descriptors = self._received()
        if packet.startswith(hub.REFUSED):
            bundle.close_all(descriptors)
            raise OSError(errno.ECONNREFUSED, packet[1:].decode(errors="replace"), self.path)
        if packet != hub.WELCOME or len(descriptors) != DESCRIPTORS + self.on_roll:
            bundle.close_all(descriptors)
            if packet == hub.WELCOME:
                raise OSError(errno.EMFILE, "no free file descriptor for a meeting")
            raise OSError(errno.EPROTO, "this is no hub of aioproc's, or another version's", self.path)
        roll = Handle(descriptors.pop(), forks=False) if self.on_roll else None
        self._adopt(Names(descriptors), roll)

    def _received(self) -> tuple[bytes, list[int]]:
        room = socket.CMSG_SPACE(4 * (DESCRIPTORS + 1))
        try:
            view = SocketView(self.connection)
            packet, ancillary, _, _ = view.recvmsg(_TEXT_BYTES, room, RECEIVE_FLAGS)
        except ConnectionResetError:
            packet, ancillary = b"", []
        if not packet:
            raise EOFError("the hub has ended")
        return packet, bundle.received(ancillary)

    def _adopt(self, table: Names, roll: Handle | None) -> None:
        self.welcome_due, self._lost = False, None
        if self.names is None:
            self.names = table
        else:
            self.parted = table.identity != self.names.identity
            table.close()
        if self._roll is not None:
            self._roll.close()
        self._roll = roll

    def stirred(self) -> None:
        """An attempt that succeeds when `tend` has something to do."""
        poll = select.poll()
        poll.register(self.connection.fileno(), select.POLLIN)
        if not poll.poll(0):
            raise BlockingIOError

    def tend(self) -> bool:
        """See to the connection: if its hub has died, go to the next. Blocks only while one is started.

        Returns:
            Whether the connection is another one now.

        Raises:
            OSError: No hub can be had; the next call tries again.
        """
        try:
            return self._tend()
        except OSError as error:
            self._stand_aside(error)
            raise

    def _tend(self) -> bool:
        before = self.connection
        for _ in range(ATTEMPTS):
            try:
                if self.welcome_due:
                    self.welcomed()
                else:
                    self._received()
                    raise OSError(errno.EPROTO, "a hub has no more to say", self.path)
            except BlockingIOError:
                return self.connection is not before
            except EOFError:
                self.knock()
        raise self.no_hub()

    def _stand_aside(self, error: OSError) -> None:
        """Bring no names to a next hub, so let nobody wait for them; they may be given anew meanwhile."""
        self._lost, self.on_roll = error, False
        if self._roll is not None:
            self._roll.close()
        try:
            SocketView(self.connection).shutdown(socket.SHUT_RDWR)  # the next `tend` begins with its end
        except (OSError, ValueError):
            pass

    def tend_for_loop(self) -> None:
        """`tend`, for a member whose loop was told by `served_by_loop`."""
        with self._tending:
            if not self.connection.closed:
                self.tend()

    def served_by_loop(self) -> None:
        """A loop of this thread sees to this member."""
        _served.members.add(self)

    def no_hub(self) -> OSError:
        """What to raise when one hub after the other has died."""
        return OSError(errno.ECONNRESET, f"{ATTEMPTS} hubs in a row died before they answered", self.path)

    def leave(self) -> None:
        """Close everything; the hub ends after the last one."""
        _served.members.discard(self)
        self.connection.close()
        if self._roll is not None:
            self._roll.close()
        if self.names is not None:
            self.names.close()

    def check(self) -> Names:
        """The names, if this process is a member now."""
        if self.names is None or self.names.closed:
            raise ValueError("not in a meeting: this process has not entered it, or has left it")
        if self.parted:
            raise RuntimeError(
                f"the names of {os.path.basename(self.path)} were given anew without this member"
            )
        if self._lost is not None:
            raise RuntimeError(
                f"the hub of {os.path.basename(self.path)} died and no other was found: {self._lost}"
            )
        return self.names


def wait_beside_loop(attempt: Callable[[], T], member: Member) -> T:
    """Run an attempt until it succeeds, asleep in this thread while the member's hub says nothing.

    A loop that this thread would run is asleep with it, so what that would do for other members is done here:
    the hub may be waiting for one of them.
    """
    given_up: set[Member] = set()
    while True:
        try:
            return attempt()
        except BlockingIOError:
            pass
        poll = select.poll()
        poll.register(member.connection.fileno(), select.POLLIN)
        served = [each for each in _served.members - given_up if not each.connection.closed]
        others = {each.connection.fileno(): each for each in served}
        for fd in others:
            poll.register(fd, select.POLLIN)
        for fd, _ in poll.poll():
            if fd in others:
                try:
                    others[fd].tend_for_loop()
                except OSError:  # no hub can be had there; who asks that member for a name is told
                    given_up.add(others[fd])
