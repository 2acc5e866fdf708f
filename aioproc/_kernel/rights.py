"""Descriptors in packets: attempts to send and receive them.

Source: unix(7) (SCM_RIGHTS), recvmsg(2) (MSG_CMSG_CLOEXEC, MSG_CTRUNC).
"""

from __future__ import annotations

import socket
import struct
from array import array
from socket import SocketType
from typing import Final, TypeAlias

Rights: TypeAlias = list[tuple[int, int, bytes]]
Received: TypeAlias = tuple[bytes, tuple[int, ...]]

INT: Final = struct.Struct("i")
ONE: Final = socket.CMSG_SPACE(INT.size)
_FEW: Final = {count: struct.Struct(f"{count}i") for count in range(1, 4)}
SEND_FLAGS: Final = int(socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
_SPACES: Final = [socket.CMSG_SPACE(INT.size * most) for most in range(4)]
_SOCKET: Final = socket.SOL_SOCKET
_RIGHTS: Final = int(socket.SCM_RIGHTS)
RECEIVE_FLAGS: Final = int(socket.MSG_DONTWAIT | socket.MSG_CMSG_CLOEXEC)


def rights(*descriptors: int) -> Rights:
    """Descriptors as what `sendmsg` takes."""
    few = _FEW.get(len(descriptors))  # which is quicker than an array
    data = array("i", descriptors).tobytes() if few is None else few.pack(*descriptors)
    return [(_SOCKET, _RIGHTS, data)]


def receive(view: SocketType, length: int, most: int, flags: int = 0) -> Received:
    """Receive a packet and its descriptors; fewer come than were sent when this process has none free.

    Raises:
        BlockingIOError: Nothing is there.
    """
    space = _SPACES[most] if most < len(_SPACES) else socket.CMSG_SPACE(INT.size * most)
    packet, ancillary, _, _ = view.recvmsg(length, space, RECEIVE_FLAGS | flags)
    if not ancillary:
        return packet, ()
    data = ancillary[0][2]
    few = _FEW.get(len(data) // INT.size)
    return packet, tuple(memoryview(data).cast("i")) if few is None else few.unpack(data)
