"""A process that we started, and what it does before and after the work it was started for.

Source: multiprocessing/process.py (BaseProcess._bootstrap), multiprocessing/spawn.py (prepare), signal(7).
"""

from __future__ import annotations

import io
import os
import signal
import sys
import warnings
from collections.abc import AsyncGenerator, Awaitable, Generator
from multiprocessing import process, spawn, util
from types import FrameType
from typing import Any, Final, NoReturn, Protocol

from aioproc._kernel.channel import Channel
from aioproc._kernel.handle import Handle
from aioproc._kernel.lifeline import die_with
from aioproc._kernel.outcome import described, raised, returned
from aioproc._kernel.parcel import Packed, main_shared, pickled, unpack
from aioproc._kernel.unshared import handle_only_here, keep_here
from aioproc._kernel.waiting import found_in

SIGNALS_THAT_UNWIND: Final = (signal.SIGTERM, signal.SIGINT)


class Owner(Protocol):
    """What a child works for: it travels there, is told which child it is, and performs."""

    def born(self, child: Child) -> None:
        """Called first in the child."""

    def perform(self) -> Any:
        """Do the work; an awaitable that this returns is run in an event loop."""


class Work:
    """What a child is to do, and with what.

    Args:
        owner: Who performs it.
        loop: Name and options of anyio's backend, as ``anyio.run`` takes them.
        stdin: The parent's standard input, or None for a child that has none.
    """

    def __init__(self, owner: Owner, loop: tuple[str, dict[str, Any]], stdin: Handle | None = None) -> None:
        self.owner = owner
        self.loop = loop
        self.stdin = stdin

    def __repr__(self) -> str:  # as it stands in the error when it cannot be pickled
        call = {name: value for name, value in vars(self.owner).items() if name in _CALLS and value}
        return f"{self.owner!r} with {call}"


_CALLS: Final = {"_target", "_args", "_kwargs", "initializer", "initargs"}


class Unwinding(SystemExit):
    """Raised in the main thread of a plain child by SIGTERM, so that its ``finally`` blocks run."""


class Child(process.BaseProcess):
    """The multiprocessing process behind ours: registered, named and joined at exit as the stdlib's are.

    Attributes:
        owner: The object that users hold, there and in the child.
        quiet: Whether the child prints no exception, because somebody waits for it at home.
        deaf: Whether signals wait until its owner is born, which then calls `listen_to_signals`.
        default_method: How processes are started there where nothing else is said; None for the usual way.
        forked: In the child: whether it is a copy of its parent.
        ended_by: In the child: the signal that unwound it, by which it then dies.
    """

    _start_method: str | None = None  # leave the stdlib's setting alone
    ended_by: int | None = None

    def __init__(self, owner: Any, name: str | None, daemon: bool | None) -> None:
        super().__init__(name=name, daemon=daemon)
        if not name:
            self.name = self.name.replace(type(self).__name__, type(owner).__name__, 1)
        self.owner = owner
        self.work: Work | bytes | None = None
        self.quiet = False
        self.deaf = False
        self.default_method: str | None = None
        self.forked = False
        self.main: dict[str, Any] = {}
        self.home: Channel | None = None
        self.lifeline: Handle | None = None
        self.lifeline_of_parent: Handle | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        # The work is pickled apart, so that what goes wrong while it is unpickled can be reported home.
        apart = ("owner", "work", "lifeline_of_parent", "_popen")
        state = {key: value for key, value in vars(self).items() if key not in apart}
        work = pickled(self.work)
        return _revived, (type(self), state, work)

    def release(self) -> None:
        """In the parent, after the end: let go of what only a running child needs."""
        self.owner = None
        if self.lifeline_of_parent is not None:
            self.lifeline_of_parent.close()

    # Everything below runs in the child.

    def _bootstrap(self, parent_sentinel: int | None = None) -> int:
        if not self.deaf:
            _die_by_signals()  # until there is something to unwind
            listen_to_signals()
        if self.lifeline is not None:
            die_with(self.lifeline)
        try:
            code: int = super()._bootstrap(parent_sentinel)  # type: ignore[misc]
        finally:
            if self.ended_by is not None:
                _die_by(self.ended_by)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # nothing is left to unwind
        return code

    def run(self) -> None:
        """Do the work and send its outcome home."""
        assert self.home is not None
        try:
            outcome = self._outcome()
            _die_by_signals()  # nothing is left to unwind
        except (Unwinding, KeyboardInterrupt) as stopped:
            terminated = isinstance(stopped, Unwinding) or _told_trio is not None
            self.ended_by = signal.SIGTERM if terminated else signal.SIGINT
            for number in SIGNALS_THAT_UNWIND:  # a further one does not disturb what happens at exit
                signal.signal(number, signal.SIG_IGN)
            _leave_children()
            raise SystemExit from None
        if isinstance(outcome, SystemExit):
            raise outcome
        if isinstance(outcome, BaseException):
            self._fail(self.home, outcome)
        try:
            _delivered(self.home, outcome)
        except OSError as error:  # no descriptor or no memory for what goes along
            self._fail(self.home, error)

    def _outcome(self) -> Packed | BaseException:
        try:
            value = self._performed(self._unpacked())
            with main_shared(self.forked):
                return returned(value)
        except (Unwinding, KeyboardInterrupt):
            raise
        except BaseExceptionGroup as group:
            if group.subgroup(KeyboardInterrupt) is not None:  # it came to a nursery
                raise KeyboardInterrupt from None
            return group
        except BaseException as error:
            return error

    def _fail(self, home: Channel, error: BaseException) -> NoReturn:
        with main_shared(self.forked):
            delivered = _delivered(home, raised(error))
        if not (self.quiet and delivered):
            sys.stderr.write(f"Process {self.name}:\n{described(error)}")
        raise SystemExit(1)

    def _unpacked(self) -> Work:
        _unwind_by_signals()
        if isinstance(self.work, bytes):
            import_main(self.main)
            self.work = unpack(self.work)
        work = self.work
        assert isinstance(work, Work)
        self.owner = work.owner
        work.owner.born(self)
        _open_stdin(work.stdin)
        return work

    def _performed(self, work: Work) -> Any:
        result = work.owner.perform()
        if isinstance(result, Awaitable):
            return _in_a_loop(result, work.loop)
        if isinstance(result, (AsyncGenerator, Generator)):
            raise TypeError(
                f"{getattr(result, '__qualname__', result)}() is a generator, which a process cannot run: "
                "return a value, or have AsyncPool.stream() hand out what it yields"
            )
        return result


def deafened() -> set[Any]:
    """Let signals to this thread, and to a process that it makes, wait; what was waiting already before."""
    return signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS_THAT_UNWIND)


def listen_to_signals() -> None:
    """Take the signals that were held back while this process was made."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS_THAT_UNWIND)


def _die_by_signals() -> None:
    """What unwinds ends this process at once; what somebody else has set stays."""
    if signal.getsignal(signal.SIGTERM) is _unwind:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)


def _unwind_by_signals() -> None:
    handle_only_here(signal.SIGTERM, _unwind)
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _revived(kind: type[Child], state: dict[str, Any], work: bytes) -> Child:
    child = kind.__new__(kind)
    vars(child).update(state, work=work, owner=None, lifeline_of_parent=None, _popen=None)
    return child


def _delivered(home: Channel, outcome: Any) -> bool:
    try:
        home.send(outcome)
    except ConnectionError:  # nobody is at home any more
        return False
    return True


def forget_the_parents_loop() -> None:
    """Cut what a fork shares with the parent's loop: wake-up descriptor, handlers, "a loop runs here"."""
    signal.set_wakeup_fd(-1)
    for number in signal.valid_signals():
        if callable(signal.getsignal(number)):
            normal = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
            signal.signal(number, normal)
    if set_running_loop := found_in("asyncio", "_set_running_loop"):
        set_running_loop(None)
    if run_context := found_in("trio._core._run", "GLOBAL_RUN_CONTEXT"):
        vars(run_context).clear()
    if library := found_in("sniffio", "thread_local"):
        library.name = None
        sys.modules["sniffio"].current_async_library_cvar.set(None)


def _unwind(number: int, frame: FrameType | None) -> None:
    if not _unwinds_already():
        # It may come when the target has made its coroutine and nothing awaits it yet.
        warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
        if not _left_to_trio(frame):
            raise Unwinding(128 + number)


_told_trio: Any = (
    None  # what handles a SIGINT in the run of trio that was told to unwind, by a KeyboardInterrupt
)


def _left_to_trio(frame: FrameType | None) -> bool:
    """Where a plain target runs trio itself: have that unwind its tasks, as at a SIGINT.

    What is raised in its scheduler would leave them as they are. Source: trio/_core/_ki.py.
    """
    global _told_trio
    handler: Any = signal.getsignal(signal.SIGINT)
    if getattr(handler, "__module__", None) != "trio._core._ki":
        return False
    if handler is not _told_trio:
        _told_trio = handler
        handler(signal.SIGINT, frame)
    return True


def _unwinds_already() -> bool:
    """Whether the code that the signal interrupted is a `finally` or `except` reached by an earlier one."""
    error = sys.exception()
    while error is not None and not isinstance(error, (Unwinding, KeyboardInterrupt)):
        error = error.__context__
    return error is not None


def _leave_children() -> None:
    """Wait at exit for the daemons alone, which are ended; whom a signal ends waits for no others."""
    children: set[Any] = process._children  # type: ignore[attr-defined]
    children.difference_update([child for child in children if not child.daemon])


def _die_by(number: int) -> None:
    """End as the signal would have ended us, after what must happen at exit."""
    for one in SIGNALS_THAT_UNWIND:
        signal.signal(one, signal.SIG_DFL)
    try:
        util._run_finalizers(0)  # type: ignore[attr-defined]
    finally:
        os.kill(os.getpid(), number)


def import_main(main: dict[str, Any]) -> None:
    """Import the parent's main module as ``__mp_main__``, as multiprocessing does."""
    current: Any = process.current_process()
    current._inheriting = True  # starting a process now would never end: multiprocessing refuses it too
    try:
        if "init_main_from_name" in main:
            spawn._fixup_main_from_name(main["init_main_from_name"])  # type: ignore[attr-defined]
        elif "init_main_from_path" in main:
            spawn._fixup_main_from_path(main["init_main_from_path"])  # type: ignore[attr-defined]
    finally:
        del current._inheriting


def refuse_while_importing_main() -> None:
    """RuntimeError while the parent's main module is being imported here: its guard is missing."""
    if getattr(process.current_process(), "_inheriting", False):
        raise RuntimeError(
            "a new process imports the main module, and that module starts processes while it is imported. "
            'Put what starts them under `if __name__ == "__main__":`, or into a function called from there.'
        )


class _NoStdin(io.TextIOWrapper):
    """An empty standard input that says why it is empty."""

    def _refuse(self, *args: object) -> NoReturn:
        raise EOFError(
            "this process has no standard input; "
            "start it with Process(..., stdin='inherit') to let it read the parent's"
        )

    read = readline = __next__ = _refuse


def _open_stdin(inherited: Handle | None) -> None:
    if inherited is None:
        nothing = os.open(os.devnull, os.O_RDONLY)
        if sys.stdin is not None:  # else the program was started without, and 0 is something else here
            os.dup2(nothing, 0)
        # It does not own its descriptor, so that nobody is warned of one that was not closed.
        sys.stdin = _NoStdin(open(nothing, "rb", closefd=False))  # noqa: SIM115
    else:
        os.dup2(inherited.fileno(), 0)
        inherited.close()
        first: Any = sys.__stdin__  # by which Python decided how text is read here
        encoding, errors = (None, None) if first is None else (first.encoding, first.errors)
        sys.stdin = open(0, encoding=encoding, errors=errors, closefd=False)  # noqa: SIM115


def _in_a_loop(work: Awaitable[Any], loop: tuple[str, dict[str, Any]]) -> Any:
    """Run an awaitable in a new event loop; a signal that unwinds cancels it."""
    import anyio

    answer = _Answer()
    heard = [signal.SIGTERM]
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        heard.append(signal.SIGINT)
    for number in heard:
        handle_only_here(number, answer.note)  # what comes before the loop listens, and after
    backend, options = loop
    anyio.run(_cancelled_by_signals, work, answer, heard, backend=backend, backend_options=options)
    _unwind_by_signals()
    return answer.open()


class _Answer:
    """The outcome of a task, carried past the task group, which would wrap an exception in a group."""

    value: Any = None
    error: BaseException | None = None
    stopped_by: int | None = None

    def note(self, number: int, frame: FrameType | None = None) -> None:
        self.stopped_by = self.stopped_by or number

    def open(self) -> Any:
        if self.stopped_by == signal.SIGTERM:
            raise Unwinding
        if self.stopped_by is not None:
            raise KeyboardInterrupt
        if self.error is not None:
            raise self.error
        return self.value


async def _cancelled_by_signals(work: Awaitable[Any], answer: _Answer, heard: list[signal.Signals]) -> None:
    import anyio

    scope = anyio.CancelScope()

    async def watch(*, task_status: Any) -> None:
        with anyio.open_signal_receiver(*heard) as signals:
            keep_here(*heard)
            task_status.started()
            if answer.stopped_by is not None:
                scope.cancel()
            async for number in signals:
                answer.note(number)
                scope.cancel()

    async with anyio.create_task_group() as group:
        await group.start(watch)
        with scope:
            try:
                answer.value = await work
            except anyio.get_cancelled_exc_class():
                raise
            except BaseException as error:
                answer.error = error
        group.cancel_scope.cancel()
