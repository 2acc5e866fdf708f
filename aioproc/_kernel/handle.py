"""One file descriptor: owned, closed once, able to travel to a child or in a message.

Source: multiprocessing/reduction.py (DupFd), unix(7) (SCM_RIGHTS), os.register_at_fork.
"""

from __future__ import annotations

import os
import socket
import sys
import threading
import weakref
from collections.abc import Callable, Iterator, MutableSequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aioproc._kernel.waiting import Line


class _Courier(threading.local):
    """Where the handles of the pickle being written or read in this thread go to or come from."""

    outgoing: list[Handle] | None = None
    incoming: MutableSequence[int] | None = None


courier = _Courier()


@contextmanager
def handing_out(descriptors: MutableSequence[int]) -> Iterator[None]:
    """While inside, handles unpickled in this thread take these descriptors; what is left over is closed."""
    before, courier.incoming = courier.incoming, descriptors
    try:
        yield
    finally:
        courier.incoming = before
        for fd in descriptors:
            if fd >= 0:
                os.close(fd)


class Handle:
    """Owns one descriptor.

    Args:
        fd: The descriptor; from now on only this object closes it.
        forks: Whether a forked child keeps its copy. False for an end that tells others of our death
            by being closed, and for a token: those belong to this process alone.

    If a peer dies: Nothing; the kernel closes its copies, not ours.
    """

    __slots__ = ("__weakref__", "_fd", "alarms", "lines", "standing", "stays", "view")

    def __init__(self, fd: int, *, forks: bool = True) -> None:
        self._fd = fd
        self.lines: dict[object, Line] = {}  # tasks that wait for this descriptor, a line per loop and event
        self.alarms: dict[object, Callable[[], object]] | None = None  # called when it is woken or closed
        self.standing: Line | None = None  # one that may be registered though nobody waits
        self.stays = True  # whether one may
        self.view: SocketView | None = None  # once `socket` has made it, and until it is closed
        if not forks:
            self.keep_from_forks()

    def keep_from_forks(self) -> None:
        """From now on a forked child has no copy."""
        _never_in_forks.add(self)

    def fileno(self) -> int:
        """The descriptor; ValueError once it is closed."""
        if self._fd < 0:
            raise ValueError("it is closed in this process")
        return self._fd

    def identity(self) -> tuple[int, int]:
        """What tells the object that it is open for from others, under whatever number it came: fstat(2)."""
        found = os.fstat(self.fileno())
        return found.st_dev, found.st_ino

    def socket(self) -> SocketView:
        """Socket calls on it; ValueError once it is closed."""
        if self.view is None:
            view = SocketView(self)
            view.settimeout(None)  # else each call asks whether there is one
            self.view = view
        return self.view

    @property
    def closed(self) -> bool:
        return self._fd < 0

    def close(self) -> None:
        """Close the descriptor; tasks of any loop that wait for it are woken. Twice is harmless."""
        fd, self._fd = self._fd, -1
        if fd < 0:
            return
        self.view = None
        self._alarm()
        if not self._is_known() or self._wake(fd, lambda: self._close(fd)):
            self._close(fd)

    def _is_known(self) -> bool:
        """Whether a loop may know of it."""
        return bool(self.lines) or self.standing is not None

    def _close(self, fd: int) -> None:
        os.close(fd)

    def wake(self) -> None:
        """Let tasks of any loop that wait for it make another attempt."""
        self._alarm()
        if self.lines:
            self._wake(self.fileno())

    def _alarm(self) -> None:
        if self.alarms:
            for call in list(self.alarms.values()):
                call()

    def _wake(self, fd: int, then: Callable[[], None] | None = None) -> bool:
        """Wake all; False when one can be told later only: in its loop's thread, ``then`` follows."""
        standing, self.standing = self.standing, None
        done = True
        for line in {*self.lines.values(), *([] if standing is None else [standing])}:
            if not line.wake(fd, then if done else None):
                done = False
        _wake_waiters(fd)
        return done

    def detach(self) -> int:
        """Give the descriptor away: it is the caller's to close."""
        fd = self.fileno()
        if self._is_known():
            self._wake(fd)
        self._fd = -1
        self.view = None
        return fd

    def forget_waiting(self) -> None:
        """Those who wait are not told when it is closed; in a forked child they are the parent's."""
        self.lines.clear()
        self.alarms = None
        self.standing = None

    def __del__(self) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Handle {self._fd if self._fd >= 0 else 'closed'}>"

    def __reduce__(self) -> tuple[Any, ...]:
        if courier.outgoing is not None:
            courier.outgoing.append(self)
            return arrive, (len(courier.outgoing) - 1,)
        from multiprocessing import context, reduction

        if context.get_spawning_popen() is None:
            raise RuntimeError(
                "this object travels only as an argument of a process, "
                "or through aioproc's own queues, pipes and pools"
            )
        return _adopt, (reduction.DupFd(self.fileno()),)


class SocketView(socket.socket):
    """Socket calls on a handle's descriptor, for as long as the handle is open; never closes it."""

    __slots__ = ()

    def __init__(self, handle: Handle) -> None:
        super().__init__(socket.AF_UNIX, socket.SOCK_SEQPACKET, 0, handle.fileno())

    def __del__(self) -> None:  # in place of the base's finalizer, which would close the descriptor
        self.detach()


def arrive(index: int) -> Handle:
    """A handle that came with the message which is being unpickled."""
    assert courier.incoming is not None, "unpickled outside of a message"
    fd, courier.incoming[index] = courier.incoming[index], -1
    return Handle(fd)


def _adopt(duplicate: Any) -> Handle:
    fd: int = duplicate.detach()
    os.set_inheritable(fd, False)
    return Handle(fd)


def _wake_waiters(fd: int) -> None:
    notify_closing = getattr(sys.modules.get("anyio"), "notify_closing", None)  # a thread may be importing it
    if notify_closing is not None:
        try:
            notify_closing(fd)
        except RuntimeError:  # no loop runs in this thread
            pass


_never_in_forks: weakref.WeakSet[Handle] = weakref.WeakSet()


def _close_in_forked_child() -> None:
    for handle in list(_never_in_forks):
        handle.forget_waiting()
        handle.close()


os.register_at_fork(after_in_child=_close_in_forked_child)
