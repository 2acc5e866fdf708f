"""Packets through a socket pair: each sent and received whole, by any number of processes, without a lock.

Source: unix(7) (SOCK_SEQPACKET, SCM_RIGHTS), memfd_create(2), mmap(2).
"""

from __future__ import annotations

import array
import mmap
import os
import socket
import struct
from collections.abc import Callable, Sequence
from typing import Any, Final

from aioproc._kernel.handle import Handle
from aioproc._kernel.parcel import Parcel, unpack

PACKET_BYTES: Final = 64 * 1024  # what is longer travels in a memfd
SEND_BUFFER_BYTES: Final = 1 << 20
DESCRIPTORS_PER_PACKET: Final = 253  # SCM_MAX_FD

_PLAIN: Final = b"\0"
_WITH_MEMORY: Final = b"\1"
_COUNT: Final = struct.Struct("<I")
_LENGTH: Final = struct.Struct("<Q")

Opener = Callable[[Any, Sequence[Any], list[int]], Any]


class Channel:
    """One end of a packet channel; `send` and `receive` are attempts (see waiting.py)."""

    __slots__ = ("_socket", "handle")

    def __init__(self, handle: Handle) -> None:
        self.handle = handle
        self._socket: socket.socket | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        return Channel, (self.handle,)

    def send(self, parcel: Parcel) -> None:
        """Send one packet.

        Raises:
            BlockingIOError: The channel is full.
            BrokenPipeError: Nobody can receive any more.
        """
        packet, descriptors = _packet(parcel)
        with _borrowed(self.handle) as sock:
            if descriptors:
                rights = array.array("i", [handle.fileno() for handle in descriptors])
                ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)]
                sock.sendmsg([packet], ancillary, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
            else:
                sock.send(packet, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)

    def receive(self, opened: Opener = unpack) -> Any:
        """Receive one packet and open it.

        Args:
            opened: Called with the data, the buffers and the descriptors; it must close what it does not
                adopt. By default it unpickles them.

        Raises:
            BlockingIOError: Nothing is there.
            EOFError: Nothing is left and nobody can send any more.
        """
        with _borrowed(self.handle) as sock:
            packet, ancillary, flags, _ = sock.recvmsg(
                PACKET_BYTES + 4096,
                socket.CMSG_SPACE(4 * DESCRIPTORS_PER_PACKET),
                socket.MSG_DONTWAIT | socket.MSG_CMSG_CLOEXEC,
            )
        descriptors = _received(ancillary)
        if not packet:
            raise EOFError("nobody can send any more")
        if flags & socket.MSG_CTRUNC:
            for fd in descriptors:
                os.close(fd)
            raise OSError("no free file descriptor for what came with the message")
        return _opened(packet, descriptors, opened)

    def close(self) -> None:
        self.handle.close()


def channel() -> tuple[Channel, Channel]:
    """A new channel's two ends; either can send and receive."""
    left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for end in (left, right):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
    return Channel(Handle(left.detach())), Channel(Handle(right.detach()))


class _borrowed:
    """A socket object around a descriptor that stays ours."""

    def __init__(self, handle: Handle) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET, 0, handle.fileno())

    def __enter__(self) -> socket.socket:
        return self._socket

    def __exit__(self, *exc: object) -> None:
        self._socket.detach()


def _packet(parcel: Parcel) -> tuple[bytes, list[Handle]]:
    if not parcel.buffers and len(parcel.data) < PACKET_BYTES:
        return _PLAIN + parcel.data, list(parcel.handles)
    pieces: list[Any] = [parcel.data, *parcel.buffers]
    memory = Handle(os.memfd_create("aioproc", os.MFD_CLOEXEC))
    for piece in pieces:
        view = memoryview(piece).cast("B")
        while view:
            view = view[os.write(memory.fileno(), view) :]
    lengths = b"".join(_LENGTH.pack(memoryview(piece).nbytes) for piece in pieces)
    return _WITH_MEMORY + lengths, [memory, *parcel.handles]


def _opened(packet: bytes, descriptors: list[int], opened: Opener) -> Any:
    if packet[:1] == _PLAIN:
        return opened(memoryview(packet)[1:], (), descriptors)
    memory = Handle(descriptors.pop(0))
    whole = memoryview(mmap.mmap(memory.fileno(), 0, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE))
    pieces, start = [], 0
    for (length,) in _LENGTH.iter_unpack(packet[1:]):
        pieces.append(whole[start : start + length])
        start += length
    return opened(pieces[0], pieces[1:], descriptors)


def _received(ancillary: list[tuple[int, int, bytes]]) -> list[int]:
    descriptors = array.array("i")
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            descriptors.frombytes(data[: len(data) - len(data) % descriptors.itemsize])
    return list(descriptors)
