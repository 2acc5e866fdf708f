"""A place in the line for a token: tickets of ours stand in it, and the token is sent to our private end.

Source: unix(7), shutdown(2), epoll(7), proc(5) (/proc/self/fd).
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable
from typing import Final, Generic, Protocol, TypeVar

from aioproc._kernel.forks import Private, no_fork
from aioproc._kernel.handle import Handle, SocketView
from aioproc._kernel.reopening import reopening_pipe
from aioproc._kernel.rights import SEND_FLAGS, Received, explained, receive, rights
from aioproc._kernel.ticket import TICKET
from aioproc._kernel.waiting import loop_key
from aioproc._kernel.watch import HANG_UP, ONCE, READ, WRITE, Watch

PACKET_BYTES: Final = 16
MOST_TICKETS: Final = 16  # at once: a user may have no more descriptors in flight than `ulimit -n` says
IDLE_PLACES: Final = 1  # kept for the next wait: making one costs ten system calls


class Source(Protocol):
    """What a place waits for: see `Tokens`."""

    back: Handle

    def take(self) -> None: ...
    def keep(self, got: Received) -> None: ...
    def pass_on(self, got: Received) -> None: ...
    def recover(self, descriptor: int) -> None: ...
    def pipes(self) -> list[Handle]: ...
    def sweep(self) -> None: ...


class Place(Private):
    """Where the tasks of one loop, or one thread, wait for tokens.

    Each of them has a ticket in the line, or will have one after turns of others here. A ticket carries the
    other end of our private socket, and the writing end of a pipe, its receipt: when the last one is closed,
    no ticket of ours is left anywhere. With the token the receipt comes back; so the pipe hangs up only when
    a ticket was lost.
    """

    free: int = READ  # what to watch the free tokens for
    death: int = HANG_UP  # and the pipes
    most: float = MOST_TICKETS
    _spare: int | None = None  # the receipt that came back, while no ticket of ours is anywhere

    def __init__(self, source: Source, line: Handle) -> None:
        self._source = source
        self.waiters = 0
        self.loop: object = None  # whose tasks wait here; None for a thread
        self.stale = False  # nobody else may join
        self._tickets = 0  # at most so many are in the line, or in a releaser's hands
        self._crowded = False
        with no_fork:
            mine, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            reading, writing = reopening_pipe(os.O_NONBLOCK)
            os.close(writing)
            self._mine, self._theirs = Handle(mine.detach()), Handle(theirs.detach())
            self._receipt = Handle(reading)
            self.watch = Watch(stays=True)
            super().__init__()
        self._ends = [SocketView(self._mine)]
        self._line = SocketView(line)
        self.watch.add(self._mine, READ)
        self.watch.add(source.back, self.free)
        self.watch.add(self._receipt, HANG_UP | ONCE)
        for pipe in source.pipes():
            self.watch.add(pipe, self.death)

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
        if self._tickets or self.stale:
            self._retire()
        return True

    def attempt(self) -> None:
        """Take a token that was sent here or that is free; stand in line otherwise.

        Raises:
            BlockingIOError: Not yet.
        """
        if self._came():  # that is what wakes us, mostly
            return
        ready = self.watch.ready()
        if self._arrived(ready):
            return
        self._recover(ready)
        self._post()
        if self._source.back.fileno() not in ready:
            raise BlockingIOError
        self._source.take()

    def _arrived(self, ready: dict[int, int]) -> bool:
        self._note_lost(ready)
        return self._mine.fileno() in ready and self._came()

    def _note_lost(self, ready: dict[int, int]) -> None:
        if ready.get(self._receipt.fileno(), 0) & HANG_UP:
            self._tickets = 0

    def _came(self) -> bool:
        """Keep the token that was sent here; False when there is none."""
        for end in self._ends:
            with no_fork:
                try:
                    got = self._received(end)
                except BlockingIOError:
                    continue
                self._source.keep(got)
            return True
        return False

    def _received(self, end: SocketView) -> Received:
        """A token that was sent here; its receipt is good for our next ticket."""
        packet, descriptors = receive(end, PACKET_BYTES, 2)
        self._tickets -= self._tickets > 0
        for receipt in descriptors[1:]:
            if self._tickets or self._spare is not None:
                os.close(receipt)
            else:
                self._spare = receipt
        return packet, descriptors[:1]

    def _hung_up(self, ready: dict[int, int]) -> list[int]:
        pipes = [pipe.fileno() for pipe in self._source.pipes()]
        return [pipe for pipe in pipes if ready.get(pipe, 0) & self.death]

    def _recover(self, ready: dict[int, int]) -> None:
        for pipe in self._hung_up(ready):
            self._source.recover(pipe)

    @property
    def closed(self) -> bool:
        return self._mine.closed

    def _post(self) -> None:
        while self._tickets < min(self.waiters, self.most):
            try:
                self._send_ticket(self._line)
            except BlockingIOError:
                if self._found_no_room():
                    continue
                return
            except OSError as error:
                if error.errno == errno.ETOOMANYREFS and self._tickets:
                    return  # a turn here makes room for the next one's
                raise explained(error) from None
            self._tickets += 1
        if self._crowded:
            self._wait_for_room(False)

    def _found_no_room(self) -> bool:
        """The line is full: whether there is room now, after all."""
        if not self._tickets:
            self._wait_for_room(True)
        return False

    def _wait_for_room(self, wait: bool) -> None:
        self._crowded = wait
        self.watch.change(self._source.back, self.free | WRITE if wait else self.free)

    def _send_ticket(self, line: SocketView) -> None:
        with no_fork:
            receipt, self._spare = self._new_receipt() if self._spare is None else self._spare, None
            try:
                line.sendmsg([TICKET], rights(self._theirs.fileno(), receipt), SEND_FLAGS)
            finally:
                os.close(receipt)

    def _new_receipt(self) -> int:
        return os.open(f"/proc/self/fd/{self._receipt.fileno()}", os.O_WRONLY | os.O_NONBLOCK)

    def _retire(self) -> None:
        """Nobody waits here, but a token may still be sent here: stop that, and pass on what has arrived."""
        with no_fork:
            for end in self._ends:
                end.shutdown(socket.SHUT_RD)
                self._drain(end)
        self.drop()
        self._source.sweep()

    def _drain(self, end: SocketView) -> None:
        while True:
            try:
                got = self._received(end)
            except BlockingIOError:
                return
            if not got[0]:
                return
            self._arrived_late(got)

    def _arrived_late(self, got: Received) -> None:
        self._source.pass_on(got)

    def drop(self) -> None:
        """Close everything without a word to others."""
        self._close_spare()
        for handle in (self.watch, self._mine, self._theirs, self._receipt):
            handle.lines.clear()
            handle.close()

    def __del__(self) -> None:
        self._close_spare()

    def _close_spare(self) -> None:
        spare, self._spare = self._spare, None
        if spare is not None:
            os.close(spare)


P = TypeVar("P", bound=Place)


class Places(Generic[P]):
    """The places of one process in one line: one for each loop, one for each thread that waits."""

    def __init__(self, make: Callable[[], P]) -> None:
        self._make = make
        self._of_loop: dict[object, P] = {}
        self._idle: list[P] = []

    def of_loop(self) -> P:
        """Join the place of the running loop."""
        key = loop_key()
        place = self._of_loop.get(key)
        if place is None or place.stale:
            place = self._of_loop[key] = self._unused()
            place.loop = key
        place.join()
        return place

    def of_thread(self) -> P:
        """Join a place of one's own."""
        place = self._unused()
        place.join()
        return place

    def here(self) -> P:
        """Join the place of the loop that this thread holds up, where a token may lie; else one's own."""
        try:
            known = bool(self._of_loop) and loop_key() in self._of_loop
        except RuntimeError:  # no loop runs in this thread
            known = False
        return self.of_loop() if known else self.of_thread()

    def leave(self, place: P) -> None:
        """Leave the place; the last one puts it away for the next wait."""
        if not place.leave():
            return
        if self._of_loop.get(place.loop) is place:  # not if another took over from one that was stale
            del self._of_loop[place.loop]
        place.loop = None
        if len(self._idle) < IDLE_PLACES and not place.closed:
            self._idle.append(place)
        else:
            place.drop()

    def forget(self) -> None:
        """Forget all, in a forked child; each closes what is private itself."""
        self._of_loop.clear()
        self._idle.clear()

    def _unused(self) -> P:
        try:
            return self._idle.pop()
        except IndexError:
            return self._make()
