"""Process: multiprocessing's process whose waits are awaitable, whose target may be a coroutine function.

One stdlib process object stands behind each of ours (see ``_kernel/child.py``), so that names, daemons,
``multiprocessing.active_children()`` and the join at exit follow the stdlib's rules.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Awaitable, Callable, Generator, Iterable, Mapping
from multiprocessing import process
from types import TracebackType
from typing import Any, Final, Generic, Literal, Self, TypeVar, cast, overload

from aioproc._kernel.arguments import arguments, keywords, not_callable, seconds
from aioproc._kernel.channel import Channel, channel
from aioproc._kernel.child import Child, Work, refuse_while_importing_main
from aioproc._kernel.ending import Ending
from aioproc._kernel.handle import Handle
from aioproc._kernel.lifeline import lifeline
from aioproc._kernel.start import Starting, start
from aioproc._kernel.waiting import running_backend, without_fail
from aioproc.local.attributes import Attributes, check, launch_of

__all__ = [
    "ForkProcess",
    "ForkServerProcess",
    "Process",
    "SpawnProcess",
    "active_children",
    "current_process",
]

T = TypeVar("T")
GRACE_SECONDS: Final = 5.0


class Process(Attributes, Generic[T]):
    """A process that can be awaited.

    Args:
        group: Always None, as in the stdlib.
        target: What the child runs: a plain function, or an ``async def`` that gets an event loop of the same
            kind as the parent's.
        name: Its name; "Process-N" by default.
        args: The target's positional arguments, a tuple or whatever else yields them.
        kwargs: The target's keyword arguments.
        daemon: A daemon never outlives this process, not even one that is killed; None takes over the
            current process's setting.
        stdin: "inherit" lets the child read this process's standard input; by default ``input()`` there says
            that there is none.

    Raises:
        TypeError: ``target`` is not callable, ``args`` has no order or is a string, ``kwargs`` no mapping.

    If a peer dies: A child that is killed is noticed at once by `join` and `result`. A daemon, and every
    child of a `ProcessGroup` or an `AsyncPool`, is killed by the kernel when this process ends in any way.

    Example:
        >>> async def main():
        ...     async with Process(target=pow, args=(2, 5)) as p:
        ...         print(await p.result())
        >>> run(main)
        32
    """

    _method: str | None = None
    _starting: Starting | None = None  # from the beginning of its start
    _ending: Ending[T] | None = None  # from the end of its start

    @overload
    def __init__(
        self: Process[T],
        group: None = None,
        target: Callable[..., Awaitable[T]] | None = None,
        name: str | None = None,
        args: Iterable[Any] = (),
        kwargs: Mapping[str, Any] = {},
        *,
        daemon: bool | None = None,
        stdin: Literal["inherit"] | None = None,
    ) -> None: ...

    @overload
    def __init__(
        self: Process[T],
        group: None = None,
        target: Callable[..., T] | None = None,
        name: str | None = None,
        args: Iterable[Any] = (),
        kwargs: Mapping[str, Any] = {},
        *,
        daemon: bool | None = None,
        stdin: Literal["inherit"] | None = None,
    ) -> None: ...

    def __init__(
        self,
        group: None = None,
        target: Callable[..., Any] | None = None,
        name: str | None = None,
        args: Iterable[Any] = (),
        kwargs: Mapping[str, Any] = {},
        *,
        daemon: bool | None = None,
        stdin: Literal["inherit"] | None = None,
    ) -> None:
        _check_arguments(group, target, name, stdin)
        args, kwargs = arguments("args", args), keywords("kwargs", kwargs)
        super().__init__(name, daemon)
        self._target = target
        self._args = args
        self._kwargs = kwargs
        self._stdin = stdin
        self._asked = False

    def run(self) -> Any:
        """What the child does: call the target. Override it with ``def`` or ``async def``."""
        if self._target is not None:
            return self._target(*self._args, **self._kwargs)
        return None

    # Starting

    async def start(self) -> None:
        """Start the child, once per object; other tasks go on meanwhile. One that failed can be tried again.

        Raises:
            AssertionError: It was started before, or is being started; or a daemon tries to have children.
            pickle.PicklingError: The target or an argument cannot travel to the child.
            RuntimeError: The main module starts processes while it is imported (its guard is missing).

            OSError: No descriptor or process is to be had; there is no child.

        If cancelled: There is no child; one that was already made is killed.
        Cost: 5-10 ms with forkserver, in a thread; see docs/design/starting.md.
        """
        await self._start(quiet=False, bound=False)

    async def _start(self, quiet: bool, bound: bool) -> Ending[T]:
        child = self._child
        self._check_startable(child)
        starting = self._starting = Starting()
        try:
            ours = await self._start_once(child, quiet, bound)
        except BaseException:
            self._starting = None  # it can be tried again
            raise
        finally:
            starting.end()
        self._ending = Ending(child, launch_of(child), ours)
        self._target, self._args, self._kwargs = None, (), {}
        return self._ending

    async def _start_once(self, child: Child, quiet: bool, bound: bool) -> Channel:
        ours, theirs = channel()
        ours.handle.keep_from_forks()
        child.home = theirs
        child.quiet = quiet
        child.default_method = _default_method()
        try:
            if bound or child.daemon:
                child.lifeline_of_parent, child.lifeline = lifeline()
            stdin = Handle(os.dup(0)) if self._stdin == "inherit" else None
            child.work = Work(self, running_backend(), stdin)
            await start(child, self._how())
        except BaseException:
            ours.close()
            raise
        finally:
            _close_childs_copies(child)
        return ours

    def _how(self) -> str:
        from aioproc.context import get_start_method

        return type(self)._method or get_start_method()

    def _check_startable(self, child: Child) -> None:
        child._check_closed()  # type: ignore[attr-defined]
        refuse_while_importing_main()
        check(self._starting is None, "cannot start a process twice")
        self._check_parent("can only start a process object created by current process")
        daemonic = process.current_process().daemon
        check(not daemonic, "daemonic processes are not allowed to have children")

    def _check_parent(self, message: str) -> None:
        check(self._child._parent_pid == os.getpid(), message)  # type: ignore[attr-defined]

    # Waiting

    async def join(self, timeout: float | None = None) -> None:
        """Wait until the child has ended.

        Args:
            timeout: Seconds to wait at most; None waits for ever.

        Raises:
            AssertionError: It was not started, or it is not a child of this process.
            ValueError: The object is closed, or ``timeout`` is negative.

        Returns None either way, as in the stdlib: look at `exitcode`.

        If cancelled: The child goes on.
        If a peer dies: That is what it waits for.
        """
        try:
            await self._joinable(timeout).wait(timeout)
        except TimeoutError:
            pass

    async def result(self, timeout: float | None = None) -> T:
        """Wait until the child has ended, and return what its target returned.

        Args:
            timeout: Seconds to wait at most; None waits for ever.

        Raises:
            Exception: The target's own, with the child's traceback as its cause.
            RemoteError: It could not be pickled, or is no Exception (a cancellation); this is its text.
            ProcessDied: It ended without a result: killed, or by ``sys.exit``.
            TimeoutError: It still runs.
            OSError: No descriptor is free for what came home; it can be asked for again.
            AssertionError, ValueError: As for `join`.

        If cancelled: The child goes on, and the result can be asked for again.
        If a peer dies: ProcessDied; a result is whole or not there.
        """
        return await self._joinable(timeout).result(timeout)

    def __await__(self) -> Generator[Any, None, T]:
        """Start it if it was not started, then wait for its `result`."""
        return self._start_and_wait().__await__()

    async def _start_and_wait(self) -> T:
        starting = self._starting
        if starting is None:
            await self._start(quiet=True, bound=False)
        else:
            await starting.ended()
            if self._starting is not starting:  # who had begun it was cancelled, or failed
                return await self._start_and_wait()
        return await self.result()

    def _joinable(self, timeout: float | None, name: str = "timeout") -> Ending[T]:
        self._child._check_closed()  # type: ignore[attr-defined]
        if timeout is not None:
            seconds(name, timeout)
        self._check_parent("can only join a child process")
        check(self._ending is not None, "can only join a started process")
        return cast("Ending[T]", self._ending)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None and not self._is_closed():
                await self.join()
        finally:
            if not self._is_closed() and self._child.exitcode is None:
                await without_fail(self.stop, _nothing)

    # Ending it

    async def stop(self, grace: float = GRACE_SECONDS) -> int:
        """Ask the child to end (SIGTERM), wait, and kill it (SIGKILL) when ``grace`` seconds have passed.

        Returns:
            Its exit code, -15 or what it ended with before, or -9 when it had to be killed.

        Raises:
            AssertionError, ValueError: As for `join`; ``grace`` is negative.

        If cancelled: It is killed at once.
        """
        self._joinable(grace, "grace")
        self.terminate()
        try:
            await self.join(grace)
        finally:
            if self._child.exitcode is None:
                self.kill()
                await without_fail(self.join, _nothing)
        return cast("int", self._child.exitcode)

    def terminate(self) -> None:
        """Send SIGTERM: an async target is cancelled, a plain one unwound, and the exit code is -15.

        ``finally`` blocks run. A child that ignores it, or is busy in C code, goes on: see `stop`.
        """
        self._send(signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL: it ends at once; its daemons and groups end with it. Exit code -9."""
        self._send(signal.SIGKILL)

    def interrupt(self) -> None:
        """Send SIGINT, as Ctrl-C does. Exit code -2."""
        self._send(signal.SIGINT)

    def _send(self, number: signal.Signals) -> None:
        child = self._child
        child._check_closed()  # type: ignore[attr-defined]
        launch = launch_of(child)
        if launch is None:
            raise ValueError("process not started")
        self._asked = True
        launch._send_signal(number)

    def close(self) -> None:
        """Release what belongs to the object; afterwards its methods and attributes raise ValueError.

        Raises:
            ValueError: The child still runs, or is being started.
        """
        child = self._child
        if self._starting is not None and self._ending is None and not self._is_closed():
            raise ValueError("cannot close a process while it is being started")
        child.close()
        self._ending = None

    def _is_closed(self) -> bool:
        return bool(self._child._closed)  # type: ignore[attr-defined]

    # In the child

    def __reduce_ex__(self, protocol: Any) -> Any:
        """As Python does it, or a subclass, without what belongs to the process that made it."""
        reduced: Any = super().__reduce_ex__(protocol)
        if isinstance(reduced, tuple) and len(reduced) > 2:
            return (*reduced[:2], _without_ours(reduced[2]), *reduced[3:])
        return reduced

    def born(self, child: Child) -> None:
        """Called in the child; not for users."""
        super().born(child)
        if child.default_method is not None:
            from aioproc.context import set_start_method

            set_start_method(child.default_method, force=True)

    def perform(self) -> Any:
        """Called in the child; not for users."""
        return self.run()


class ForkProcess(Process[T]):
    """A process started by fork: everything is inherited, nothing pickled."""

    _method = "fork"


class ForkServerProcess(Process[T]):
    """A process forked from a clean server process."""

    _method = "forkserver"


class SpawnProcess(Process[T]):
    """A process with a new interpreter."""

    _method = "spawn"


def checked_grace(grace: float) -> float:
    """The seconds between SIGTERM and SIGKILL; TypeError or ValueError where they are none."""
    return seconds("grace", grace)


def active_children() -> list[Process[Any]]:
    """The children of this process that still run; those that ended are reaped, as in the stdlib.

    A pool's workers are the pool's, and not among them.
    """
    owners = [child.owner for child in process.active_children() if isinstance(child, Child)]
    return [owner for owner in owners if isinstance(owner, Process)]


def current_process() -> Process[Any] | process.BaseProcess:
    """The object of this process: our `Process` in a child of ours, else the stdlib's."""
    current = process.current_process()
    owner = current.owner if isinstance(current, Child) else None  # in a child, once it is unpickled
    return owner if isinstance(owner, Process) else current


def _check_arguments(group: object, target: object, name: object, stdin: object) -> None:
    check(group is None, "group argument must be None for now")
    if target is not None and not callable(target):
        not_callable("target", target, "target={}, args=(...)")
    check(name is None or isinstance(name, str), f"name must be a string, not {name!r}")
    if stdin not in (None, "inherit"):
        raise ValueError(f"stdin must be None or 'inherit', not {stdin!r}")


def _close_childs_copies(child: Child) -> None:
    stdin = child.work.stdin if isinstance(child.work, Work) else None
    for handle in (child.lifeline, child.home and child.home.handle, stdin):
        if handle is not None:
            handle.close()
    child.work = None


def _without_ours(state: Any) -> Any:
    """A state, which may be a pair with that of the slots, without the attributes that stay here."""
    if isinstance(state, tuple) and len(state) == 2:
        return _without_ours(state[0]), state[1]
    if not isinstance(state, dict):
        return state
    return {key: value for key, value in state.items() if key not in _STAY}


_STAY: Final = {"_Attributes__child", "_ending", "_starting"}


def _nothing() -> None:
    """What follows a wait that had to be finished."""


def _default_method() -> str | None:
    context = sys.modules.get("aioproc.context")
    return context.get_start_method(allow_none=True) if context else None
