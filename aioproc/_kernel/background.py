"""What goes on in a loop beside its tasks: callbacks for descriptors and times, and work that nobody awaits.

A callback per ready descriptor costs a third of a task that is woken, and leaves no task behind while it is
idle. Under trio, which has no callbacks, a system task stands for each.

Source: asyncio (add_reader, call_later, shutdown_asyncgens), trio.lowlevel (spawn_system_task,
enable_ki_protection).
"""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Awaitable, Callable, Generator
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from aioproc._kernel.handle import Handle
from aioproc._kernel.resuming import resumption, wake_all
from aioproc._kernel.waiting import running_backend

if TYPE_CHECKING:
    import asyncio

Stop = Callable[[], object]
T = TypeVar("T")

log = logging.getLogger("aioproc")


Ticket = Awaitable[None]  # one task awaits it, until `Loop.wake`


class Loop(Protocol):
    """One running event loop, of whatever kind."""

    def is_running_here(self) -> bool:
        """Whether the caller runs in it."""

    def watch(self, handle: Handle, ready: Callable[[], object]) -> Stop:
        """Call ``ready`` whenever the descriptor is readable, until stopped; stop before closing it."""

    def later(self, seconds: float, call: Callable[[], object]) -> Stop:
        """Call once, after so many seconds, unless stopped."""

    def spawn(self, work: Callable[[], Awaitable[None]], name: str) -> Stop:
        """Run a coroutine function that nobody awaits; it must not raise. Stopping cancels it."""

    def at_end(self, work: Callable[[], Awaitable[None]]) -> Stop:
        """Run a coroutine function when an asyncio loop shuts down, unless stopped.

        What a callback begins after asyncio.run() has cancelled all tasks is cancelled by nobody else. Under
        trio, which cancels tasks until there is none, it is never run.
        """

    def ticket(self) -> Ticket:
        """A ticket for one waiting task."""

    def wake(self, ticket: Any) -> None:
        """Wake the task that awaits a ticket; more often than once is harmless."""

    def uninterrupted(self, call: Callable[..., T]) -> Callable[..., T]:
        """The same function, but a Ctrl-C cannot end it half-way."""

    def from_thread(self, call: Callable[..., object], *args: object) -> None:
        """Call in the loop, from another thread; ignored when the loop has ended."""


def running_loop() -> Loop:
    """The loop that the caller runs in; RuntimeError when there is none."""
    backend, _ = running_backend()
    if backend == "trio":
        return _TrioLoop()
    return _AsyncioLoop()


class _AsyncioLoop:
    def __init__(self) -> None:
        import asyncio

        self._loop = asyncio.get_running_loop()
        self._running: Callable[[], object] = asyncio._get_running_loop
        self._tasks: set[asyncio.Task[None]] = set()  # the loop itself keeps weak references only
        self._woken: list[Any] | None = None  # while something is called that was watched: by it

    def is_running_here(self) -> bool:
        return self._running() is self._loop

    def watch(self, handle: Handle, ready: Callable[[], object]) -> Stop:
        def woken() -> list[Any]:
            found = self._woken = []
            try:
                ready()
            except BaseException:
                wake_all(found)
                raise
            finally:
                self._woken = None
            return found

        fd = handle.fileno()
        self._loop.add_reader(fd, resumption(self._loop), woken)
        return lambda: self._loop.is_closed() or self._loop.remove_reader(fd)

    def later(self, seconds: float, call: Callable[[], object]) -> Stop:
        return self._loop.call_later(seconds, call).cancel

    def spawn(self, work: Callable[[], Awaitable[None]], name: str) -> Stop:
        task: asyncio.Task[None]
        begun = stopped = False

        def start(cancelled: bool) -> None:
            nonlocal task

            async def run() -> None:
                nonlocal begun
                begun = True
                if cancelled:
                    task.cancel()  # at its first wait
                await work()

            task = self._loop.create_task(run(), name=name)
            self._tasks.add(task)
            task.add_done_callback(ended)

        def ended(task: asyncio.Task[None]) -> None:
            self._tasks.discard(task)
            if not begun and not stopped:  # somebody cancels all tasks: it must learn of that, to clean up
                start(cancelled=True)

        def stop() -> None:
            nonlocal stopped
            stopped = True
            task.cancel()

        start(cancelled=False)
        return stop

    def at_end(self, work: Callable[[], Awaitable[None]]) -> Stop:
        end = _End(work)
        if (register := sys.get_asyncgen_hooks().firstiter) is not None:
            register(end)  # type: ignore[arg-type]
        return end.forget

    def ticket(self) -> Ticket:
        ticket: Ticket = self._loop.create_future()
        return ticket

    def wake(self, ticket: Any) -> None:
        if self._woken is not None:
            self._woken.append(ticket)
        elif not ticket.done():
            ticket.set_result(None)

    def uninterrupted(self, call: Callable[..., T]) -> Callable[..., T]:
        return call  # a Ctrl-C cancels the main task

    def from_thread(self, call: Callable[..., object], *args: object) -> None:
        try:
            self._loop.call_soon_threadsafe(call, *args)
        except RuntimeError:  # the loop is closed: nobody waits any more
            pass


class Audience:
    """Tasks of one loop that wait for the same news, and are woken together."""

    __slots__ = ("_tickets",)

    def __init__(self) -> None:
        self._tickets: dict[Ticket, None] = {}  # in order of arrival

    def __len__(self) -> int:
        return len(self._tickets)

    async def news(self, loop: Loop) -> None:
        """Wait until the next `tell`; who is cancelled leaves nothing behind."""
        ticket = loop.ticket()
        self._tickets[ticket] = None
        try:
            await ticket
        finally:
            self._tickets.pop(ticket, None)

    def tell(self, loop: Loop) -> None:
        """Wake all who wait now."""
        if self._tickets:
            tickets, self._tickets = self._tickets, {}
            for ticket in tickets:
                loop.wake(ticket)


class _End:
    """What `loop.shutdown_asyncgens` takes for an async generator to be closed."""

    def __init__(self, work: Callable[[], Awaitable[None]]) -> None:
        self._work: Callable[[], Awaitable[None]] | None = work

    async def aclose(self) -> None:
        if self._work is not None:
            await self._work()

    def forget(self) -> None:
        self._work = None


class _TrioTicket:
    __slots__ = ("event",)

    def __init__(self, event: Any) -> None:
        self.event = event

    def __await__(self) -> Generator[Any, None, None]:
        waited: Generator[Any, None, None] = self.event.wait().__await__()
        return waited


class _TrioLoop:
    def __init__(self) -> None:
        import trio

        self._trio = trio
        self._token = trio.lowlevel.current_trio_token()

    def is_running_here(self) -> bool:
        try:
            return self._trio.lowlevel.current_trio_token() is self._token
        except RuntimeError:
            return False

    def watch(self, handle: Handle, ready: Callable[[], object]) -> Stop:
        stopped = threading.Event()

        async def call_when_readable() -> None:
            while not stopped.is_set():  # it may be before this task has begun
                with suppress(self._trio.ClosedResourceError):
                    await self._trio.lowlevel.wait_readable(handle.fileno())
                if not stopped.is_set():  # else it was when this task had already been woken
                    ready()

        def stop() -> None:
            if stopped.is_set():
                return
            stopped.set()
            if self.is_running_here():  # a cancellation would keep what is being raised until it is heard
                self._trio.lowlevel.notify_closing(handle.fileno())
            else:
                cancel()

        cancel = self.spawn(call_when_readable, f"watch {handle}")
        return stop

    def later(self, seconds: float, call: Callable[[], object]) -> Stop:
        async def call_later() -> None:
            await self._trio.sleep(seconds)
            call()

        return self.spawn(call_later, "later")

    def spawn(self, work: Callable[[], Awaitable[None]], name: str) -> Stop:
        scope = self._trio.CancelScope()

        async def run() -> None:
            with scope:
                await work()

        self._trio.lowlevel.spawn_system_task(run, name=name)
        return scope.cancel

    def at_end(self, work: Callable[[], Awaitable[None]]) -> Stop:
        return lambda: None

    def ticket(self) -> Ticket:
        return _TrioTicket(self._trio.Event())

    def wake(self, ticket: Any) -> None:
        ticket.event.set()

    def uninterrupted(self, call: Callable[..., T]) -> Callable[..., T]:
        def run(*args: Any, **kwargs: Any) -> T:
            return call(*args, **kwargs)

        protected: Callable[..., T] = self._trio.lowlevel.enable_ki_protection(run)
        return protected

    def from_thread(self, call: Callable[..., object], *args: object) -> None:
        try:
            self._token.run_sync_soon(call, *args)
        except self._trio.RunFinishedError:  # nobody waits any more
            pass
