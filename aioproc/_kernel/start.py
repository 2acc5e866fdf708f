"""Starting a child by fork, forkserver or spawn, without holding up the loop.

The arguments are pickled in the caller's thread, so that they are what they were at the call; only the
launch, which blocks for milliseconds, runs in a thread (a fork does not: it would copy a thread too many).

Source: multiprocessing/popen_fork.py, popen_spawn_posix.py, popen_forkserver.py, pidfd_open(2).
"""

from __future__ import annotations

import atexit
import io
import os
import signal
import threading
from multiprocessing import (
    connection,
    context,
    forkserver,
    popen_fork,
    popen_forkserver,
    popen_spawn_posix,
    process,
    reduction,
    spawn,
    util,
)
from typing import Any, Final

from aioproc._kernel.child import Child, forget_the_parents_loop
from aioproc._kernel.forkserver import server, stdlib_untouched
from aioproc._kernel.handle import Handle

# What typeshed does not know of the stdlib's modules.
_context: Any = context
_forkserver: Any = forkserver
_popen_forkserver: Any = popen_forkserver
_popen_spawn: Any = popen_spawn_posix
_process: Any = process
_util: Any = util

STARTS_AT_ONCE: Final = 4  # more threads would only fight for the interpreter
EXIT_GRACE_SECONDS: Final = 5.0


class _Launch(popen_fork.Popen):
    """How a child is launched, signalled and reaped; `ended` is ready when it has ended."""

    ended: Handle
    pid: int
    child: Child | None = None  # known by the parent until it has ended

    def __init__(self, child: Child) -> None:
        _util._flush_std_streams()
        self.returncode = None
        self.finalizer: Any = None
        self._prepare(child)

    def _prepare(self, child: Child) -> None:
        raise NotImplementedError

    def launch(self) -> None:
        raise NotImplementedError

    def poll(self, flag: int = os.WNOHANG) -> int | None:
        """The exit code, once the child has ended; then everything but `ended` is released."""
        code = self._reap(flag)
        if code is not None and self.child is not None:
            child, self.child = self.child, None
            child.release()
            super().close()
        return code

    def _reap(self, flag: int) -> int | None:
        return popen_fork.Popen.poll(self, flag)

    def close(self) -> None:
        self.ended.close()
        super().close()

    def _watch(self) -> None:
        # A pidfd, because a pipe stays open while a grandchild has inherited it.
        self._ends_with(os.pidfd_open(self.pid))

    def _ends_with(self, fd: int) -> None:
        self.ended = Handle(fd)
        self.sentinel = fd


class _ForkLaunch(_Launch):
    """The whole parent, copied."""

    method = "fork"

    def _prepare(self, child: Child) -> None:
        self._child: Child | None = child

    def launch(self) -> None:
        child, self._child = self._child, None
        assert child is not None
        reading, writing = os.pipe()
        before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:
            self.pid = os.fork()
            if self.pid == 0:
                os.close(writing)
                forget_the_parents_loop()
                signal.pthread_sigmask(signal.SIG_SETMASK, before)
                _be_the_child(child, reading)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        os.close(reading)
        self.finalizer = _util.Finalize(self, _util.close_fds, (writing,))
        self._watch()


def _be_the_child(child: Child, parent_sentinel: int) -> None:
    code = 1
    try:
        atexit._clear()
        atexit.register(_util._exit_function)
        code = child._bootstrap(parent_sentinel)
    finally:
        atexit._run_exitfuncs()
        os._exit(code)


class _FreshLaunch(_Launch):
    """Common to spawn and forkserver: what the child needs is written to it through a pipe."""

    def __init__(self, child: Child) -> None:
        self._fds: list[int] = []
        super().__init__(child)

    def _prepare(self, child: Child) -> None:
        letter = io.BytesIO()
        with stdlib_untouched():
            preparation = spawn.get_preparation_data(child.name)
        preparation.pop("start_method", None)
        child.main = {key: preparation.pop(key) for key in list(preparation) if key.startswith("init_main")}
        _context.set_spawning_popen(self)
        try:
            reduction.dump(preparation, letter)
            reduction.dump(child, letter)
        finally:
            _context.set_spawning_popen(None)
        self._letter = letter.getvalue()


class _SpawnLaunch(_FreshLaunch):
    """A new interpreter."""

    method = "spawn"
    DupFd = _popen_spawn._DupFd

    def duplicate_for_child(self, fd: int) -> int:
        self._fds.append(fd)
        return fd

    def launch(self) -> None:
        from multiprocessing import resource_tracker

        tracker: Any = resource_tracker.getfd()
        reading, writing = os.pipe()
        try:
            command = spawn.get_command_line(tracker_fd=tracker, pipe_handle=reading)
            fds = [*self._fds, tracker, reading]
            self.pid = _util.spawnv_passfds(os.fsencode(spawn.get_executable()), command, fds)
        except BaseException:
            os.close(writing)
            raise
        finally:
            os.close(reading)
        self.finalizer = _util.Finalize(self, _util.close_fds, (writing,))
        self._watch()
        _write_letter(writing, self._letter)


class _ForkServerLaunch(_FreshLaunch):
    """A fork of a clean server process."""

    method = "forkserver"
    DupFd = _popen_forkserver._DupFd

    def duplicate_for_child(self, fd: int) -> int:
        self._fds.append(fd)
        return len(self._fds) - 1

    def launch(self) -> None:
        try:
            status, writing = server.connect_to_new_process(self._fds)
        except (ConnectionError, FileNotFoundError) as failure:
            raise RuntimeError(_SERVER_ENDED) from failure
        self._ends_with(status)
        self.finalizer = _util.Finalize(self, _util.close_fds, (writing,))
        try:
            _write_letter(writing, self._letter)
            self.pid = _forkserver.read_signed(status)
        except (OSError, EOFError) as failure:
            self.close()
            raise RuntimeError(_SERVER_ENDED) from failure

    def _reap(self, flag: int) -> int | None:
        code: int | None = _popen_forkserver.Popen.poll(self, flag)
        return code


_SERVER_ENDED: Final = (
    "the fork server ended before it had made the process. Most often the main module starts processes "
    'while it is imported: put what starts them under `if __name__ == "__main__":`. '
    "The traceback is on standard error."
)

LAUNCHES: Final[dict[str, type[_Launch]]] = {
    "fork": _ForkLaunch,
    "forkserver": _ForkServerLaunch,
    "spawn": _SpawnLaunch,
}


def _write_letter(fd: int, letter: bytes) -> None:
    # Blocks until the child has read what the pipe cannot hold.
    with open(fd, "wb", closefd=False) as pipe:
        try:
            pipe.write(letter)
            pipe.flush()
        except BrokenPipeError:  # it died at once; its end tells
            pass


async def start(child: Child, method: str) -> None:
    """Start the child.

    If cancelled: There is no child: one that was already made is killed.
    """
    _process._cleanup()
    launch = LAUNCHES[method](child)
    if method == "fork":
        async with _limiter():  # other tasks run between two forks
            launch.launch()
    else:
        await _in_a_thread(launch)
    _register(child, launch)


def start_blocking(child: Child, method: str) -> None:
    """Start the child from code that has no loop."""
    _process._cleanup()
    launch = LAUNCHES[method](child)
    launch.launch()
    _register(child, launch)


def _register(child: Child, launch: _Launch) -> None:
    inner: Any = child
    inner._popen = launch
    inner._sentinel = launch.sentinel
    launch.child = child
    _process._children.add(child)
    if child.daemon:
        _end_daemons_at_exit()


async def _in_a_thread(launch: _Launch) -> None:
    import anyio

    guard, abandoned, done = threading.Lock(), False, False

    def work() -> None:
        nonlocal done
        launch.launch()
        with guard:
            done = True
            if abandoned:
                _undo(launch)

    try:
        await anyio.to_thread.run_sync(work, abandon_on_cancel=True, limiter=_limiter())
    except BaseException:  # a cancellation; trio also raises KeyboardInterrupt here
        with guard:
            abandoned = True
            if done:
                _undo(launch)
        raise


def _undo(launch: _Launch) -> None:
    launch.kill()
    launch.wait()
    launch.close()


def _limiter() -> Any:
    import anyio
    from anyio.lowlevel import RunVar

    global _limiters
    if _limiters is None:
        _limiters = RunVar("aioproc starts")
    limiter = _limiters.get(None)
    if limiter is None:
        limiter = anyio.CapacityLimiter(STARTS_AT_ONCE)
        _limiters.set(limiter)
    return limiter


_limiters: Any = None
_finalized_in: int | None = None


def _end_daemons_at_exit() -> None:
    global _finalized_in
    if _finalized_in != os.getpid():
        _finalized_in = os.getpid()
        _util.Finalize(None, _end_daemons, exitpriority=100)


def _end_daemons() -> None:
    """Stop the daemons: SIGTERM, so that they unwind, then SIGKILL."""
    launches = [
        child._popen  # type: ignore[attr-defined]
        for child in list(_process._children)
        if isinstance(child, Child) and child.daemon
    ]
    for launch in launches:
        launch.terminate()
    waiting = {launch.sentinel: launch for launch in launches if launch.poll() is None}
    deadline = _now() + EXIT_GRACE_SECONDS
    while waiting and (left := deadline - _now()) > 0:
        for sentinel in connection.wait(list(waiting), left):
            waiting.pop(sentinel).wait()
    for launch in waiting.values():
        launch.kill()


def _now() -> float:
    import time

    return time.monotonic()
