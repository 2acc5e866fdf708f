"""A place in the line for a token: tickets of ours stand in it, and the token is sent to our private end.

Source: unix(7), shutdown(2), epoll(7), proc(5) (/proc/self/fd).
"""

from __future__ import annotations

import os
import select
import socket
from typing import Final, Protocol

from aioproc._kernel.forks import Private, no_fork
from aioproc._kernel.handle import Handle, SocketView
from aioproc._kernel.rights import SEND_FLAGS, Received, Rights, receive, rights
from aioproc._kernel.watch import HANG_UP, ONCE, READ, WRITE, Watch

PACKET_BYTES: Final = 16
TICKET: Final = b"t"


class Source(Protocol):
    """What a place waits for: see `Tokens`."""

    back: Handle

    def take(self) -> None: ...
    def keep(self, got: Received) -> None: ...
    def pass_on(self, got: Received) -> None: ...
    def recover(self, descriptor: int) -> None: ...
    def pipes(self) -> list[Handle]: ...
    def sweep(self) -> None: ...


class Ticket:
    """A ticket that was taken out of the line, with the private end of its owner."""

    __slots__ = ("_end", "_receipt")

    def __init__(self, end: int, receipt: int) -> None:
        self._end = end
        self._receipt = receipt

    def redeem(self, packet: bytes, token: Rights) -> bool:
        """Send the token to the owner; False when the owner has died or left."""
        end = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET, 0, self._end)
        try:
            end.sendmsg([packet], token, SEND_FLAGS)
        except (BrokenPipeError, ConnectionResetError):
            return False
        finally:
            end.close()
            os.close(self._receipt)
        return True

    def put_back(self, line: socket.socket) -> bool:
        """Put the ticket at the end of the line, unless its owner has died or left."""
        try:
            if _alive(self._end):
                line.sendmsg([TICKET], rights(self._end, self._receipt), SEND_FLAGS)
                return True
            return False
        finally:
            os.close(self._end)
            os.close(self._receipt)


def _alive(end: int) -> bool:
    poll = select.poll()
    poll.register(end, 0)
    return not poll.poll(0)


def next_ticket(line: socket.socket) -> Ticket | None:
    """Take the oldest ticket; None when nobody stands in the line."""
    while True:
        try:
            _, descriptors = receive(line, 1, 2)
        except BlockingIOError:
            return None
        if len(descriptors) == 2:
            return Ticket(*descriptors)
        for fd in descriptors:  # none free for it: its owner sees the receipt hang up, and asks again
            os.close(fd)


class Place(Private):
    """Where the tasks of one loop, or one thread, wait for tokens.

    Each of them has a ticket in the line. A ticket carries the other end of our private socket, and the
    writing end of a pipe, its receipt: when the last one is closed, no ticket of ours is left anywhere.
    """

    def __init__(self, source: Source) -> None:
        self._source = source
        self.waiters = 0
        self._tickets = 0  # at most so many are in the line, or in a releaser's hands
        self._crowded = False
        with no_fork:
            mine, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            reading, writing = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
            os.close(writing)
            self._mine, self._theirs = Handle(mine.detach()), Handle(theirs.detach())
            self._receipt = Handle(reading)
            self.watch = Watch()
            super().__init__()
        self._end = SocketView(self._mine)
        self._line = SocketView(source.back)
        self.watch.add(self._mine, READ)
        self.watch.add(source.back, READ)
        self.watch.add(self._receipt, HANG_UP | ONCE)
        for pipe in source.pipes():
            self.watch.add(pipe, HANG_UP)

    def join(self) -> None:
        """One more waits here."""
        self.waiters += 1
        try:
            self._post()
        except BaseException:
            self.leave()
            raise

    def leave(self) -> bool:
        """One less waits here; True when it was the last: the place is anybody's then."""
        self.waiters -= 1
        if self.waiters:
            return False
        if self._tickets:
            self._retire()
        return True

    def attempt(self) -> None:
        """Take a token that was sent here or that is free; stand in line otherwise.

        Raises:
            BlockingIOError: Not yet.
        """
        ready = self.watch.ready()
        if self._receipt.fileno() in ready:
            self._tickets = 0
        if self._mine.fileno() in ready:
            with no_fork:
                self._source.keep(receive(self._end, PACKET_BYTES, 1))
                self._tickets -= self._tickets > 0
            return
        for pipe in self._source.pipes():
            if ready.get(pipe.fileno(), 0) & HANG_UP:
                self._source.recover(pipe.fileno())
        self._post()
        self._source.take()

    @property
    def closed(self) -> bool:
        return self._mine.closed

    def _post(self) -> None:
        while self._tickets < self.waiters:
            try:
                self._send_ticket()
            except BlockingIOError:
                if not self._tickets:
                    self._wait_for_room(True)
                return
            self._tickets += 1
        if self._crowded:
            self._wait_for_room(False)

    def _wait_for_room(self, wait: bool) -> None:
        self._crowded = wait
        self.watch.change(self._source.back, READ | WRITE if wait else READ)

    def _send_ticket(self) -> None:
        with no_fork:
            receipt = os.open(f"/proc/self/fd/{self._receipt.fileno()}", os.O_WRONLY | os.O_NONBLOCK)
            try:
                self._line.sendmsg([TICKET], rights(self._theirs.fileno(), receipt), SEND_FLAGS)
            finally:
                os.close(receipt)

    def _retire(self) -> None:
        """Nobody waits here, but a token may still be sent here: stop that, and pass on what has arrived."""
        with no_fork:
            self._end.shutdown(socket.SHUT_RD)
            while True:
                try:
                    got = receive(self._end, PACKET_BYTES, 1)
                except BlockingIOError:
                    break
                if not got[0]:
                    break
                self._source.pass_on(got)
        self.drop()
        self._source.sweep()

    def drop(self) -> None:
        """Close everything without a word to others."""
        for handle in (self.watch, self._mine, self._theirs, self._receipt):
            handle.lines.clear()
            handle.close()
