"""Try first, wait only on EAGAIN: asleep in the loop, or asleep in the thread.

An *attempt* is a plain function that never blocks, makes at most one system call that others can see, and
raises the kernel's own BlockingIOError for "not yet". `until` and `until_blocking` run the same attempt.

Source: poll(2), epoll(7); anyio.wait_readable.
"""

from __future__ import annotations

import os
import select
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from itertools import cycle
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol, TypeVar

from aioproc._kernel.arguments import patience
from aioproc._kernel.resuming import resumption

if TYPE_CHECKING:
    import anyio

    from aioproc._kernel.handle import Handle

T = TypeVar("T")
Event = Literal["read", "write"]

MOST_SECONDS: Final = 2_000_000.0  # poll takes its milliseconds as an int
THREADS: Final = 8  # for one purpose: more that copy would only fight for the memory
BUDGET_OPERATIONS: Final = 128  # ready operations between two yields to the loop

_POLL: Final[dict[Event, int]] = {"read": select.POLLIN, "write": select.POLLOUT}
_background: set[Any] = set()  # a loop keeps only weak references to its tasks
_asyncio: Any = None  # the module, once it is imported

# Counts one operation that was ready at once; True when it is time for a `checkpoint`.
spent: Callable[[], bool] = cycle([False] * (BUDGET_OPERATIONS - 1) + [True]).__next__


class Right(Protocol):
    """What a process needs in order to wait, where many do; see token.py."""

    async def acquire(self, timeout: float | None = None) -> None: ...
    def acquire_blocking(self, timeout: float | None = None) -> None: ...
    def release(self) -> None: ...


class Line:
    """The tasks of one loop that wait for one descriptor, in order of arrival.

    Only the first is registered with the loop (a second registration is an error in anyio); when it leaves,
    for whatever reason, it wakes the next one. So each item wakes one task, however many wait.

    After a wait that succeeded the registration may stay for the next one, because to make and undo it costs
    as much as a message. It is undone as soon as the descriptor is ready and nobody waits.
    """

    __slots__ = ("_fd", "_loop", "_pid", "_places", "_where", "_woken")

    def __init__(self, where: dict[object, Line], key: tuple[object, Event], loop: Any) -> None:
        self._places: OrderedDict[object, anyio.Event | None] = OrderedDict()
        self._where = (where, key)
        self._loop = loop  # asyncio's, else None
        self._pid = os.getpid()
        self._fd = -1  # registered with the loop
        self._woken: Any = None  # what the first one waits for

    def __len__(self) -> int:
        return len(self._places)

    def enter(self, place: object) -> None:
        """Join the line as the first."""
        self._places[place] = None

    async def turn(self, place: object) -> None:
        """Join the line and wait until everybody before has left."""
        if not self._places:
            self.enter(place)
            return
        import anyio

        self._places[place] = turn = anyio.Event()
        await turn.wait()

    def leave(self, place: object) -> None:
        """Leave the line from any position; the new first one, if that changed, is woken."""
        places = self._places
        if len(places) == 1:
            del places[place]
            where, key = self._where
            where.pop(key, None)
            return
        was_first = next(iter(places)) is place
        del places[place]
        if was_first and not self._loop_is_closed:
            turn = next(iter(places.values()))
            assert turn is not None
            turn.set()

    async def ready(self, handle: Handle) -> None:
        """Sleep until the descriptor is ready, or `wake`; it stays registered.

        If cancelled: It is not registered any more.
        """
        try:
            await self.readiness(handle)
        except BaseException:
            self.unregister()
            raise

    def readiness(self, handle: Handle) -> Awaitable[None]:
        """What to await until then; whoever is cancelled there has to `unregister`."""
        if self._loop is None:
            return self._ready_anyhow(handle)
        fd = handle.fileno()
        if self._fd != fd:
            watch = self._loop.add_reader if self._where[1][1] == "read" else self._loop.add_writer
            watch(fd, resumption(self._loop), self._stirred)
            self._fd = fd
        self._woken = self._loop.create_future()
        return self._woken  # type: ignore[no-any-return]

    async def _ready_anyhow(self, handle: Handle) -> None:
        import anyio

        try:
            await (anyio.wait_readable if self._where[1][1] == "read" else anyio.wait_writable)(
                handle.fileno()
            )
        except anyio.ClosedResourceError:
            handle.fileno()  # raises what a closed handle raises

    def _stirred(self) -> tuple[Any, ...]:
        woken, self._woken = self._woken, None
        if woken is not None:
            return (woken,)
        self.unregister()
        return ()

    def unregister(self) -> None:
        """Undo the registration, in the loop; who sleeps makes another attempt."""
        fd, self._fd = self._fd, -1  # at once: the number may soon be another descriptor's
        woken, self._woken = self._woken, None
        if self._loop_is_closed:  # who slept there runs no more
            return
        if fd >= 0:
            (self._loop.remove_reader if self._where[1][1] == "read" else self._loop.remove_writer)(fd)
        if woken is not None and not woken.done():
            woken.set_result(None)

    @property
    def is_gone(self) -> bool:
        """Whether its loop has ended, or was another process's."""
        return self._pid != os.getpid() or self._loop_is_closed

    @property
    def _loop_is_closed(self) -> bool:
        return self._loop is not None and bool(self._loop.is_closed())

    def wake(self, fd: int, then: Callable[[], None] | None = None) -> bool:
        """Undo the registration and let the first make another attempt; False if it happens later.

        Args:
            fd: What they wait for.
            then: What to do afterwards, if it happens later: in the thread of the loop.
        """
        if self.is_gone or self._is_woken_here():
            return True
        soon, undo = self._ways(fd)

        def later() -> None:
            undo()
            if then is not None:
                then()

        try:
            soon(later)
        except RuntimeError:  # the loop has ended just now
            return True
        return False

    def _is_woken_here(self) -> bool:
        """Wake at once where the loop runs in this thread, or nowhere; under trio the handle does that."""
        if self._loop is None:
            return self._where[1][0] == _trio_token()
        if self._loop.is_running() and self._loop is not sys.modules["asyncio"]._get_running_loop():
            return False
        self.unregister()
        return True

    def _ways(self, fd: int) -> tuple[Callable[[Callable[[], None]], object], Callable[[], None]]:
        """How to have something called in the loop, and what undoes the registration there."""
        if self._loop is not None:
            return self._loop.call_soon_threadsafe, self.unregister
        import anyio

        token: Any = self._where[1][0]
        return token.native_token.run_sync_soon, partial(anyio.notify_closing, fd)


def _trio_token() -> object:
    """What tells the loop that runs in this thread from others; None where none does."""
    from anyio.lowlevel import current_token

    try:
        return current_token()
    except RuntimeError:
        return None


def found_in(module: str, name: str) -> Any:
    """What a module has under a name; None if it was not imported, or another thread is still at it."""
    return getattr(sys.modules.get(module), name, None)


def asyncio_loop() -> Any:
    """asyncio's loop, where a task of it runs; else None."""
    global _asyncio
    if _asyncio is None:
        if found_in("asyncio", "_get_running_loop") is None or found_in("asyncio", "current_task") is None:
            return None
        _asyncio = sys.modules["asyncio"]
    loop = _asyncio._get_running_loop()
    return None if loop is None or _asyncio.current_task(loop) is None else loop


def task_or_thread() -> object:
    """Who runs: the current task where a loop runs in this thread, else the thread."""
    for module in ("asyncio", "trio.lowlevel"):
        current_task = found_in(module, "current_task")
        if current_task is not None:
            try:
                task: object = current_task()
            except RuntimeError:
                continue
            if task is not None:
                return task
    return threading.get_ident()


def loop_key() -> object:
    """What tells the running loop from others."""
    loop = asyncio_loop()
    if loop is not None:
        return loop
    from anyio.lowlevel import current_token

    return current_token()


def _line_of(handle: Handle, event: Event) -> Line:
    loop = asyncio_loop()
    key = (loop_key() if loop is None else loop, event)
    line = handle.lines.get(key)
    if line is None:
        line = handle.standing
        if line is None or line._where[1] != key:
            line = Line(handle.lines, key, loop)
        handle.lines[key] = line
    return line


def _leave(handle: Handle, line: Line, place: object, right: Right | None = None) -> None:
    """Leave the line; when nobody is left in it, one line of a handle may stay registered."""
    line.leave(place)
    if line._fd < 0 or line._places:
        return
    if right is None and handle.stays and line._where[1][1] == "read":
        other = handle.standing
        if other is None or other is line or other._fd < 0 or other.is_gone:
            handle.standing = line
            return
    line.unregister()


async def checkpoint() -> None:
    """Yield to the loop once, and be cancelled there."""
    if asyncio_loop() is not None:
        await sys.modules["asyncio"].sleep(0)  # as anyio does, whose import would hold up the loop here
        return
    from anyio import lowlevel

    await lowlevel.checkpoint()


def _needs_none() -> None:
    return None


async def until(
    attempt: Callable[[], T],
    handle: Handle,
    event: Event = "read",
    timeout: float | None = None,
    right_of: Callable[[], Right | None] = _needs_none,
) -> T:
    """Run the attempt until it succeeds, asleep in the loop while ``handle`` is not ready.

    Args:
        attempt: What to run.
        handle: What to wait for in between.
        event: What to wait for it to be.
        timeout: Seconds to wait; None waits for ever.
        right_of: Says what to hold while asleep: so only as many processes wake as have a right.

    Raises:
        TimeoutError: It did not succeed within ``timeout`` seconds; it was tried at least once.
        TypeError, ValueError: It did not succeed at once, and ``timeout`` is no number.

    If cancelled: The last attempt did not succeed, so nothing was taken.
    """
    if spent():
        await checkpoint()
    if not handle.lines:  # nobody of this process waits before us
        try:
            return attempt()
        except BlockingIOError:
            pass
    return await until_later(attempt, handle, event, timeout, right_of)


async def until_later(
    attempt: Callable[[], T],
    handle: Handle,
    event: Event = "read",
    timeout: float | None = None,
    right_of: Callable[[], Right | None] = _needs_none,
) -> T:
    """As `until`, after an attempt that failed, or while other tasks wait for the handle."""
    right = right_of()
    if timeout is None and right is None and not handle.lines:
        line = _line_of(handle, event)  # nobody waits before us, and an attempt has just failed
        place = object()
        line.enter(place)
        try:
            while True:
                try:
                    await line.readiness(handle)  # as `ready`, without one coroutine more
                except BaseException:
                    line.unregister()
                    raise
                try:
                    return attempt()
                except BlockingIOError:
                    pass
        finally:
            _leave(handle, line, place)
    if timeout is None:
        return await _in_line(attempt, handle, event, right)
    import anyio

    with anyio.move_on_after(patience(timeout)):
        return await _in_line(attempt, handle, event, right)
    raise TimeoutError(f"not within {timeout} s")


async def _in_line(attempt: Callable[[], T], handle: Handle, event: Event, right: Right | None) -> T:
    line = _line_of(handle, event)
    place = object()
    try:
        await line.turn(place)
        if right is None:
            return await _asleep(attempt, handle, line)
        try:
            return attempt()
        except BlockingIOError:
            pass
        await right.acquire()
        try:
            return await _asleep(attempt, handle, line)
        finally:
            line.unregister()
            right.release()
    finally:
        _leave(handle, line, place, right)


async def _asleep(attempt: Callable[[], T], handle: Handle, line: Line) -> T:
    while True:
        try:
            return attempt()
        except BlockingIOError:
            pass
        await line.ready(handle)


def until_blocking(
    attempt: Callable[[], T],
    handle: Handle,
    event: Event = "read",
    timeout: float | None = None,
    right_of: Callable[[], Right | None] = _needs_none,
) -> T:
    """Run the attempt until it succeeds, asleep in this thread while ``handle`` is not ready.

    Raises:
        TimeoutError: It did not succeed within ``timeout`` seconds; it was tried at least once.
    """
    try:
        return attempt()
    except BlockingIOError:
        pass
    return until_blocking_later(attempt, handle, event, timeout, right_of)


def until_blocking_later(
    attempt: Callable[[], T],
    handle: Handle,
    event: Event = "read",
    timeout: float | None = None,
    right_of: Callable[[], Right | None] = _needs_none,
) -> T:
    """As `until_blocking`, after an attempt that failed."""
    limit = patience(timeout)
    deadline = None if limit is None else time.monotonic() + limit
    right = right_of()
    if right is None:
        return _asleep_blocking(attempt, handle, event, deadline)
    right.acquire_blocking(limit)
    try:
        try:
            return attempt()
        except BlockingIOError:
            pass
        return _asleep_blocking(attempt, handle, event, deadline)
    finally:
        right.release()


def _asleep_blocking(attempt: Callable[[], T], handle: Handle, event: Event, deadline: float | None) -> T:
    poll = select.poll()
    poll.register(handle.fileno(), _POLL[event])
    while True:
        left = None if deadline is None else deadline - time.monotonic()
        if left is not None and left <= 0:
            raise TimeoutError("not in time")
        sleep_until_ready(poll, left)
        try:
            return attempt()
        except BlockingIOError:
            pass


def sleep_until_ready(poll: select.poll, seconds: float | None) -> None:
    """Sleep in this thread; who is interrupted in this very frame has nothing in hand (see midst.py)."""
    poll.poll(None if seconds is None else min(seconds, MOST_SECONDS) * 1000)


async def run_in_thread(work: Callable[[], T], purpose: str) -> T:
    """What a thread returns, one of a few that are for this purpose alone.

    The program may have filled anyio's usual ones with what waits for just this.
    """
    import anyio

    return await anyio.to_thread.run_sync(work, limiter=limiter(purpose, THREADS))


def limiter(purpose: str, most: int) -> Any:
    """The running loop's CapacityLimiter for this purpose."""
    import anyio
    from anyio.lowlevel import RunVar

    limiters = _limiters.setdefault(purpose, RunVar(f"aioproc {purpose}"))
    found = limiters.get(None)
    if found is None:
        found = anyio.CapacityLimiter(most)
        limiters.set(found)
    return found


_limiters: dict[str, Any] = {}


async def in_thread(work: Callable[[], object]) -> None:
    """Let a thread do it, to the end, whatever is cancelled: for copies that would hold up the loop.

    Afterwards the thread has nothing of it, also if it has not yet come round to forgetting its last work:
    what is large is freed when its owner lets go of it.
    """
    held, failed, running = [work], list[BaseException](), threading.Lock()
    del work

    def run() -> None:
        with running:  # who comes again, after a bare Task.cancel(), waits for the first
            try:
                if held:
                    held.pop()()
            except BaseException as failure:
                failed.append(failure)

    def outcome() -> None:
        if failed:
            raise failed.pop()

    await without_fail(lambda: run_in_thread(run, "copies"), outcome)


def spawned(work: Callable[[], Coroutine[Any, Any, None]]) -> bool:
    """Start a task that belongs to the running loop and to no task group; False when no loop runs here."""
    if "asyncio" not in sys.modules and "trio" not in sys.modules:
        return False
    try:
        backend, _ = running_backend()
    except RuntimeError:  # no loop runs in this thread
        return False
    if backend == "trio":
        import trio

        trio.lowlevel.spawn_system_task(work)
    else:
        import asyncio

        task = asyncio.get_running_loop().create_task(work())
        _background.add(task)
        task.add_done_callback(_background.discard)
    return True


async def shielded(wait: Callable[[], Awaitable[object]]) -> None:
    """Wait for something that must be finished even though the task was cancelled."""
    import anyio

    with anyio.CancelScope(shield=True):
        await wait()


async def without_fail(wait: Callable[[], Awaitable[object]], then: Callable[[], T]) -> T:
    """Wait for what must be had, however often cancelled, do what follows, and only then be cancelled."""
    import anyio

    cancelled: BaseException | None = None
    while True:
        try:
            await shielded(wait)
            break
        except anyio.get_cancelled_exc_class() as late:  # a bare Task.cancel() reaches into a shield
            cancelled = late
    done = then()
    if cancelled is not None:
        raise cancelled
    return done


def running_backend() -> tuple[str, dict[str, Any]]:
    """The running loop's backend and options, as ``anyio.run`` takes them."""
    from anyio.lowlevel import current_token

    try:
        loop = current_token().native_token
    except RuntimeError:  # no task runs, but it may be a callback of asyncio's
        loop = sys.modules["asyncio"]._get_running_loop() if "asyncio" in sys.modules else None
        if loop is None:
            raise
    kind = type(loop).__module__.partition(".")[0]
    return ("trio", {}) if kind == "trio" else ("asyncio", {"use_uvloop": kind == "uvloop"})
