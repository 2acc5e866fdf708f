"""meet_sync: the twin of `meet`, for code without an event loop."""

from __future__ import annotations

import os
from collections.abc import Callable
from types import TracebackType
from typing import Any, TypeVar

from aioproc._kernel import summons
from aioproc._kernel.member import ATTEMPTS, wait_beside_loop
from aioproc.local import barrier, event, joinable_queue, lock, queue, semaphore
from aioproc.table import Attendance

__all__ = ["meet_sync"]

T = TypeVar("T")


class SyncMeeting(Attendance):
    """The twin of `Meeting`: hands out the twins of the same objects."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        super().__init__(path)
        self._summons: summons.Summons | None = None
        self._busy, self._news = True, False

    def Lock(self, name: str) -> lock.SyncLock:
        """The twin of the `Lock` of this name; see `Meeting.Lock`."""
        return self._get(lock.Lock, name).sync

    def Semaphore(self, name: str, value: int = 1) -> semaphore.SyncSemaphore:
        """The twin of the `Semaphore` of this name and start value; see `Meeting.Lock`."""
        return self._get(semaphore.Semaphore, name, value).sync

    def BoundedSemaphore(self, name: str, value: int = 1) -> semaphore.SyncBoundedSemaphore:
        """The twin of the `BoundedSemaphore` of this name and number of permits; see `Meeting.Lock`."""
        return self._get(semaphore.BoundedSemaphore, name, value).sync

    def Event(self, name: str) -> event.SyncEvent:
        """The twin of the `Event` of this name; see `Meeting.Lock`."""
        return self._get(event.Event, name).sync

    def Queue(self, name: str, maxsize: int = 0) -> queue.SyncQueue[Any]:
        """The twin of the `Queue` of this name and size; see `Meeting.Lock`."""
        return self._get(queue.Queue, name, max(maxsize, 0)).sync

    def JoinableQueue(self, name: str, maxsize: int = 0) -> joinable_queue.SyncJoinableQueue[Any]:
        """The twin of the `JoinableQueue` of this name and size; see `Meeting.Lock`."""
        return self._get(joinable_queue.JoinableQueue, name, max(maxsize, 0)).sync

    def Barrier(
        self,
        name: str,
        parties: int,
        action: Callable[[], Any] | None = None,
        timeout: float | None = None,
    ) -> barrier.SyncBarrier:
        """The twin of the `Barrier` of this name and number of parties; see `Meeting.Barrier`."""
        found = self._get(barrier.Barrier, name, parties)
        found._action, found._timeout = action, timeout
        return found.sync

    def _get(self, kind: type[T], name: str, size: int | None = None) -> T:
        if self._entered and not self._member.connection.closed:
            self._tend()
            if not self._member.on_roll:  # nobody waited for us: are these still the names?
                self._await_welcome()
        return self._table.get(kind, name, size)

    def _await_welcome(self) -> None:
        for _ in range(ATTEMPTS):
            self._busy = True  # what comes is not for the signal's handler, but for who waits here
            try:
                if self._member.welcome_due:
                    wait_beside_loop(self._member.stirred, self._member)
            finally:
                self._busy = False
            self._tend()
            if not self._member.welcome_due:
                return
        raise self._member.no_hub()

    def __enter__(self) -> SyncMeeting:
        """Enter; starts the hub if there is none."""
        self._enter()
        try:
            if summons.possible():
                self._summons = summons.Summons(self._tend)
            self._member.on_roll = self._summons is not None
            self._join()
        except BaseException:
            self._leave()
            raise
        self._busy = False
        self._tend()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._leave()

    def _join(self) -> None:
        member = self._member
        for _ in range(ATTEMPTS):
            member.knock()
            try:
                wait_beside_loop(member.welcomed, member)
            except EOFError:
                continue
            self._listen()
            return
        raise member.no_hub()

    def _listen(self) -> None:
        if self._summons is not None:
            self._summons.listen(self._member.connection)

    def _tend(self) -> None:
        """See to the connection; also called by a signal, at any moment."""
        self._news = True
        while self._news and not self._busy:
            self._busy, self._news = True, False
            try:
                while self._member.tend():
                    self._listen()  # and look again: what came before that is not told
            except OSError:
                pass  # no hub can be had; who asks for a name is told
            finally:
                self._busy = False

    def _leave(self) -> None:
        self._busy = True
        if self._summons is not None:
            self._summons.end()
        self._member.leave()
        self._table.forget()


def meet_sync(path: str | os.PathLike[str]) -> SyncMeeting:
    """The same for code without a loop: ``with meet_sync(path) as hub:`` hands out the twins.

    Inside a running loop it would hold that up. Enter it in the main thread: only there can the kernel's
    signal be answered that tells of a hub's death. In another thread the names are brought to a new hub when
    the next one is asked for, and a newcomer that came before has new objects under them, which that thread
    is told.
    """
    return SyncMeeting(path)
