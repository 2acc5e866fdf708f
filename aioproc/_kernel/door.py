"""The way to the hub of a meeting: connect to the one that is there, or be the one that starts it.

Whoever finds nobody takes the flock of the roll, and looks again; so one process listens, whoever else
comes gets into its queue, and the hub that it starts inherits the socket with all who wait in it.

Source: unix(7) (SO_PEERCRED), flock(2), fifo(7), connect(2).
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import stat
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from aioproc._kernel.bundle import close_all
from aioproc._kernel.forks import no_fork
from aioproc._kernel.handle import Handle
from aioproc._kernel.hub import ROLL, peer_uid, vacant
from aioproc._kernel.names import identity

PATH_BYTES: Final = 107  # of struct sockaddr_un, without the zero at its end
_WAITING: Final = 4096
_CODE: Final = (
    "import sys; sys.path.append(sys.argv[1]); from aioproc._kernel.hub import main; main(*sys.argv[2:])"
)


def check(path: str) -> None:
    """OSError that says why a path cannot be a meeting's."""
    length = len(os.fsencode(path))
    if length > PATH_BYTES:
        message = f"a socket's path has at most {PATH_BYTES} bytes, not {length}"
        raise OSError(errno.ENAMETOOLONG, message, path)
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        folder = os.path.dirname(path)
        if not os.path.isdir(folder):
            raise FileNotFoundError(errno.ENOENT, "there is no such folder", folder) from None
        return
    if not stat.S_ISSOCK(found.st_mode):
        raise FileExistsError(errno.EEXIST, "there is something that is no socket", path)
    if found.st_uid != os.geteuid():
        raise PermissionError(errno.EPERM, "another user's meeting", path)


def connected(path: str, *, wait: bool = False) -> Handle | None:
    """A connection to whoever listens; None when nobody does.

    Raises:
        BlockingIOError: Too many wait to be let in, and ``wait`` is False.
        OSError: Something else is there, or another user.
    """
    connection = _socket()
    try:
        if _connect(connection.socket(), path, wait):
            return connection
    except BaseException:
        connection.close()
        raise
    connection.close()
    return None


def _socket() -> Handle:
    """A socket of this process alone: with a copy of it, a forked child would pass for the hub, or for us."""
    with no_fork:
        return Handle(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET).detach(), forks=False)


def _connect(sock: socket.socket, path: str, wait: bool) -> bool:
    """See `connected`; False when nobody listens."""
    sock.setblocking(wait)
    try:
        sock.connect(path)
    except (FileNotFoundError, ConnectionRefusedError):
        return False
    except OSError as error:
        if error.errno is None:  # too long: `check` says so
            return False
        if error.errno == errno.EPROTOTYPE:
            raise FileExistsError(errno.EEXIST, "another program's socket is there", path) from error
        if isinstance(error, PermissionError):
            raise PermissionError(error.errno, "another user's meeting", path) from error
        raise
    if peer_uid(sock) != os.geteuid():
        raise PermissionError(errno.EPERM, "another user's meeting", path)
    sock.setblocking(True)
    return True


def entered(path: str) -> Handle:
    """A connection to the hub, which is started if there is none. May block for as long as that takes.

    Raises:
        OSError: The path cannot be a meeting's, or the hub could not be started.

    If a peer dies: Its flock is free and its socket refuses connections, so the next takes over.
    """
    while True:
        check(path)
        connection = connected(path, wait=True)
        if connection is not None:
            return connection
        with _elected(path) as roll:
            try:
                connection = connected(path)
            except BlockingIOError:  # one was started meanwhile, and many wait already
                continue
            return connection or _opened(path, roll)


@contextmanager
def _elected(path: str) -> Iterator[int]:
    """While inside, nobody else starts or ends a hub at the path; gives a reading end of the roll."""
    while True:
        roll = _roll(path)
        try:
            fcntl.flock(roll.fileno(), fcntl.LOCK_EX)
            if _is_there(path, roll.fileno()):
                yield roll.fileno()
                return
        finally:
            roll.close()


def _roll(path: str) -> Handle:
    name = path + ROLL
    while True:
        try:
            os.mkfifo(name, 0o600)
        except FileExistsError:
            pass
        except OSError as error:
            raise type(error)(error.errno, f"no meeting can be held here: {error.strerror}", path) from error
        try:
            with no_fork:  # a forked child would keep the lock
                opened = os.open(name, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
                roll = Handle(opened, forks=False)
        except FileNotFoundError:  # a hub that ended has removed it
            continue
        found = os.fstat(opened)
        if stat.S_ISFIFO(found.st_mode) and found.st_uid == os.geteuid():
            return roll
        roll.close()
        raise FileExistsError(errno.EEXIST, "there is something that is no roll of ours", name)


def _is_there(path: str, roll: int) -> bool:
    try:
        found = os.lstat(path + ROLL)
    except FileNotFoundError:
        return False
    return (found.st_dev, found.st_ino) == identity(roll)


def _opened(path: str, roll: int) -> Handle:
    """Listen, be the first to connect, and start the hub; for who is elected."""
    try:
        listener = _listening(path)
        try:
            connection = connected(path)
            assert connection is not None
            _start(path, listener, roll)
            return connection
        finally:
            listener.close()
    except BaseException:
        for name in (path, path + ROLL):
            if vacant(roll):
                try:
                    os.unlink(name)
                except OSError:
                    pass
        raise


def _listening(path: str) -> Handle:
    check(path)
    try:
        os.unlink(path)  # nobody listens there: a hub that was killed has left it
    except FileNotFoundError:
        pass
    listener = _socket()
    try:
        os.fchmod(listener.fileno(), 0o600)  # which the file gets, from its first moment
        listener.socket().bind(path)
        listener.socket().listen(_WAITING)
    except BaseException:
        listener.close()
        raise
    return listener


def _start(path: str, listener: Handle, roll: int) -> None:
    """Start the hub in a session of its own; its parent is not this process.

    Raises:
        OSError: It could not be started; the message says what it complained.
    """
    from multiprocessing.spawn import get_executable

    package = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    passed: list[int] = []
    with no_fork:  # until nobody but the hub has what is passed, and the end of what it may complain
        try:
            passed.append(_beyond_standard(os.dup(listener.fileno())))
            own = os.open(f"/proc/self/fd/{roll}", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            passed.append(_beyond_standard(own))  # ours has the flock
            starter = subprocess.Popen(
                [get_executable(), "-I", "-S", "-c", _CODE, package, path, *map(str, passed)],
                pass_fds=passed,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                start_new_session=True,
                cwd="/",
            )
        finally:
            close_all(passed)
    with starter:
        _, complaints = starter.communicate()
    if starter.returncode > 0:
        text = complaints.decode(errors="replace").strip()
        raise OSError(f"the hub of {path} could not be started: {text}")


def _beyond_standard(fd: int) -> int:
    """The same under a number that is no standard stream's, which this program may have closed."""
    try:
        return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3)
    finally:
        os.close(fd)
