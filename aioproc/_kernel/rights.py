"""Descriptors in packets: attempts to send and receive them.

Source: unix(7) (SCM_RIGHTS, ETOOMANYREFS), recvmsg(2) (MSG_CMSG_CLOEXEC, MSG_CTRUNC).
"""

from __future__ import annotations

import errno
import socket
import struct
from functools import cache
from socket import SCM_RIGHTS, SOL_SOCKET, SocketType
from typing import Final, TypeAlias

Rights: TypeAlias = list[tuple[int, int, bytes]]
Received: TypeAlias = tuple[bytes, tuple[int, ...]]

INT: Final = struct.Struct("i")
ONE: Final = socket.CMSG_SPACE(INT.size)
SEND_FLAGS: Final = int(socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
TOO_MANY: Final = "this user has too many descriptors in flight (ulimit -n)"
RECEIVE_FLAGS: Final = int(socket.MSG_DONTWAIT | socket.MSG_CMSG_CLOEXEC)


@cache
def _ints(count: int) -> struct.Struct:
    return struct.Struct(f"{count}i")


@cache
def _space(count: int) -> int:
    return socket.CMSG_SPACE(INT.size * count)


def rights(*descriptors: int) -> Rights:
    """Descriptors as what `sendmsg` takes."""
    return [(SOL_SOCKET, SCM_RIGHTS, _ints(len(descriptors)).pack(*descriptors))]


def descriptors_in(data: bytes) -> tuple[int, ...]:
    """What `recvmsg` gives as the data of SCM_RIGHTS, as numbers."""
    return _ints(len(data) // INT.size).unpack(data)


def explained(error: OSError) -> OSError:
    """The error of a send; where the kernel's words say little, ours."""
    if error.errno != errno.ETOOMANYREFS:
        return error
    return OSError(errno.ETOOMANYREFS, TOO_MANY)


def receive(view: SocketType, length: int, most: int, flags: int = 0) -> Received:
    """Receive a packet and its descriptors; fewer come than were sent when this process has none free.

    Raises:
        BlockingIOError: Nothing is there.
    """
    packet, ancillary, _, _ = view.recvmsg(length, _space(most), RECEIVE_FLAGS | flags)
    return packet, descriptors_in(ancillary[0][2]) if ancillary else ()
