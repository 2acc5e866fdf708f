"""A channel as a pool and its worker use it: what it carries is addressed (see wire.py).

Source: recvmsg(2) (MSG_CTRUNC).
"""

from __future__ import annotations

import socket
from typing import Any, Final

from aioproc._kernel import bundle, channel
from aioproc._kernel.handle import Handle
from aioproc._kernel.parcel import PACKET_BYTES
from aioproc._kernel.rights import RECEIVE_FLAGS, SEND_FLAGS
from aioproc._kernel.wire import Kind, Letter, Mail, Message, buffers, signal_of

_ROOM_FOR_RIGHTS: Final = socket.CMSG_SPACE(4 * (bundle.DIRECT_DESCRIPTORS + 2))
_TRUNCATED: Final = int(socket.MSG_CTRUNC)
_LETTER_FOLLOWS: Final = signal_of(Kind.LETTER_FOLLOWS)


class Post:
    """One end of a channel of addressed messages; `send` and `receive` are attempts (see waiting.py).

    Unlike a queue's channel it does not look for free descriptors before it receives: a message says whose it
    is even when the kernel has dropped what came along, so this fails one task and costs the others nothing.

    To receive with room for descriptors takes a third longer. Where each end has one reader, and both are
    made as ``announced``, a signal goes before every letter, and only what follows one is received so.
    """

    __slots__ = ("_announced", "_channel", "_with_rights", "handle")

    def __init__(self, end: channel.Channel, announced: bool = False) -> None:
        self._channel = end
        self._announced = announced
        self._with_rights = True  # a child that cannot begin announces nothing
        self.handle: Handle = end.handle

    def __reduce__(self) -> tuple[Any, ...]:
        return Post, (self._channel, self._announced)

    def send(self, mail: Mail) -> None:
        """Send one message.

        Raises:
            BlockingIOError: The channel is full.
            BrokenPipeError: Nobody can receive any more.
            OSError: No descriptor is free for what must go along, or too many are on their way.
        """
        if not isinstance(mail, Letter):
            try:
                (self.handle.view or self.handle.socket()).send(mail, SEND_FLAGS)
            except ConnectionResetError:  # as in `Channel.send`
                self.send(mail)
            return
        mail.seal()
        if self._announced:
            self.send(_LETTER_FOLLOWS)
        self._channel.send(mail.parcel)

    def receive(self) -> Message:
        """Receive one message.

        Raises:
            BlockingIOError: Nothing is there.
            EOFError: Nothing is left and nobody can send any more.
        """
        buffer = buffers.pop() if buffers else bytearray(PACKET_BYTES + 64)
        sock = self.handle.view or self.handle.socket()
        try:
            if self._with_rights:
                nbytes, ancillary, flags, _ = sock.recvmsg_into((buffer,), _ROOM_FOR_RIGHTS, RECEIVE_FLAGS)
            else:
                nbytes, ancillary, flags = sock.recv_into(buffer, 0, RECEIVE_FLAGS), [], 0
        except ConnectionResetError:  # as in `Channel.fetch`
            buffers.append(buffer)
            return self.receive()
        except BaseException:
            buffers.append(buffer)
            raise
        if not nbytes:
            buffers.append(buffer)
            raise EOFError("nobody can send any more")
        descriptors = bundle.received(ancillary) if ancillary else []
        message = Message(buffer, nbytes, descriptors, flags & _TRUNCATED != 0)
        if self._announced:
            self._with_rights = message.kind == Kind.LETTER_FOLLOWS
            if self._with_rights:
                message.drop()
                return self.receive()
        return message

    def close(self) -> None:
        """Close this end in this process."""
        self._channel.close()
