"""Descriptors on their way in a packet: bundled when they are many, never dropped for want of room.

Source: unix(7) (SCM_RIGHTS, MSG_CTRUNC, ETOOMANYREFS), getrlimit(2) (RLIMIT_NOFILE), proc_pid_fd(5).
"""

from __future__ import annotations

import errno
import os
import resource
import socket
from collections.abc import Iterable, Sequence
from os import listdir, lstat
from time import monotonic
from typing import Final

from aioproc._kernel.handle import Handle
from aioproc._kernel.rights import RECEIVE_FLAGS, SEND_FLAGS, descriptors_in, rights

DIRECT_DESCRIPTORS: Final = 16  # more than these are bundled
_PER_MESSAGE: Final = 253  # SCM_MAX_FD
_CHECK_SECONDS: Final = 0.001
_SECONDS_EACH: Final = 1e-7  # nobody opens descriptors faster: a loop of os.dup() takes twice as long
_MARGIN: Final = 64

_limit = 0  # how many descriptors there may be, looked up once a millisecond
_limit_until = 0.0
free_until = 0.0  # by time.monotonic; until then there is room


def received(messages: Iterable[tuple[int, int, bytes]]) -> list[int]:
    """The descriptors that came along, as `recvmsg` tells."""
    global free_until
    free_until = 0.0
    found: list[int] = []
    for level, kind, data in messages:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            found += descriptors_in(data)
    return found


def close_all(descriptors: Iterable[int]) -> None:
    """Close what nobody adopted."""
    for fd in descriptors:
        if fd >= 0:
            os.close(fd)


def need_free() -> None:
    """See to it that a packet's descriptors will find room.

    Raises:
        OSError: They might not, and the kernel would drop them.
    """
    global _limit, _limit_until, free_until
    now = monotonic()
    if now < free_until:
        return
    if now >= _limit_until:
        _limit, _limit_until = resource.getrlimit(resource.RLIMIT_NOFILE)[0], now + _CHECK_SECONDS
    room = _limit - _open_descriptors()
    if room > _MARGIN:
        free_until = now + min(room * _SECONDS_EACH, _CHECK_SECONDS)
    else:
        highest_free(DIRECT_DESCRIPTORS + 2)


def half_are_free() -> bool:
    """Whether half of all descriptors that there may be are free, so that one may be taken for long."""
    return 2 * _open_descriptors() < resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def _open_descriptors() -> int:
    """How many there are; as many as there may be, if this cannot be told.

    The number of a new one does not tell: below it all are taken, but so may be most of those above.
    """
    try:
        return lstat("/proc/self/fd").st_size or len(listdir("/proc/self/fd"))  # the size since Linux 6.2
    except OSError:  # no /proc, or none is free
        return _limit


def highest_free(count: int, purpose: str = "what may come with a message") -> int:
    """The highest of the next ``count`` free descriptors; OSError when there are not so many."""
    taken: list[int] = []
    try:
        while len(taken) < count:
            taken.append(os.eventfd(0))
    except OSError as error:
        if error.errno == errno.EMFILE:
            raise OSError(errno.EMFILE, f"no free file descriptor for {purpose}") from error
        raise
    finally:
        close_all(taken)
    return taken[-1]


def empty() -> tuple[Handle, Handle]:
    """A socket pair for many descriptors: the end that takes them, and the one that then has them."""
    inside, outside = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    return Handle(inside.detach()), Handle(outside.detach())


def filled(ends: tuple[Handle, Handle], handles: Sequence[Handle]) -> Handle:
    """One descriptor that stands for many, which lie in an empty pair; if that fails, it is empty again."""
    inside, outside = ends
    for start in range(0, len(handles), _PER_MESSAGE):
        some = [handle.fileno() for handle in handles[start : start + _PER_MESSAGE]]
        try:
            inside.socket().sendmsg([b"+"], rights(*some), SEND_FLAGS)
        except OSError:
            for _ in range(0, start, _PER_MESSAGE):
                outside.socket().recv(1)
            raise
    inside.close()
    return outside


def unbundled(fd: int, count: int) -> list[int]:
    """The many descriptors that one stands for; there is room for them, or they are lost."""
    found: list[int] = []
    with socket.socket(fileno=fd) as sock:
        while len(found) < count:
            _, messages, flags, _ = sock.recvmsg(1, socket.CMSG_SPACE(4 * _PER_MESSAGE), RECEIVE_FLAGS)
            found += received(messages)
            if flags & socket.MSG_CTRUNC:
                close_all(found)
                raise OSError(errno.EMFILE, "no free file descriptor for what came with the message")
    return found
