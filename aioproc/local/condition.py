"""A condition: wait, without the lock, until somebody who has it says that something has changed."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any, TypeAlias, TypeVar

from aioproc._kernel.arguments import patience
from aioproc._kernel.notice import NoticePlace, Notices
from aioproc._kernel.waiting import until, until_blocking, without_fail
from aioproc.errors import NotOwner
from aioproc.local.entered import Entered, Twin
from aioproc.local.lock import Lock, SyncLock
from aioproc.local.rlock import RLock, SyncRLock

__all__ = ["Condition", "SyncCondition"]

T = TypeVar("T")
AnyLock: TypeAlias = Lock | RLock | SyncLock | SyncRLock


class Condition(Entered):
    """A condition with its lock.

    Args:
        lock: The lock; an `RLock` of its own by default.

    When a process dies with the lock, what it was about to say may have remained unsaid: everybody who waits
    is woken then, to look for himself. So wait in a loop, or by `wait_for`, as with every condition.

    Example:
        >>> async def main():
        ...     changed = Condition()
        ...     async with changed:
        ...         return await changed.wait(timeout=0)
        >>> import anyio; anyio.run(main)
        False
    """

    __slots__ = ("_lock", "_notices", "_tokens")

    def __init__(self, lock: AnyLock | None = None, *, _notices: Notices | None = None) -> None:
        if lock is None:
            lock = RLock()
        self._lock: Lock | RLock = lock.aio if isinstance(lock, SyncLock | SyncRLock) else lock
        if not isinstance(self._lock, Lock | RLock):
            raise TypeError(f"lock must be a Lock or an RLock of aioproc, not {lock!r}")
        self._tokens = self._lock._tokens
        self._notices = _notices or Notices(self._tokens)

    def __reduce__(self) -> tuple[Any, ...]:
        return _condition, (self._lock, self._notices)

    @property
    def sync(self) -> SyncCondition:
        """The same condition for code without an event loop."""
        return SyncCondition(self)

    async def acquire(self, block: bool = True, timeout: float | None = None) -> bool:
        """Take the lock; see `Lock.acquire`."""
        return await self._lock.acquire(block, timeout) and self._looked_after()

    def release(self) -> None:
        """Release the lock; see `Lock.release`."""
        self._lock.release()

    def locked(self) -> bool:
        """Whether anybody holds the lock."""
        return self._lock.locked()

    async def wait(self, timeout: float | None = None) -> bool:
        """Release the lock, wait to be notified, and take the lock again.

        Args:
            timeout: Seconds to wait to be notified; None waits for ever, less than zero not at all.

        Returns:
            True, or False when no notification came in time. The lock is held again in either case.

        Raises:
            NotOwner: The lock is not held.

        If cancelled: The lock is taken again first; a notification that had come goes to the next one.
        If a peer dies: A killed waiter's notification goes to the next one. A process that dies with the
            lock wakes everybody who waits.
        Cost: One wake-up, for the notification and the lock together.
        """
        limit = patience(timeout)  # while it is held
        place, depth = self._let_go(self._notices.places.of_loop)
        notified = False
        try:
            await until(place.attempt, place.watch, timeout=limit)
            notified = True
        except TimeoutError:
            pass
        except BaseException:
            if self._left(place):
                self._take_back(depth)
                self.notify()
            else:
                await without_fail(self._tokens.acquire, partial(self._take_back, depth))
            raise
        if self._left(place) or notified:
            self._take_back(depth)
            return True
        await without_fail(self._tokens.acquire, partial(self._take_back, depth))
        return False

    async def wait_for(self, predicate: Callable[[], T], timeout: float | None = None) -> T:
        """Wait until the predicate, called with the lock held, returns something true.

        Args:
            predicate: A plain function.
            timeout: Seconds to wait in all; None waits for ever.

        Returns:
            What the predicate returned last, so something false when the time ran out.

        If cancelled: As in `wait`.
        If a peer dies: As in `wait`.
        Cost: One wake-up a notification.
        """
        limit = patience(timeout)
        deadline = None if limit is None else time.monotonic() + limit
        while not (result := predicate()):
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                break
            await self.wait(left)
        return result

    def notify(self, n: int = 1) -> None:
        """Let the n who have waited longest go on, once this task releases the lock.

        Raises:
            NotOwner: The lock is not held.

        If a peer dies: Only live ones are counted, and one that is killed before it has the lock passes the
            notification on.
        Cost: Four system calls for each.
        """
        self._check("notify")
        while n > 0 and self._notices.notify():
            n -= 1

    def notify_all(self) -> None:
        """Let all who wait go on, one after the other; see `notify`."""
        self.notify(sys.maxsize)

    def _check(self, what: str) -> None:
        mine = self._lock.is_mine() if isinstance(self._lock, RLock) else self._tokens.held
        if not mine:
            raise NotOwner(f"cannot {what}: the lock is not held")

    def _let_go(self, join: Callable[[], NoticePlace]) -> tuple[NoticePlace, int]:
        self._check("wait")
        try:
            place = join()
        except BlockingIOError:
            raise OSError("too many wait for this condition") from None
        depth, self._tokens.depth, self._tokens.owner = self._tokens.depth, 0, None
        self._tokens.release()
        return place, depth

    def _left(self, place: NoticePlace) -> bool:
        """Leave the place; True when a notification, and the token, still came."""
        self._notices.places.leave(place)
        late, place.got_late = place.got_late, False
        return late

    def _take_back(self, depth: int) -> None:
        if isinstance(self._lock, RLock):
            self._lock._taken(depth)
        self._looked_after()

    def _looked_after(self) -> bool:
        """After a death with the lock, let all who wait look for themselves."""
        if self._tokens.abandoned:
            self.notify_all()
        return True

    def __repr__(self) -> str:
        return f"<Condition {self._lock!r}, {self._notices.waiting} waiting>"


class SyncCondition(Twin):
    """The twin of `Condition`: `multiprocessing.Condition`'s interface."""

    __slots__ = ("_lock", "locked", "notify", "notify_all", "release")
    aio: Condition

    def __init__(self, condition: Condition) -> None:
        super().__init__(condition)
        self._lock = condition._lock.sync
        self.release, self.locked = condition.release, condition.locked
        self.notify, self.notify_all = condition.notify, condition.notify_all

    def acquire(self, block: bool = True, timeout: float | None = None) -> bool:
        """Take the lock; see `Lock.acquire`."""
        return self._lock.acquire(block, timeout) and self.aio._looked_after()

    def wait(self, timeout: float | None = None) -> bool:
        """Release the lock, wait to be notified, and take the lock again; see `Condition.wait`."""
        condition, limit = self.aio, patience(timeout)
        place, depth = condition._let_go(condition._notices.places.of_thread)
        notified = False
        try:
            until_blocking(place.attempt, place.watch, timeout=limit)
            notified = True
        except TimeoutError:
            pass
        except BaseException:  # of a signal's handler
            late = condition._left(place)
            if not late:
                condition._tokens.acquire_blocking()
            condition._take_back(depth)
            if late:
                condition.notify()
            raise
        if condition._left(place):
            notified = True
        elif not notified:
            condition._tokens.acquire_blocking()
        condition._take_back(depth)
        return notified

    def wait_for(self, predicate: Callable[[], T], timeout: float | None = None) -> T:
        """Wait until the predicate returns something true; see `Condition.wait_for`."""
        limit = patience(timeout)
        deadline = None if limit is None else time.monotonic() + limit
        while not (result := predicate()):
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                break
            self.wait(left)
        return result


def _condition(lock: Lock | RLock, notices: Notices) -> Condition:
    return Condition(lock, _notices=notices)
