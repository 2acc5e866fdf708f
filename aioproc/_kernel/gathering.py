"""Tasks that wait for several things each: one epoll descriptor, in the loop's own, for all of them.

With one for each task, the kernel would let some 500 of them wait for the same thing, in all processes, and
libuv aborts the program at the next.

Source: epoll(7) (nesting), epoll_ctl(2) (EPOLLONESHOT), fs/eventpoll.c (path_limits).
"""

from __future__ import annotations

import os
import select
from collections.abc import Callable, Collection
from contextlib import suppress
from functools import partial
from typing import Final, TypeVar

import anyio

from aioproc._kernel.background import Loop, Ticket, running_loop
from aioproc._kernel.forks import Private
from aioproc._kernel.handle import Handle
from aioproc._kernel.waiting import loop_key

T = TypeVar("T")

_ONCE: Final = select.EPOLLIN | select.EPOLLONESHOT  # a task that is woken and finds nothing arms it again
_of_loops: dict[object, Gathering] = {}


async def until_one(
    attempt: Callable[[], T],
    descriptors: Collection[int],
    handles: Collection[Handle],
    timeout: float | None,
) -> T:
    """Run the attempt until it succeeds, asleep in the loop while none of the descriptors is ready.

    Args:
        attempt: What to run.
        descriptors: What to wait for in between.
        handles: Those to whom some of them belong: to wake or to close one is a reason for another attempt.
        timeout: Seconds to wait; None waits for ever.

    Raises:
        TimeoutError: It did not succeed in time.

    If cancelled: The last attempt did not succeed.
    """
    if timeout is None:
        return await _until_one(attempt, descriptors, handles)
    with anyio.move_on_after(timeout):
        return await _until_one(attempt, descriptors, handles)
    raise TimeoutError(f"not within {timeout} s")


async def _until_one(
    attempt: Callable[[], T], descriptors: Collection[int], handles: Collection[Handle]
) -> T:
    key = loop_key()
    while True:
        gathering = _of_loops.get(key) or Gathering(key, running_loop())
        ticket = gathering.enter(descriptors, handles)
        try:
            with suppress(BlockingIOError):
                return attempt()  # again, as another thread may have closed one before it was entered
            await ticket
        finally:
            gathering.leave(ticket, descriptors, handles)
        with suppress(BlockingIOError):
            return attempt()  # which also tells whether the descriptors are still what they were


class Gathering(Private):
    """The tasks of one loop that wait so."""

    def __init__(self, key: object, loop: Loop) -> None:
        self._key, self._loop = key, loop
        self._tickets: dict[int, list[Ticket]] = {}
        self._epoll = select.epoll(select.EPOLL_CLOEXEC)
        self._handle = Handle(os.dup(self._epoll.fileno()), forks=False)
        self._stop = loop.watch(self._handle, self._ring)
        super().__init__()
        _of_loops[key] = self

    def enter(self, descriptors: Collection[int], handles: Collection[Handle]) -> Ticket:
        """A ticket that is woken when one is ready; its owner must `leave`."""
        ticket = self._loop.ticket()
        for handle in handles:
            if handle.alarms is None:
                handle.alarms = {}
            handle.alarms[ticket] = partial(self._loop.from_thread, self._loop.wake, ticket)
        try:
            for fd in descriptors:
                self._tickets.setdefault(fd, []).append(ticket)
                self._arm(fd)
        except BaseException:
            self.leave(ticket, descriptors, handles)
            raise
        return ticket

    def _arm(self, fd: int) -> None:
        try:
            self._epoll.modify(fd, _ONCE)
        except FileNotFoundError:
            with suppress(PermissionError):  # a file on a disk: always ready, so nobody will wait for it
                self._epoll.register(fd, _ONCE)

    def leave(self, ticket: Ticket, descriptors: Collection[int], handles: Collection[Handle]) -> None:
        """Wait for none of them any more."""
        for handle in handles:
            if handle.alarms:
                handle.alarms.pop(ticket, None)
        for fd in descriptors:
            tickets = self._tickets.get(fd, [])
            if ticket in tickets:
                tickets.remove(ticket)
                if not tickets:
                    self._forget(fd)
        if not self._tickets:
            self._close()

    def _forget(self, fd: int) -> None:
        del self._tickets[fd]
        with suppress(OSError, ValueError):  # it was closed meanwhile
            self._epoll.unregister(fd)

    def _ring(self) -> None:
        for fd, _ in self._epoll.poll(0):
            for ticket in self._tickets.get(fd, ()):
                self._loop.wake(ticket)

    def _close(self) -> None:
        if _of_loops.get(self._key) is self:
            del _of_loops[self._key]
            self._stop()
            self.drop()
            self._handle.close()

    def drop(self) -> None:
        """In a forked child: who waits is its parent's."""
        self._epoll.close()
