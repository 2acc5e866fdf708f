"""One round of a barrier: who waits in it, held together by links that tell of deaths, and its one verdict.

Who arrives shares a socket pair, a link, with the one before and one with the one after: it hangs up when
either dies. The verdict is the first packet in the round's gate, which everybody may look at, so all see
the same.

Source: unix(7), recv(2) (MSG_PEEK).
"""

from __future__ import annotations

import os
import socket
from typing import Final

from aioproc._kernel.forks import Private, no_fork
from aioproc._kernel.handle import Handle, SocketView
from aioproc._kernel.rights import SEND_FLAGS, receive, rights
from aioproc._kernel.watch import HANG_UP, READ, Watch

GO: Final = b"g"
BROKEN: Final = b"b"


class MemberDied(Exception):
    """Another one who waits in the round has died."""


class Round(Private):
    """What one member has of a round.

    Args:
        index: How many came before.
        gate: The end that verdicts are sent to, and the one that they are seen at.
        links: To the one before and the one after.
    """

    def __init__(self, index: int, gate: tuple[Handle, Handle], links: list[Handle]) -> None:
        self.index = index
        self._gate, self._links = gate, links
        self._sender, self._seen = SocketView(gate[0]), SocketView(gate[1])
        self.watch = Watch()
        self.watch.add(gate[1], READ)
        for link in links:
            self.watch.add(link, HANG_UP)
        super().__init__()

    def verdict(self) -> bytes:
        """GO, BROKEN, or nothing yet."""
        try:
            return self._seen.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return b""

    def give(self, verdict: bytes) -> bytes:
        """Give a verdict; the one that was given first counts, and is returned."""
        self._sender.send(verdict, SEND_FLAGS)
        return self.verdict()

    def attempt(self) -> bytes:
        """The verdict.

        Raises:
            BlockingIOError: There is none yet.
            MemberDied: There is none, and a neighbour is dead.
        """
        ready = self.watch.ready()
        verdict = self.verdict()
        if verdict:
            return verdict
        if any(ready.get(link.fileno(), 0) & HANG_UP for link in self._links):
            raise MemberDied
        raise BlockingIOError

    def drop(self) -> None:
        """Close everything."""
        for handle in (self.watch, *self._gate, *self._links):
            handle.lines.clear()
            handle.close()


class Slot:
    """Where a round lies between two arrivals, or the word that the barrier is broken.

    Only who holds the barrier's lock may call these, but for `count` and `broken`.
    """

    def __init__(self, ends: tuple[Handle, Handle] | None = None) -> None:
        if ends is None:
            one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            ends = Handle(one.detach()), Handle(other.detach())
        self._ends = ends
        self._sender, self._receiver = (SocketView(end) for end in ends)

    def __reduce__(self) -> tuple[type[Slot], tuple[tuple[Handle, Handle]]]:
        return Slot, (self._ends,)

    @property
    def _packet(self) -> bytes:
        try:
            return self._receiver.recv(8, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return b""

    @property
    def broken(self) -> bool:
        return self._packet == BROKEN

    @property
    def count(self) -> int:
        """How many wait in the round that lies here."""
        packet = self._packet
        return 0 if packet == BROKEN else int.from_bytes(packet, "big")

    def arrive(self, parties: int) -> Round:
        """Become the next member of the round; the last one of all finds the slot empty afterwards."""
        with no_fork:
            index, gate, links = self._take() or (0, _gate(), [])
            if index + 1 < parties:
                mine, theirs = _pair()
                links.append(mine)
                descriptors = [end.fileno() for end in (*gate, theirs)]
                count = (index + 1).to_bytes(4, "big")
                self._sender.sendmsg([count], rights(*descriptors), SEND_FLAGS)
                theirs.close()
            return Round(index, gate, links)

    def clear(self) -> None:
        """Break the round that lies here, if any, and leave the slot empty."""
        with no_fork:
            found = self._take()
        if found:
            round_ = Round(*found)
            round_.give(BROKEN)
            round_.drop()

    def break_(self) -> None:
        """Break the round that lies here, and every later one until `clear`."""
        try:
            self.clear()
        finally:  # also if no descriptor is free for the round: it is taken out all the same
            self._sender.send(BROKEN, SEND_FLAGS)

    def _take(self) -> tuple[int, tuple[Handle, Handle], list[Handle]] | None:
        try:
            packet, descriptors = receive(self._receiver, 8, 3)
        except BlockingIOError:
            return None
        if packet == BROKEN:
            return None
        if len(descriptors) < 3:
            for fd in descriptors:
                os.close(fd)
            raise OSError("no free file descriptor for the barrier")
        gate_in, gate_out, link = map(Handle, descriptors)
        return int.from_bytes(packet, "big"), (gate_in, gate_out), [link]


def _pair() -> tuple[Handle, Handle]:
    one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    return Handle(one.detach()), Handle(other.detach())


_gate = _pair
