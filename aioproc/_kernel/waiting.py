"""Try first, wait only on EAGAIN: asleep in the loop, or asleep in the thread.

An *attempt* is a plain function that never blocks, makes at most one system call that others can see, and
raises the kernel's own BlockingIOError for "not yet". `until` and `until_blocking` run the same attempt.

Source: poll(2), epoll(7); anyio.wait_readable.
"""

from __future__ import annotations

import select
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Coroutine
from typing import TYPE_CHECKING, Any, Final, Literal, TypeVar

if TYPE_CHECKING:
    import anyio

    from aioproc._kernel.handle import Handle

T = TypeVar("T")
Event = Literal["read", "write"]

BUDGET_OPERATIONS: Final = 64  # ready operations between two yields to the loop

_POLL: Final[dict[Event, int]] = {"read": select.POLLIN, "write": select.POLLOUT}
_background: set[Any] = set()  # a loop keeps only weak references to its tasks
_spent = 0


class Line:
    """The tasks of one loop that wait for one descriptor, in order of arrival.

    Only the first is registered with the loop (a second registration is an error in anyio); when it leaves,
    for whatever reason, it wakes the next one. So each item wakes one task, however many wait.
    """

    __slots__ = ("_places", "_where")

    def __init__(self, where: dict[object, Line], key: object) -> None:
        self._places: OrderedDict[object, anyio.Event] = OrderedDict()
        self._where = (where, key)

    def __len__(self) -> int:
        return len(self._places)

    async def turn(self, place: object) -> None:
        """Join the line and wait until everybody before has left."""
        import anyio

        self._places[place] = turn = anyio.Event()
        if len(self._places) > 1:
            await turn.wait()

    def leave(self, place: object) -> None:
        """Leave the line from any position; the new first one, if that changed, is woken."""
        was_first = next(iter(self._places)) is place
        del self._places[place]
        if not self._places:
            where, key = self._where
            where.pop(key, None)
        elif was_first:
            next(iter(self._places.values())).set()


def task_or_thread() -> object:
    """Who runs: the current task where a loop runs in this thread, else the thread."""
    for name, module in (("asyncio", "asyncio"), ("trio", "trio.lowlevel")):
        if name in sys.modules:
            try:
                task: object = sys.modules[module].current_task()
            except RuntimeError:
                continue
            if task is not None:
                return task
    return threading.get_ident()


def loop_key() -> object:
    """What tells the running loop from others."""
    from anyio.lowlevel import current_token

    return current_token()


def _line_of(handle: Handle, event: Event) -> Line:
    key = (loop_key(), event)
    line = handle.lines.get(key)
    if line is None:
        line = handle.lines.setdefault(key, Line(handle.lines, key))
    return line


async def checkpoint() -> None:
    """Yield to the loop once, and be cancelled there."""
    from anyio import lowlevel

    await lowlevel.checkpoint()


def spent() -> bool:
    """Count one operation that was ready at once; True when it is time for a `checkpoint`."""
    global _spent
    _spent += 1
    if _spent < BUDGET_OPERATIONS:
        return False
    _spent = 0
    return True


async def until(
    attempt: Callable[[], T], handle: Handle, event: Event = "read", timeout: float | None = None
) -> T:
    """Run the attempt until it succeeds, asleep in the loop while ``handle`` is not ready.

    Raises:
        TimeoutError: It did not succeed within ``timeout`` seconds; it was tried at least once.

    If cancelled: The last attempt did not succeed, so nothing was taken.
    """
    if spent():
        await checkpoint()
    if not handle.lines:  # nobody of this process waits before us
        try:
            return attempt()
        except BlockingIOError:
            pass
    if timeout is None:
        return await _asleep(attempt, handle, event)
    import anyio

    with anyio.move_on_after(timeout):
        return await _asleep(attempt, handle, event)
    raise TimeoutError(f"not within {timeout} s")


async def _asleep(attempt: Callable[[], T], handle: Handle, event: Event) -> T:
    import anyio

    wait = anyio.wait_readable if event == "read" else anyio.wait_writable
    line = _line_of(handle, event)
    place = object()
    try:
        await line.turn(place)
        while True:
            try:
                return attempt()
            except BlockingIOError:
                pass
            try:
                await wait(handle.fileno())
            except anyio.ClosedResourceError:
                handle.fileno()  # raises what a closed handle raises
    finally:
        line.leave(place)


def until_blocking(
    attempt: Callable[[], T], handle: Handle, event: Event = "read", timeout: float | None = None
) -> T:
    """Run the attempt until it succeeds, asleep in this thread while ``handle`` is not ready.

    Raises:
        TimeoutError: It did not succeed within ``timeout`` seconds; it was tried at least once.
    """
    try:
        return attempt()
    except BlockingIOError:
        pass
    deadline = None if timeout is None else time.monotonic() + timeout
    poll = select.poll()
    poll.register(handle.fileno(), _POLL[event])
    while True:
        left = None if deadline is None else deadline - time.monotonic()
        if left is not None and left <= 0:
            raise TimeoutError(f"not within {timeout} s")
        poll.poll(None if left is None else left * 1000)
        try:
            return attempt()
        except BlockingIOError:
            pass


async def in_thread(work: Callable[[], None]) -> None:
    """Let a thread do it, to the end, whatever is cancelled: for copies that would hold up the loop."""
    import anyio

    with anyio.CancelScope(shield=True):
        await anyio.to_thread.run_sync(work)


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


async def without_fail(wait: Callable[[], Awaitable[object]]) -> None:
    """Wait for something that must be had, however often the task is cancelled; then be cancelled."""
    import anyio

    cancelled: BaseException | None = None
    while True:
        try:
            await shielded(wait)
            break
        except anyio.get_cancelled_exc_class() as late:  # a bare Task.cancel() reaches into a shield
            cancelled = late
    if cancelled is not None:
        raise cancelled


def running_backend() -> tuple[str, dict[str, Any]]:
    """The running loop's backend and options, as ``anyio.run`` takes them."""
    from anyio.lowlevel import current_token

    kind = type(current_token().native_token).__module__.partition(".")[0]
    return ("trio", {}) if kind == "trio" else ("asyncio", {"use_uvloop": kind == "uvloop"})
