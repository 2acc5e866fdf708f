"""Packets through a socket pair: each sent and received whole, by any number of processes, without a lock.

Source: unix(7) (SOCK_SEQPACKET, SCM_RIGHTS, SO_PEEK_OFF), ioctl_list(2) (FIONREAD).
"""

from __future__ import annotations

import errno
import fcntl
import socket
import struct
import termios
from collections import deque
from collections.abc import Sequence
from functools import partial
from pickle import loads
from time import monotonic
from typing import Any, Final

from aioproc._kernel import bundle, memory
from aioproc._kernel.handle import Handle
from aioproc._kernel.parcel import PACKET_BYTES, Packed, Parcel, unpack
from aioproc._kernel.rights import RECEIVE_FLAGS, SEND_FLAGS, TOO_MANY, rights
from aioproc._kernel.waiting import in_thread

SEND_BUFFER_BYTES: Final = 1 << 20

_PICKLE: Final = 0x80  # a packet that begins so is a pickle and nothing else; else these flags:
_MEMORY: Final = 1
_BUNDLE: Final = 2
_RAW: Final = 4
_HEAD: Final = struct.Struct("<BI")  # flags, number of descriptors of the object
_LENGTH: Final = struct.Struct("<Q")
_ROOM_FOR_RIGHTS: Final = socket.CMSG_SPACE(4 * (bundle.DIRECT_DESCRIPTORS + 2))
_SO_PEEK_OFF: Final = 42
_TRUNCATED: Final = int(socket.MSG_CTRUNC)  # as a plain number, which costs a microsecond less

Arrival = tuple[bytearray, int, list[int]]  # a packet that was received and not yet opened

_buffers: list[bytearray] = []


class Crowded(OSError):
    """Too many descriptors of this user are on their way, in this channel or others; nothing was sent.

    The channel may be writable all the same, so it is no use to wait for that.
    """

    def __init__(self) -> None:
        super().__init__(errno.ETOOMANYREFS, TOO_MANY)


class Unopened(Exception):
    """A packet was received and is not opened.

    Attributes:
        arrival: The packet, if it is more than a pickle.
        failure: What the unpickling raised, if it is not.
    """

    def __init__(self, arrival: Arrival | None, failure: BaseException | None = None) -> None:
        self.arrival = arrival
        self.failure = failure


class Channel:
    """One end of a packet channel; `send` and `receive` are attempts (see waiting.py)."""

    __slots__ = ("__weakref__", "_kept", "handle")

    def __init__(self, handle: Handle) -> None:
        self.handle = handle
        self._kept: deque[Arrival] = deque()

    def __reduce__(self) -> tuple[Any, ...]:
        return Channel, (self.handle,)

    def send(self, packed: Packed, tail: Handle | None = None) -> None:
        """Send one packet, with ``tail`` as the last of its descriptors.

        Raises:
            BlockingIOError: The channel is full.
            Crowded: Too many descriptors are on their way.
            BrokenPipeError: Nobody can receive any more.
            OSError: No descriptor is free for what must go along; nothing was sent.
        """
        try:
            if tail is None and isinstance(packed, bytes):
                (self.handle.view or self.handle.socket()).send(packed, SEND_FLAGS)
                return
            pieces, tails = seal(packed), () if tail is None else (tail,)
            own = () if isinstance(packed, bytes) else _own(packed)
            along = [handle.fileno() for handle in (*own, *tails)]
            self.handle.socket().sendmsg(pieces, rights(*along) if along else (), SEND_FLAGS)
        except ConnectionResetError:  # said once, if the other end was closed with something unread
            self.send(packed, tail)
        except OSError as error:
            if error.errno == errno.ETOOMANYREFS:
                raise Crowded from None
            raise

    def receive(self) -> Any:
        """Receive one packet and unpickle it; see `pull` for errors."""
        arrival = self.pull()
        if arrival[2]:
            self.admit(arrival)
        return opened(arrival)

    def pull(self) -> Arrival:
        """Receive one packet, to be opened later.

        Raises:
            BlockingIOError: Nothing is there.
            EOFError: Nothing is left and nobody can send any more.
            OSError: No descriptor is free for what may come along; nothing was taken.
        """
        return self.fetch(opens=False)  # type: ignore[no-any-return]

    def fetch(self, opens: bool = True) -> Any:
        """Receive one packet and open it, if it is a pickle and nothing else; see `pull` for what it raises.

        One function for both, in which the usual packet meets no call and no object that it can do without:
        that would be a tenth of a queue's get.

        Raises:
            Unopened: It is more, or could not be unpickled.
        """
        if self._kept:
            return _given(self._kept.popleft(), opens)
        if monotonic() >= bundle.free_until:
            bundle.need_free()
        sock = self.handle.view or self.handle.socket()
        buffer = _buffers.pop() if _buffers else bytearray(PACKET_BYTES + 64)
        try:
            nbytes, ancillary, flags, _ = sock.recvmsg_into((buffer,), _ROOM_FOR_RIGHTS, RECEIVE_FLAGS)
        except ConnectionResetError:  # see `send`; what the other end had sent comes after it
            _buffers.append(buffer)
            return self.fetch(opens)
        except BaseException:
            _buffers.append(buffer)
            raise
        if opens and not ancillary and nbytes and buffer[0] == _PICKLE and not flags & _TRUNCATED:
            try:
                return loads(buffer)
            except BaseException as failure:
                raise Unopened(None, failure) from None
            finally:
                _buffers.append(buffer)
        descriptors = bundle.received(ancillary) if ancillary else []
        if flags & _TRUNCATED:
            bundle.close_all(descriptors)
            raise OSError(errno.EMFILE, "no free file descriptor for what came with the message")
        if not nbytes:
            _buffers.append(buffer)
            raise EOFError("nobody can send any more")
        return _given((buffer, nbytes, descriptors), opens)

    def keep(self, arrival: Arrival) -> None:
        """Put a packet back in front: the next `pull` of this process gets it."""
        self._kept.appendleft(arrival)

    def inherit(self, other: Channel) -> None:
        """What another object for the same end has put back, which is forgotten; whoever waits is woken."""
        self._kept += other._kept
        other._kept.clear()
        self.handle.wake()

    def admit(self, arrival: Arrival) -> None:
        """See to it that there is room for all that is in its bundle; OSError if not, and it is kept."""
        head = arrival[0]
        if head[0] != _PICKLE and head[0] & _BUNDLE:
            try:
                bundle.highest_free(_HEAD.unpack_from(head)[1])
            except OSError:
                self.keep(arrival)
                raise

    def send_end(self) -> None:
        """Let nobody send any more, in any process; what was sent can still be received."""
        try:
            self.handle.socket().shutdown(socket.SHUT_RDWR)
        except OSError as error:
            if error.errno != errno.ENOTCONN:
                raise

    @property
    def kept(self) -> int:
        """How many packets this process has received and put back."""
        return len(self._kept)

    @property
    def waiting_bytes(self) -> int:
        """How many bytes the kernel has for us; each packet has at least one."""
        return int.from_bytes(fcntl.ioctl(self.handle.fileno(), termios.FIONREAD, b"\0\0\0\0"), "little")

    @property
    def unread(self) -> bool:
        """Whether something that was sent from this end has not been received."""
        return any(fcntl.ioctl(self.handle.fileno(), termios.TIOCOUTQ, b"\0\0\0\0"))

    def count(self) -> int:
        """How many packets the kernel has for us; one process at a time may count."""
        sock = self.handle.socket()
        buffer = bytearray(PACKET_BYTES + 64)
        sock.setsockopt(socket.SOL_SOCKET, _SO_PEEK_OFF, 0)
        found = 0
        try:
            while sock.recv_into(buffer, 0, socket.MSG_DONTWAIT | socket.MSG_PEEK):
                found += 1
        except BlockingIOError:
            pass
        return found

    def close(self) -> None:
        """Close this end in this process."""
        self.forget()
        self.handle.close()

    def forget(self) -> None:
        """Let go of what was put back."""
        while self._kept:
            bundle.close_all(self._kept.popleft()[2])

    def __del__(self) -> None:
        self.close()


def _given(arrival: Arrival, opens: bool) -> Arrival:
    if opens:
        raise Unopened(arrival)
    return arrival


def crowded(handle: Handle) -> bool:
    """Whether this user has too many descriptors on their way; tried with one, in a channel of its own."""
    ends = channel()
    along = rights(handle.fileno())
    try:
        ends[0].handle.socket().sendmsg([b"?"], along, SEND_FLAGS)
    except OSError as error:
        return error.errno == errno.ETOOMANYREFS
    return False


def channel() -> tuple[Channel, Channel]:
    """A new channel's two ends; either can send and receive."""
    left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for end in (left, right):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
    return Channel(Handle(left.detach())), Channel(Handle(right.detach()))


def seal(packed: Packed) -> Sequence[bytes]:
    """Make the packet; what is too long for one is copied into a file in memory here."""
    if isinstance(packed, bytes):
        return [packed]
    if packed.packet is None:
        packed.packet = _whole(packed)
    return packed.packet


def _own(parcel: Parcel) -> Sequence[Handle]:
    """The descriptors of the object; many become one here that stands for them."""
    if len(parcel.rights) > bundle.DIRECT_DESCRIPTORS:
        parcel.rights = [bundle.filled(parcel.ends or bundle.empty(), parcel.rights)]
    return parcel.rights


def hold(packed: Packed) -> None:
    """Make the packet, and independent of the object: this may change or be closed before it is sent."""
    seal(packed)
    if not isinstance(packed, bytes):
        packed.hold()
        if len(packed.rights) > bundle.DIRECT_DESCRIPTORS:
            packed.ends = packed.ends or bundle.empty()  # later none may be free


async def sealed_in_loop(parcel: Parcel) -> None:
    """The same; if much must be copied, a thread does that."""
    if parcel.packet is None and parcel.nbytes > memory.IN_THREAD_BYTES:
        await in_thread(partial(seal, parcel))


def raw(data: Any) -> Parcel:
    """Bytes as they are, for `opened_bytes` on the other side."""
    parcel = Parcel((data,))
    parcel.flags = _RAW
    return parcel


def _whole(parcel: Parcel) -> Sequence[bytes]:
    flags = parcel.flags
    along: list[Handle] = list(parcel.handles)
    if parcel.buffers or sum(map(len, parcel.pieces)) > PACKET_BYTES:
        flags |= _MEMORY
        file, lengths = memory.stored(parcel.pieces, parcel.buffers)
        along.insert(0, file)
        body: Sequence[bytes] = [b"".join(map(_LENGTH.pack, lengths))]  # sendmsg takes 1024 pieces
        parcel.pieces = parcel.buffers = ()
    else:
        body = [bytes(piece) for piece in parcel.pieces]  # itself, unless it could still change
    if len(along) > bundle.DIRECT_DESCRIPTORS:
        flags |= _BUNDLE
    parcel.rights = along
    return body if not flags else [_HEAD.pack(flags, len(along)), *body]


def heavy(arrival: Arrival) -> bool:
    """Whether opening it would hold up a loop."""
    buffer, nbytes, _ = arrival
    if buffer[0] == _PICKLE or not buffer[0] & _MEMORY:
        return False
    return memory.is_heavy(_lengths(memoryview(buffer)[_HEAD.size : nbytes]))


def opened(arrival: Arrival) -> Any:
    """The object that was received; whatever it raises while it is unpickled."""
    buffer, _, descriptors = arrival
    if buffer[0] == _PICKLE:
        try:
            return unpack(buffer, (), descriptors) if descriptors else loads(buffer)
        finally:
            _buffers.append(buffer)
    flags, body = _unbundled(arrival)
    if flags & _MEMORY:
        return memory.opened(Handle(descriptors.pop(0)), _lengths(body), descriptors)
    return unpack(body, (), descriptors)


def _lengths(body: Any) -> list[int]:
    return [length for (length,) in _LENGTH.iter_unpack(body)]


def opened_bytes(arrival: Arrival) -> bytes:
    """The bytes that were received, whether `raw` or the pickle of an object."""
    buffer, nbytes, descriptors = arrival
    if buffer[0] == _PICKLE:
        data = bytes(memoryview(buffer)[:nbytes])
        _buffers.append(buffer)
    else:
        flags, data = _unbundled(arrival)
        if flags & _MEMORY:
            file = Handle(descriptors.pop(0))
            data = memory.read(file, _LENGTH.unpack_from(data)[0])
    bundle.close_all(descriptors)
    return data


def length(arrival: Arrival) -> int:
    """How many bytes `opened_bytes` would return."""
    buffer, nbytes, _ = arrival
    if buffer[0] == _PICKLE:
        return nbytes
    if buffer[0] & _MEMORY:
        return int(_LENGTH.unpack_from(buffer, _HEAD.size)[0])
    return nbytes - _HEAD.size


def drop(arrival: Arrival) -> None:
    """Let go of a packet and all that came with it."""
    _buffers.append(arrival[0])
    bundle.close_all(arrival[2])


def take_tail(arrival: Arrival) -> Handle:
    """The last descriptor of a packet, which its sender gave to `send`; this process's alone."""
    return Handle(arrival[2].pop(), forks=False)


def _unbundled(arrival: Arrival) -> tuple[int, bytes]:
    """Flags and body; the arrival's descriptors are replaced by those that the bundle holds."""
    buffer, nbytes, descriptors = arrival
    flags, count = _HEAD.unpack_from(buffer)
    body = bytes(memoryview(buffer)[_HEAD.size : nbytes])
    if flags & _BUNDLE:
        descriptors[:] = bundle.unbundled(descriptors.pop(0), count)
    _buffers.append(buffer)
    return flags, body
