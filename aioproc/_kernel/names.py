"""Names and what they stand for, kept by the kernel: packets with descriptors that anybody may look at.

A name is one packet, with the descriptors of its object, in the queue of a socket whose ends every member
of a meeting holds. To give a name is one send; to look one up is MSG_PEEK, which copies the descriptors and
leaves the packet. So names outlive every process but the last that holds the ends.

Source: unix(7) (SOCK_SEQPACKET, SCM_RIGHTS, SO_PEEK_OFF), flock(2), memfd_create(2).
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final, NamedTuple

from aioproc._kernel.forks import no_fork
from aioproc._kernel.handle import Handle, SocketView
from aioproc._kernel.rights import RECEIVE_FLAGS, SEND_FLAGS, explained, receive, rights

PAIRS: Final = 4  # each end of each is a queue; one takes some 550 names where wmem_max is 208 KiB
DESCRIPTORS: Final = 1 + 2 * PAIRS
QUEUE_BYTES: Final = 1 << 20
ENTRY_BYTES: Final = 8192
MOST_DESCRIPTORS: Final = 32  # of one object; a bounded JoinableQueue has 18

_MEMORY_NAME: Final = "aioproc names"
_SO_PEEK_OFF: Final = 42


class Entry(NamedTuple):
    """What a name stands for: a kind, its one number, and copies of the object's descriptors."""

    kind: str
    size: int
    descriptors: Sequence[int]


class Names:
    """A table of names.

    Args:
        descriptors: Of a table that exists: its lock file and its sockets; they are owned from now on.
    """

    def __init__(self, descriptors: Sequence[int] | None = None) -> None:
        made = _made() if descriptors is None else descriptors
        self.handles = [Handle(fd, forks=False) for fd in made]
        self._views = [SocketView(handle) for handle in self.handles[1:]]

    @property
    def identity(self) -> tuple[int, int]:
        """What tells this table from others, in every process."""
        return identity(self.handles[0].fileno())

    @property
    def closed(self) -> bool:
        return self.handles[0].closed

    @contextmanager
    def alone(self) -> Iterator[None]:
        """While inside, nobody else looks up or gives a name; whoever is inside makes no call that waits."""
        with no_fork:
            lock = os.open(f"/proc/self/fd/{self.handles[0].fileno()}", os.O_RDWR | os.O_CLOEXEC)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX)
                yield
            finally:
                os.close(lock)

    def find(self, name: str) -> Entry | None:
        """What a name stands for, for a caller that is `alone`; the descriptors are the caller's.

        Raises:
            OSError: No free file descriptor.
        """
        for view in self._views:
            view.setsockopt(socket.SOL_SOCKET, _SO_PEEK_OFF, 0)
            at = 0
            while packet := _peeked(view):
                if _read(packet)[0] == name:
                    return _entry(view, at)
                at += len(packet)
        return None

    def add(self, name: str, kind: str, size: int, handles: Sequence[Handle]) -> None:
        """Give a name that nobody has given, for a caller that is `alone`.

        Raises:
            OSError: The table is full, or the user has too many descriptors in flight; nothing was given.

        If a peer dies: The name is given or not, never half.
        """
        packet = json.dumps([name, kind, size]).encode()
        along = rights(*[handle.fileno() for handle in handles])
        for view in self._views:
            try:
                view.sendmsg([packet], along, SEND_FLAGS)
                return
            except BlockingIOError:
                pass
            except OSError as error:
                raise explained(error) from None
        raise OSError(errno.ENOSPC, "no more names fit into this meeting (net.core.wmem_max)")

    def close(self) -> None:
        for handle in self.handles:
            handle.close()


def fits(descriptors: Sequence[int]) -> bool:
    """Whether descriptors that somebody sent look like a table's."""
    if len(descriptors) != DESCRIPTORS:
        return False
    try:
        named = os.readlink(f"/proc/self/fd/{descriptors[0]}").startswith(f"/memfd:{_MEMORY_NAME}")
        return named and all(map(_is_packet_socket, descriptors[1:]))
    except OSError:
        return False


def identity(fd: int) -> tuple[int, int]:
    """What tells one open object of the kernel from another."""
    found = os.fstat(fd)
    return found.st_dev, found.st_ino


def _is_packet_socket(fd: int) -> bool:
    if not stat.S_ISSOCK(os.fstat(fd).st_mode):
        return False
    view = socket.socket(fileno=fd)
    try:
        return (view.family, view.type) == (socket.AF_UNIX, socket.SOCK_SEQPACKET)
    finally:
        view.detach()


def _made() -> list[int]:
    found = [os.memfd_create(_MEMORY_NAME, os.MFD_CLOEXEC)]
    for _ in range(PAIRS):
        for end in socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, QUEUE_BYTES)
            found.append(end.detach())
    return found


def _peeked(view: SocketView) -> bytes:
    """The packet at the socket's offset, which moves on; nothing at the end."""
    try:
        return view.recv(ENTRY_BYTES, RECEIVE_FLAGS | socket.MSG_PEEK)
    except BlockingIOError:
        return b""


def _read(packet: bytes) -> tuple[str, str, int]:
    try:
        name, kind, size = json.loads(packet)
    except ValueError:
        return "", "", 0
    return str(name), str(kind), size if isinstance(size, int) else -1


def _entry(view: SocketView, at: int) -> Entry:
    view.setsockopt(socket.SOL_SOCKET, _SO_PEEK_OFF, at)
    packet, descriptors = receive(view, ENTRY_BYTES, MOST_DESCRIPTORS, socket.MSG_PEEK)
    _, kind, size = _read(packet)
    return Entry(kind, size, descriptors)
