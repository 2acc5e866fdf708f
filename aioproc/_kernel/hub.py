"""The hub of a meeting: a small process that hands the table of names to whoever comes, and knows no name.

It says what it is there for with packets of fixed text and descriptors; nothing that it receives is
unpickled or parsed. It ends when nobody is connected and nobody is on the roll. docs/design/meeting.md.

Source: unix(7) (SO_PEERCRED, SCM_RIGHTS), fifo(7), flock(2), epoll(7).
"""

from __future__ import annotations

import errno
import fcntl
import os
import resource
import select
import signal
import socket
import stat
import struct
import time
from collections.abc import Callable
from typing import Final, Literal

from aioproc._kernel import bundle, names
from aioproc._kernel.names import Names
from aioproc._kernel.rights import RECEIVE_FLAGS, SEND_FLAGS, rights

HELLO: Final = b"aioproc 1 hello"  # a newcomer
BRING: Final = b"aioproc 1 names"  # an old member, with the table of names
ASIDE: Final = b", no place on the roll"  # after either: of a member that nobody should wait for
WELCOME: Final = b"aioproc 1 welcome"  # from the hub, with the table of names and a place on the roll
REFUSED: Final = b"!"  # from the hub, with the reason
ROLL: Final = ".members"  # the roll's file name is the socket's and this
SILENT_SECONDS: Final = 10.0
_BATCH: Final = 64
_MOST_DESCRIPTORS: Final = 1 << 16

Word = Literal["hello", "bring", "rubbish"]


def peer_uid(sock: socket.socket) -> int:
    """The user that the other end belongs to."""
    size = struct.calcsize("3i")
    return int(struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size))[1])


def vacant(roll: int) -> bool:
    """Whether nobody has the roll open for writing."""
    try:
        return os.read(roll, 1) == b""
    except BlockingIOError:
        return False


def understood(packet: bytes, descriptors: list[int]) -> Word:
    """What somebody says who has not spoken before."""
    word = packet.removesuffix(ASIDE)
    if word == HELLO and not descriptors:
        return "hello"
    if word == BRING and names.fits(descriptors):
        return "bring"
    return "rubbish"


class Peer:
    """A connection: silent at first, then waiting for its welcome, then a member."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.state: Literal["silent", "waiting", "member"] = "silent"
        self.on_roll = True
        self.deadline = time.monotonic() + SILENT_SECONDS


class Hub:
    """What the process does; `run` returns when the last has left.

    Args:
        path: Of the socket; it and the roll are removed at the end.
        listener: The socket, listening.
        roll: A reading end of the roll, a fifo of which every member holds a writing end.
        uid_of: Tells whose a connection is.
    """

    def __init__(
        self, path: str, listener: socket.socket, roll: int, uid_of: Callable[[socket.socket], int] = peer_uid
    ) -> None:
        self.path, self.roll = path, roll
        self._listener, self._uid_of = listener, uid_of
        self._socket_file = _file(path)
        self._names: Names | None = None
        self._peers: dict[int, Peer] = {}
        self._spare = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
        self._epoll = select.epoll()
        listener.setblocking(False)
        self._epoll.register(listener.fileno(), select.EPOLLIN)
        self._epoll.register(roll, select.EPOLLIN | select.EPOLLET)  # hangs up when the last has left it

    def run(self) -> None:
        self._accept()
        while True:
            self._settle()
            if self._peers or not vacant(self.roll):
                self._wait()
            elif self._ended():
                return

    def _wait(self) -> None:
        for fd, _ in self._epoll.poll(self._patience()):
            if fd == self._listener.fileno():
                self._accept()
            elif fd in self._peers:
                self._hear(self._peers[fd])

    def close(self) -> None:
        """Close everything, and leave the files."""
        for peer in list(self._peers.values()):
            self._drop(peer)
        if self._names is not None:
            self._names.close()
        self._epoll.close()
        self._listener.close()
        os.close(self._spare)

    def _patience(self) -> float | None:
        waiting = [peer.deadline for peer in self._peers.values() if peer.state == "silent"]
        return max(0.0, min(waiting) - time.monotonic()) if waiting else None

    def _accept(self) -> int:
        for number in range(_BATCH):
            try:
                sock, _ = self._listener.accept()
            except BlockingIOError:
                return number
            except OSError as error:
                if error.errno not in (errno.EMFILE, errno.ENFILE):
                    continue  # it has gone again
                self._turn_away()
                continue
            self._admit(sock)
        return _BATCH

    def _turn_away(self) -> None:
        os.close(self._spare)
        try:
            sock, _ = self._listener.accept()
            _refuse(sock, "the hub has no free file descriptor (ulimit -n)")
            sock.close()
        except OSError:
            pass
        finally:
            self._spare = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)

    def _admit(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        if self._uid_of(sock) != os.geteuid():
            _refuse(sock, "another user's meeting")
            sock.close()
            return
        peer = self._peers[sock.fileno()] = Peer(sock)
        self._epoll.register(sock.fileno(), select.EPOLLIN)
        self._hear(peer)

    def _hear(self, peer: Peer) -> None:
        room = socket.CMSG_SPACE(4 * (names.DESCRIPTORS + 1))
        try:
            packet, ancillary, _, _ = peer.sock.recvmsg(len(BRING + ASIDE) + 1, room, RECEIVE_FLAGS)
        except BlockingIOError:
            return
        except OSError:
            self._drop(peer)
            return
        descriptors = bundle.received(ancillary)
        word = understood(packet, descriptors) if peer.state == "silent" else "rubbish"
        if word == "bring" and self._names is None:
            self._names, descriptors = Names(descriptors), []
        bundle.close_all(descriptors)
        if word == "rubbish":  # so is the end
            self._drop(peer)
        else:
            peer.state, peer.on_roll = "waiting", not packet.endswith(ASIDE)

    def _settle(self) -> None:
        """Drop who is silent for too long, welcome who can be welcomed."""
        now = time.monotonic()
        for peer in list(self._peers.values()):
            if peer.state == "silent" and peer.deadline <= now:
                self._drop(peer)
        waiting = [peer for peer in self._peers.values() if peer.state == "waiting"]
        if waiting and self._names is None and vacant(self.roll):
            self._names = Names()  # nobody is there any more who could bring one
        if self._names is not None:
            for peer in waiting:
                self._welcome(peer, self._names)

    def _welcome(self, peer: Peer, table: Names) -> None:
        try:
            place = os.open(f"/proc/self/fd/{self.roll}", os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            try:
                along = [handle.fileno() for handle in table.handles]
                along += [place] if peer.on_roll else []
                peer.sock.sendmsg([WELCOME], rights(*along), SEND_FLAGS)
                peer.state = "member"
            finally:
                os.close(place)
        except OSError as error:
            _refuse(peer.sock, f"the hub cannot send what a member needs: {error.strerror}")
            self._drop(peer)

    def _drop(self, peer: Peer) -> None:
        self._epoll.unregister(peer.sock.fileno())
        del self._peers[peer.sock.fileno()]
        peer.sock.close()

    def _ended(self) -> bool:
        """Whether nobody is there and nobody comes; the files are gone then."""
        fcntl.flock(self.roll, fcntl.LOCK_EX)  # who wants to start a hub waits until the files are gone
        try:
            if self._accept() or self._peers or not vacant(self.roll):
                return False
            for name, mine in ((self.path, self._socket_file), (self.path + ROLL, names.identity(self.roll))):
                if _file(name) == mine:
                    os.unlink(name)
            return True
        finally:
            fcntl.flock(self.roll, fcntl.LOCK_UN)


def _file(name: str) -> tuple[int, int] | None:
    try:
        found = os.lstat(name)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _refuse(sock: socket.socket, reason: str) -> None:
    try:
        sock.recv(1, RECEIVE_FLAGS)  # closed with this unread, it would be reset and hear nothing
    except OSError:
        pass
    try:
        sock.send(REFUSED + reason.encode(), SEND_FLAGS)
    except OSError:
        pass


def main(path: str, listener: str, roll: str) -> None:
    """Be the hub, in the background: the caller's process ends at once."""
    if os.fork():
        os._exit(0)  # so that whoever started us has no child
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGURG):
        signal.signal(number, signal.SIG_IGN)
    os.dup2(1, 2)  # whoever started us waits for the end of what we may complain
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, _MOST_DESCRIPTORS), hard))
    for fd in (int(listener), int(roll)):
        os.set_inheritable(fd, False)
    assert stat.S_ISFIFO(os.fstat(int(roll)).st_mode)
    Hub(path, socket.socket(fileno=int(listener)), int(roll)).run()
