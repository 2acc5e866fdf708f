"""A barrier: a number of processes, threads or tasks wait for each other, and then all go on."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from threading import BrokenBarrierError
from typing import Any

from aioproc._kernel.arguments import integer, patience
from aioproc._kernel.round import BROKEN, GO, MemberDied, Round, Slot
from aioproc._kernel.token import Tokens, tokens
from aioproc._kernel.waiting import until, until_blocking, without_fail

__all__ = ["Barrier", "SyncBarrier"]


class Barrier:
    """A place where ``parties`` wait for each other, round after round.

    Args:
        parties: How many.
        action: Called by the last to arrive, before all go on; may be a coroutine function where the last
            one is a task.
        timeout: Seconds that `wait` waits by default.

    Raises:
        ValueError: ``parties`` is less than one.

    Example:
        >>> async def main():
        ...     alone = Barrier(1)
        ...     return await alone.wait()
        >>> import anyio; anyio.run(main)
        0
    """

    def __init__(
        self,
        parties: int,
        action: Callable[[], Any] | None = None,
        timeout: float | None = None,
        *,
        _parts: tuple[Tokens, Slot] | None = None,
    ) -> None:
        self.parties = integer("parties", parties, 1)
        self._action, self._timeout = action, patience(timeout)
        self._lock, self._slot = _parts or (tokens(), Slot())

    def __reduce__(self) -> tuple[Any, ...]:
        return _barrier, (self.parties, self._action, self._timeout, self._lock, self._slot)

    @property
    def sync(self) -> SyncBarrier:
        """The same barrier for code without an event loop."""
        return SyncBarrier(self)

    async def wait(self, timeout: float | None = None) -> int:
        """Wait until all parties have arrived.

        Args:
            timeout: Seconds to wait; None means the barrier's own timeout.

        Returns:
            How many of this round had arrived before.

        Raises:
            BrokenBarrierError: The time ran out; or somebody else's did, or he died waiting, failed in the
                action, or called `abort` or `reset`.

        If cancelled: The barrier is broken, since this member will not be there.
        If a peer dies: Death while waiting, or while in the action, breaks the barrier at once. Who dies
            before it arrives is not known here; that is what ``timeout`` is for.
        Cost: Some twenty system calls.
        """
        limit = self._limit(timeout)  # while nobody counts on this one
        await self._entered()
        round_ = self._arrived()
        last = round_.index + 1 == self.parties
        try:
            try:
                if last:
                    result = self._acted(round_)
                    if inspect.isawaitable(result):
                        await result
                    verdict = round_.give(GO)
                else:
                    verdict = await until(round_.attempt, round_.watch, timeout=limit)
            except BaseException as failure:
                verdict = await without_fail(self._lock.acquire, partial(self._given_up, round_))
                if not _another(failure, last):
                    raise
            _check(verdict)
        finally:
            round_.drop()
        return round_.index

    async def _entered(self) -> None:
        """Take the lock in order to arrive; who is cancelled before that will not be there either."""
        try:
            await self._lock.acquire()
        except (Exception, GeneratorExit):
            raise
        except BaseException:  # cancelled
            await without_fail(self._lock.acquire, self._broken)
            raise

    def _limit(self, timeout: float | None) -> float | None:
        return self._timeout if timeout is None else patience(timeout)

    def _arrived(self) -> Round:
        """Arrive, with the lock, which is released."""
        try:
            if self._lock.abandoned:
                self._slot.break_()
            if self._slot.broken:
                raise BrokenBarrierError
            return self._slot.arrive(self.parties)
        finally:
            self._lock.release()

    def _broken(self) -> None:
        """Break the barrier, with the lock, which is released."""
        try:
            self._slot.break_()
        finally:
            self._lock.release()

    def _acted(self, round_: Round) -> Any:
        """What the last one does, unless the one before has died."""
        try:
            round_.attempt()
        except BlockingIOError:
            pass
        return self._action() if self._action else None

    def _given_up(self, round_: Round) -> bytes:
        """Break the barrier, with the lock, which is released, unless the round has had its verdict."""
        try:
            verdict = round_.verdict()
            if not verdict:
                verdict = round_.give(BROKEN)
                self._slot.break_()
            return verdict
        finally:
            self._lock.release()

    def reset(self) -> None:
        """Make it as new; who waits gets a BrokenBarrierError.

        Cost: Waits, if at all, for the few system calls of one who is just arriving.
        """
        self._lock.acquire_blocking()
        try:
            self._slot.clear()
        finally:
            self._lock.release()

    def abort(self) -> None:
        """Break it: who waits, and who comes until `reset`, gets a BrokenBarrierError."""
        self._lock.acquire_blocking()
        try:
            self._slot.break_()
        finally:
            self._lock.release()

    @property
    def n_waiting(self) -> int:
        """How many wait now."""
        return self._slot.count

    @property
    def broken(self) -> bool:
        """Whether it is broken."""
        return self._slot.broken

    def __repr__(self) -> str:
        state = "broken" if self.broken else f"{self.n_waiting}/{self.parties} waiting"
        return f"<Barrier {state}>"


class SyncBarrier:
    """The twin of `Barrier`: `multiprocessing.Barrier`'s interface."""

    def __init__(self, barrier: Barrier) -> None:
        self.aio = barrier
        self.parties = barrier.parties
        self.reset, self.abort = barrier.reset, barrier.abort

    def __reduce__(self) -> tuple[Any, ...]:
        return SyncBarrier, (self.aio,)

    def wait(self, timeout: float | None = None) -> int:
        """Wait until all parties have arrived; see `Barrier.wait`."""
        barrier = self.aio
        limit = barrier._limit(timeout)
        barrier._lock.acquire_blocking()
        round_ = barrier._arrived()
        last = round_.index + 1 == self.parties
        try:
            try:
                if last:
                    _done(barrier._acted(round_))
                    verdict = round_.give(GO)
                else:
                    verdict = until_blocking(round_.attempt, round_.watch, timeout=limit)
            except BaseException as failure:
                barrier._lock.acquire_blocking()
                verdict = barrier._given_up(round_)
                if not _another(failure, last):
                    raise
            _check(verdict)
        finally:
            round_.drop()
        return round_.index

    @property
    def n_waiting(self) -> int:
        """How many wait now."""
        return self.aio.n_waiting

    @property
    def broken(self) -> bool:
        """Whether it is broken."""
        return self.aio.broken

    def __repr__(self) -> str:
        return repr(self.aio)


def _done(result: object) -> None:
    """Refuse what would have to be awaited where no task is."""
    if inspect.iscoroutine(result):
        result.close()
    if inspect.isawaitable(result):
        raise TypeError("the action must be a plain function where the last to arrive is no task")


def _check(verdict: bytes) -> None:
    if verdict != GO:
        raise BrokenBarrierError


def _another(failure: BaseException, last: bool) -> bool:
    """Whether the failure is another member's, or the time's; the last one's action may raise anything."""
    return isinstance(failure, MemberDied) or (isinstance(failure, TimeoutError) and not last)


def _barrier(
    parties: int, action: Callable[[], Any] | None, timeout: float | None, lock: Tokens, slot: Slot
) -> Barrier:
    return Barrier(parties, action, timeout, _parts=(lock, slot))
