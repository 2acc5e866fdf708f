"""A ticket in a line: one end of its owner's private socket, and a receipt that tells when it is gone.

Source: unix(7) (SCM_RIGHTS), poll(2).
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from socket import SocketType  # without the Python layer that `socket.socket` puts around it
from typing import Final

from aioproc._kernel.bundle import close_all
from aioproc._kernel.forks import no_fork
from aioproc._kernel.rights import SEND_FLAGS, receive, rights
from aioproc._kernel.watch import hung_up

TICKET: Final = b"t"


class Ticket:
    """A ticket that was taken out of a line; whoever took it must use it or `close` it.

    Args:
        end: The other end of the owner's private socket.
        receipt: A writing end; while one is open, the owner has a ticket somewhere.
        heirs: The line of a Condition that the ticket was notified from: if its owner has died, the
            notification goes to the next one there.
    """

    __slots__ = ("_descriptors",)

    def __init__(self, end: int, receipt: int, heirs: int | None = None) -> None:
        self._descriptors = [end, receipt] if heirs is None else [end, receipt, heirs]

    def redeem(self, packet: bytes, token: int) -> bool:
        """Send the token, and the receipt, to the owner; False when it and all its heirs have died or left.

        Args:
            packet: What is sent.
            token: The descriptor of the token.
        """
        end = SocketType(socket.AF_UNIX, socket.SOCK_SEQPACKET, 0, self._descriptors[0])
        try:
            end.sendmsg([packet], rights(token, self._descriptors[1]), SEND_FLAGS)
        except (BrokenPipeError, ConnectionResetError):
            return self._succeeded() and self.redeem(packet, token)
        finally:
            end.detach()
        self.close()
        return True

    def put(self, line: socket.socket) -> bool:
        """Put it at the end of a line; False when its owner and all heirs have died or left.

        Without room it is closed: its owner sees that it is gone, and stands in line himself.
        """
        if hung_up(self._descriptors[0]):
            return self._succeeded() and self.put(line)
        try:
            line.sendmsg([TICKET], rights(*self._descriptors), SEND_FLAGS)
        except BlockingIOError:
            pass
        finally:
            self.close()
        return True

    def inherit(self, heirs: int) -> None:
        """Note the line that the notification goes to if the owner has died.

        Raises:
            OSError: No free file descriptor; the ticket is closed: its owner sees that, and asks himself.
        """
        try:
            self._descriptors.append(os.dup(heirs))
        except OSError:
            self.close()
            raise

    def _succeeded(self) -> bool:
        """Become the next heir's ticket; False, and closed, when there is none."""
        if len(self._descriptors) < 3:
            self.close()
            return False
        line = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET, 0, self._descriptors.pop())
        self.close()
        heir = next_ticket(line)
        if heir is None:
            line.close()
            return False
        self._descriptors = [*heir._descriptors, line.detach()]
        return True

    def close(self) -> None:
        while self._descriptors:
            os.close(self._descriptors.pop())


def next_ticket(line: socket.socket, make: Callable[..., Ticket] = Ticket) -> Ticket | None:
    """Take the oldest ticket; None when nobody stands in the line.

    Args:
        line: The end that receives tickets.
        make: Makes one of its descriptors.
    """
    while True:
        try:
            _, descriptors = receive(line, 1, 3)
        except BlockingIOError:
            return None
        if len(descriptors) >= 2:
            return make(*descriptors)
        close_all(descriptors)  # none free for it: its owner sees the receipt hang up, and asks again


def take_out_the_gone(
    front: socket.socket, back: socket.socket, count: int, make: Callable[..., Ticket] = Ticket
) -> None:
    """Take so many tickets out of a line, and put back those whose owners are not gone.

    Args:
        front: The end that receives tickets.
        back: The end that sends them.
        count: How many stand in the line.
        make: Makes a ticket of its descriptors.
    """
    with no_fork:
        for _ in range(count):
            ticket = next_ticket(front, make)
            if ticket is not None:
                ticket.put(back)
