"""ProcessGroup: structured concurrency for processes."""

from __future__ import annotations

import signal
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, NoReturn, ParamSpec, Self, TypeVar, overload

import anyio
from anyio.abc import TaskGroup

from aioproc.errors import ProcessDied
from aioproc.local.process import Process, checked_grace

if TYPE_CHECKING:
    from aioproc._kernel.ending import Ending

__all__ = ["ProcessGroup"]

P = ParamSpec("P")
T = TypeVar("T")
GRACE_SECONDS: Final = 5.0


class ProcessGroup:
    """Processes that are joined when the block ends, and stopped together when one of them fails.

    Args:
        grace: Seconds between SIGTERM and SIGKILL when the rest is stopped.

    If cancelled: All its processes are stopped before the cancellation goes on.
    If a peer dies: A child's death is a failure (ProcessDied), which stops the rest, unless it was wished
    for: by its own `terminate`, `kill`, `interrupt` or `stop`, or by Ctrl-C, which this process gets as
    well. The death of this process, by whatever signal, ends all of them at once.

    Example:
        >>> async def main():
        ...     async with ProcessGroup() as group:
        ...         small = await group.start(pow, 2, 3)
        ...         large = await group.start(pow, 2, 30)
        ...     print(await small.result(), await large.result())
        >>> run(main)
        8 1073741824
    """

    _context: Any = None  # a Context's own class has it

    def __init__(self, grace: float = GRACE_SECONDS) -> None:
        self._grace = checked_grace(grace)
        self._tasks: TaskGroup | None = None
        self._running = set[Process[Any]]()  # or ended, and not yet heard of
        self._started = 0

    async def __aenter__(self) -> Self:
        if self._tasks is not None:
            raise RuntimeError("this group was entered already, and not left")
        self._tasks = anyio.create_task_group()
        await self._tasks.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        tasks, self._tasks = self._tasks, None
        if tasks is None:
            raise RuntimeError("this group was not entered")
        return await tasks.__aexit__(kind, error, trace)

    @overload
    async def start(
        self, target: Callable[P, Awaitable[T]], /, *args: P.args, **kwargs: P.kwargs
    ) -> Process[T]: ...

    @overload
    async def start(self, target: Process[T], /) -> Process[T]: ...

    @overload
    async def start(self, target: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Process[T]: ...

    async def start(self, target: Any, /, *args: Any, **kwargs: Any) -> Process[Any]:
        """Start a process in this group.

        Args:
            target: What it runs, with the arguments that follow; or a `Process` that was not started.

        Raises:
            RuntimeError: The block has not been entered, or has ended, perhaps while the process was started.
            TypeError: Arguments beside a `Process`, or a target that is not callable.

        If cancelled: There is no new child.
        """
        tasks = self._tasks
        if tasks is None:
            raise RuntimeError("processes are started inside `async with ProcessGroup() as group:`")
        process = self._as_process(target, args, kwargs)
        ending = await process._start(quiet=True, bound=True)
        if self._tasks is not tasks:  # the block's end did not wait for it
            process.kill()
            with anyio.CancelScope(shield=True):
                await process.join()
            raise RuntimeError("the block of the ProcessGroup ended while the process was started")
        self._started += 1
        self._running.add(process)
        tasks.start_soon(self._watch, process, ending, name=f"watch {process.name}")
        return process

    async def _watch(self, process: Process[Any], ending: Ending[Any]) -> None:
        try:
            await ending.result()
        except ProcessDied as died:
            # Its end may have been wished for: by a method of its own, or by Ctrl-C, which we get as well.
            if not (process._asked or died.exitcode == -signal.SIGINT):
                raise
        finally:
            if ending.exitcode() is None:
                with anyio.CancelScope(shield=True):
                    await process.stop(self._grace)
            self._running.discard(process)

    def _as_process(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Process[Any]:
        if not isinstance(target, Process):
            kind: type[Process[Any]] = self._context.Process if self._context else Process
            return kind(target=target, args=args, kwargs=kwargs)
        if args or kwargs:
            raise TypeError("a Process has its arguments already; give it alone")
        return target

    def __reduce__(self) -> NoReturn:
        raise NotImplementedError("process groups cannot be passed between processes or pickled")

    def __repr__(self) -> str:
        alive = sum(not one._is_closed() and one.is_alive() for one in self._running)
        return f"<ProcessGroup {alive} of {self._started} alive>"
