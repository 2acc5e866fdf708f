"""Several descriptors behind one, for whoever must wait for more than one thing at a time.

Source: epoll(7): an epoll descriptor is itself readable while one of its members is ready.
"""

from __future__ import annotations

import select
from typing import Final

from aioproc._kernel.handle import Handle

READ: Final = select.EPOLLIN
WRITE: Final = select.EPOLLOUT
HANG_UP: Final = select.EPOLLHUP
ONCE: Final = select.EPOLLET  # report each change once, not for as long as it lasts


def readable(*handles: Handle) -> list[int]:
    """Of which there is something to read, or nobody who could write."""
    poll = select.poll()
    for handle in handles:
        poll.register(handle.fileno(), select.POLLIN)
    return [fd for fd, _ in poll.poll(0)]


def ready(handle: Handle) -> bool:
    """Whether it is `readable`."""
    return bool(readable(handle))


def hung_up(*descriptors: int) -> list[int]:
    """Of which nobody has the other end any more, whether or not there is something to read."""
    poll = select.poll()
    for descriptor in descriptors:
        poll.register(descriptor, 0)
    return [fd for fd, events in poll.poll(0) if events & select.POLLHUP]


class Watch(Handle):
    """A private epoll descriptor; give it to `until`, and ask `ready` in the attempt.

    Args:
        stays: Whether it may stay registered with a loop when nobody waits.
    """

    __slots__ = ("_epoll",)

    def __init__(self, stays: bool = False) -> None:
        self._epoll = select.epoll()
        super().__init__(self._epoll.fileno())
        self.stays = stays

    def add(self, handle: Handle, events: int) -> None:
        self._epoll.register(handle.fileno(), events)

    def change(self, handle: Handle, events: int) -> None:
        self._epoll.modify(handle.fileno(), events)

    def ready(self) -> dict[int, int]:
        """What is ready now: descriptor to events.

        Another process may have added something under a number that it has in that process: the events of
        both stand there then.
        """
        found: dict[int, int] = {}
        for fd, events in self._epoll.poll(0):
            found[fd] = found.get(fd, 0) | events
        return found

    def _close(self, fd: int) -> None:
        self._epoll.close()
