"""Tokens that survive their holders: what a lock, a permit and a right to listen are made of.

A token is a packet with the only writing end of a pipe. Who holds it has the lock; when its holder dies,
the kernel closes that end, and the reading end hangs up in everybody who waits. docs/design/lock.md argues
why no two can hold one.

Source: unix(7) (SCM_RIGHTS), pipe(7), flock(2), proc(5) (/proc/self/fd).
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import struct
import sys
import termios
import weakref
from collections.abc import Callable
from functools import partial
from typing import Any, Final

from aioproc._kernel.bundle import close_all
from aioproc._kernel.forks import Private, no_fork
from aioproc._kernel.handle import Handle, SocketView
from aioproc._kernel.place import PACKET_BYTES, Place, Places
from aioproc._kernel.reopening import reopening_pipe
from aioproc._kernel.rights import INT, ONE, RECEIVE_FLAGS, SEND_FLAGS, Received, explained, receive, rights
from aioproc._kernel.ticket import Ticket, next_ticket, take_out_the_gone
from aioproc._kernel.waiting import checkpoint, spent, until_blocking, until_blocking_later, until_later
from aioproc._kernel.watch import hung_up

MOST_PIPES: Final = 128
LINE_BYTES: Final = 1 << 20
LEFT_TICKETS: Final = 32  # of this process's cancelled waits, between two sweeps of the line

DEATH: Final = b"d"
_TOKEN: Final = struct.Struct("=BB")  # abandoned, number of its pipe


class Tokens(Private):
    """A number of tokens, shared by processes; `tokens` makes them.

    Args:
        count: How many there are.
        pipes: How many pipes they share. Those of one pipe are made anew when all their holders have died.
        front: The end that sends free tokens and receives tickets.
        back: The end that receives free tokens and sends tickets.
        ends: The reading end of the one pipe, or a socket that holds a packet with those of all pipes.
    """

    _place: type[Place] = Place  # where to wait for one
    _ticket: Callable[..., Ticket] = Ticket  # makes one of its descriptors

    def __init__(self, count: int, pipes: int, front: Handle, back: Handle, ends: Handle) -> None:
        self.count = count
        self.front, self.back = front, back
        self._shared: tuple[Any, ...] = (count, pipes, front, back, ends)
        self._front_view, self._back_view = SocketView(front), SocketView(back)
        self._held: list[tuple[int, bytes]] = []
        self._pipes: list[Handle] = [ends] if pipes == 1 else []
        self._places = Places(partial(self._place, weakref.proxy(self), back))
        self._left = 0
        self._wanted = False  # whether the last token that was released here had a ticket
        self.users: weakref.WeakSet[object] = weakref.WeakSet()  # in this process, which may close it
        self.owner: object = None  # of a lock that its owner may take again
        self.depth = 0
        super().__init__()
        self._key = ends.identity()
        _here[self._key] = self

    def __reduce__(self) -> tuple[Any, ...]:
        return _arrived, (type(self), *self._shared)

    def __del__(self) -> None:
        self.drop()

    def drop(self) -> None:
        """Close what is this process's alone; tokens held here are dead then."""
        while self._held:
            os.close(self._held.pop()[0])
        self.owner, self.depth = None, 0
        self._places.forget()

    # What can be asked

    @property
    def held(self) -> int:
        """How many tokens this process holds."""
        return len(self._held)

    @property
    def abandoned(self) -> bool:
        """Whether the last holder of a token that is held here died with it."""
        return any(packet[0] for _, packet in self._held)

    @property
    def free(self) -> int:
        """How many tokens nobody holds; those of the dead are made anew first."""
        self.recover_all()
        return unread(self.back) // _TOKEN.size

    @property
    def any_free(self) -> bool:
        """Whether there is one that nobody holds; only if there is none, those of the dead are made anew."""
        return unread(self.back) > 0 or (self.recover_all() and unread(self.back) > 0)

    @property
    def waiting(self) -> int:
        """How many tickets stand in the line, those of waits that were cancelled included."""
        return unread(self.front)

    # Taking

    def take(self) -> None:
        """Take a free token: an attempt. While somebody waits none is free, so it passes nobody.

        Raises:
            BlockingIOError: None is free.
            OSError: No free file descriptor. The token is lost, and made anew as if its holder had died: who
                takes it next finds `abandoned` true.
        """
        with no_fork:
            packet, ancillary, _, _ = self._back_view.recvmsg(PACKET_BYTES, ONE, RECEIVE_FLAGS)
            if not ancillary:
                raise _no_descriptor()
            self._held.append((INT.unpack(ancillary[0][2])[0], packet))

    def try_take(self) -> bool:
        """Take a token without waiting, also one whose holder died."""
        try:
            self.take()
        except BlockingIOError:
            if not self.recover_all():
                return False
            try:
                self.take()
            except BlockingIOError:
                return False
        return True

    async def acquire(self, timeout: float | None = None) -> None:
        """Take a token, in order of arrival.

        Raises:
            TimeoutError: None came within ``timeout`` seconds.

        If cancelled: None is taken; one that arrived is passed on.
        If a peer dies: Its token comes back at once, its ticket is skipped.
        Cost: One system call when a token is free, else one wake-up.
        """
        if spent():
            await checkpoint()
        try:
            return self.take()
        except BlockingIOError:
            pass
        place = self._places.of_loop()
        try:
            await until_later(place.attempt, place.watch, timeout=timeout)
        finally:
            self._places.leave(place)

    def acquire_blocking(self, timeout: float | None = None) -> None:
        """Take a token, asleep in this thread; see `acquire`."""
        try:
            return self.take()
        except BlockingIOError:
            pass
        place = self._places.here()
        try:
            wait = until_blocking_later if timeout is None else until_blocking  # however short, it looks once
            wait(place.attempt, place.watch, timeout=timeout)
        finally:
            self._places.leave(place)

    def keep(self, got: Received) -> None:
        """Hold a token that was received."""
        packet, descriptors = got
        if not descriptors:
            raise _no_descriptor()
        self._held.append((descriptors[0], packet))

    # Giving

    def release(self) -> None:
        """Give a token to whoever has waited longest; of several, an unmarked one, as the mark stays.

        Raises:
            ValueError: This process holds none.
        """
        with no_fork:
            if not self._held:
                raise ValueError("released by a process that does not hold it")
            fd, packet = self._held.pop(self._unmarked() if len(self._held) > 1 else 0)
            self._hand_over(fd, _TOKEN.pack(False, packet[1]))

    def _unmarked(self) -> int:
        """Where one lies whose last holder did not die with it; else the last."""
        return next((place for place, (_, packet) in enumerate(self._held) if not packet[0]), -1)

    def pass_on(self, got: Received) -> None:
        """Hand over a token that arrived for nobody, with its mark."""
        packet, descriptors = got
        for fd in descriptors:
            self._hand_over(fd, packet)

    def _hand_over(self, fd: int, packet: bytes) -> None:
        """Send a token to the oldest ticket whose owner lives, or back to the free ones."""
        try:
            while self._wanted or unread(self.front):
                ticket = next_ticket(self._front_view, self._ticket)
                self._wanted = ticket is not None  # so the next release need not ask
                if ticket is None:
                    break
                if ticket.redeem(packet, fd):
                    return
            self._front_view.sendmsg([packet], rights(fd), SEND_FLAGS)
        finally:
            os.close(fd)  # after an error: as if the holder had died

    def sweep(self) -> None:
        """Note that a ticket of ours was left in the line; now and then, take those of the gone out of it.

        Others may post meanwhile, so those who wait can change places with them, no more. Meanwhile we wait
        too: a releaser who sees nobody else, because we have a ticket in our hands, gives us the token.
        """
        self._left += 1
        if self._left < LEFT_TICKETS:
            return
        self._left = 0
        try:
            place = self._places.of_thread()
        except OSError:  # no free descriptor: another time
            return
        try:
            take_out_the_gone(self._front_view, self._back_view, self.waiting, self._ticket)
        finally:
            self._places.leave(place)

    # When a holder dies

    def pipes(self) -> list[Handle]:
        """The reading ends of the tokens' pipes; without tokens none, for all would have hung up."""
        if not self.count:
            return []
        if not self._pipes:
            *_, pipes, _, _, ledger = self._shared
            with no_fork:
                _, descriptors = receive(SocketView(ledger), 1, pipes, socket.MSG_PEEK)
                if len(descriptors) < pipes:
                    close_all(descriptors)
                    raise OSError(errno.EMFILE, "no free file descriptors for the permits' pipes")
                self._pipes = [Handle(fd) for fd in descriptors]
        return self._pipes

    def recover_all(self) -> bool:
        """Make the tokens of the dead anew; False when there were none."""
        found = hung_up(*(pipe.fileno() for pipe in self.pipes()))
        for descriptor in found:
            self.recover(descriptor)
        return bool(found)

    def recover(self, descriptor: int) -> None:
        """Make the tokens of a pipe that hung up anew, unless another process is just doing it.

        Only who has the flock makes any, and only while no writing end exists, so none is made twice. A byte
        in the pipe tells of the death when that does not hang up any more; see `NoticePlace`.
        """
        path = f"/proc/self/fd/{descriptor}"
        with no_fork:
            election = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
            try:
                fcntl.flock(election, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if hung_up(descriptor):
                    os.read(election, self.count)  # what was told of the deaths before
                    self._make(path, [pipe.fileno() for pipe in self.pipes()].index(descriptor))
            except BlockingIOError:
                pass
            finally:
                os.close(election)

    def _make(self, path: str, pipe: int) -> None:
        for _ in range(pipe, self.count, len(self._pipes)):
            fd = os.open(path, os.O_WRONLY | os.O_NONBLOCK)
            os.write(fd, DEATH)
            self._hand_over(fd, _TOKEN.pack(True, pipe))

    def close(self) -> None:
        """Close them in this process, where nobody waits for them; if they come again, those are others."""
        with no_fork:
            if _here.get(self._key) is self:
                del _here[self._key]
        self.drop()
        for handle in (self.front, self.back, *self.pipes()):
            handle.close()


_here: weakref.WeakValueDictionary[tuple[int, int], Tokens] = weakref.WeakValueDictionary()


def _arrived(make: Callable[..., Tokens], *shared: Any) -> Tokens:
    """The tokens that came to this process: one object, however often they come."""
    with no_fork:
        return _here.get(shared[-1].identity()) or make(*shared)


def tokens(count: int = 1, pipes: int = 1) -> Tokens:
    """New tokens, all free.

    Args:
        count: How many.
        pipes: One for all of them, or up to `MOST_PIPES`: then a token comes back as soon as its holder dies.
    """
    return Tokens(*free_tokens(count, pipes))


def free_tokens(count: int, pipes: int) -> tuple[int, int, Handle, Handle, Handle]:
    """What new tokens consist of; see `Tokens`."""
    line = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for end in line:
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, LINE_BYTES)
    front, back = (Handle(end.detach()) for end in line)
    with no_fork:  # a forked child would keep the writing ends
        made = [tuple(map(Handle, reopening_pipe(os.O_NONBLOCK))) for _ in range(pipes)]
        try:
            _send_free(count, [writing for _, writing in made], SocketView(front))
        finally:
            for _, writing in made:
                writing.close()
    ends = [reading for reading, _ in made]
    return count, pipes, front, back, ends[0] if pipes == 1 else _ledger(ends)


def _send_free(count: int, writing: list[Handle], sender: SocketView) -> None:
    for number in range(count):
        pipe = number % len(writing)
        try:
            sender.sendmsg([_TOKEN.pack(False, pipe)], rights(writing[pipe].fileno()), SEND_FLAGS)
        except BlockingIOError:
            raise ValueError(
                f"at most {number}: no more fit into a socket here (net.core.wmem_max)"
            ) from None
        except OSError as error:
            raise explained(error) from None


def _ledger(ends: list[Handle]) -> Handle:
    sender, ledger = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with sender:
        sender.sendmsg([b"l"], rights(*(end.fileno() for end in ends)))
    return Handle(ledger.detach())


def unread(handle: Handle) -> int:
    """Bytes in all packets that lie in a socket."""
    found = bytearray(INT.size)
    fcntl.ioctl(handle.fileno(), termios.FIONREAD, found)
    return int.from_bytes(found, sys.byteorder)


def _no_descriptor() -> OSError:
    return OSError(errno.EMFILE, "no free file descriptor for the token")
