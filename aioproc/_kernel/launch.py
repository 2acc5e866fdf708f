"""How a child is launched: by fork, by spawn, or by a fork server; and how its end is seen.

Source: multiprocessing/popen_fork.py, popen_spawn_posix.py, popen_forkserver.py, pidfd_open(2).
"""

from __future__ import annotations

import atexit
import io
import os
import signal
import threading
from contextlib import suppress
from multiprocessing import (
    connection,
    context,
    forkserver,
    popen_fork,
    popen_forkserver,
    popen_spawn_posix,
    reduction,
    spawn,
    util,
)
from typing import Any, Final

from aioproc._kernel.child import SIGNALS_THAT_UNWIND, Child, deafened, forget_the_parents_loop
from aioproc._kernel.forkserver import GONE, server, stdlib_untouched
from aioproc._kernel.handle import Handle

# What typeshed does not know of the stdlib's modules.
_context: Any = context
_forkserver: Any = forkserver
_popen_forkserver: Any = popen_forkserver
_popen_spawn: Any = popen_spawn_posix
_util: Any = util


UNKNOWN_EXITCODE: Final = 255  # as the stdlib says when the fork server cannot tell any more


class Launch(popen_fork.Popen):
    """How a child is launched, signalled and reaped; `ended` is ready when it has ended."""

    ended: Handle
    pid: int
    _alive: Handle | None = None  # a pidfd
    child: Child | None = None  # known by the parent until it has ended

    def __init__(self, child: Child) -> None:
        _util._flush_std_streams()
        self.returncode = None
        self.finalizer: Any = None
        self._reaping = threading.RLock()  # by one thread; again by a signal handler
        self._prepare(child)

    def _prepare(self, child: Child) -> None:
        raise NotImplementedError

    def launch(self) -> None:
        raise NotImplementedError

    def forget(self) -> None:
        """It will not be launched: let go of what was kept for that."""

    def poll(self, flag: int = os.WNOHANG) -> int | None:
        """The exit code, once the child has ended; then everything but `ended` is released."""
        while self.returncode is None:
            seen = self.ended
            if not connection.wait([seen.fileno()], 0 if flag == os.WNOHANG else None):
                return None
            with self._reaping:
                if self.returncode is None and self.ended is seen:
                    self._reap()
        with self._reaping:
            child, self.child = self.child, None
        if child is not None:
            child.release()
            super().close()
        return self.returncode

    def _reap(self) -> None:
        """Learn the exit code, or find another `ended` to wait for."""
        if popen_fork.Popen.poll(self, 0) is None:  # SIGCHLD is ignored, or others wait for any child
            self.returncode = UNKNOWN_EXITCODE

    def close(self) -> None:
        self.ended.close()
        super().close()

    def _watch(self) -> None:
        # A pidfd, because a pipe stays open while a grandchild has inherited it.
        try:
            self._ends_with(os.pidfd_open(self.pid))
        except BaseException:  # no descriptor is free
            os.kill(self.pid, signal.SIGKILL)
            with suppress(ChildProcessError):
                os.waitpid(self.pid, 0)
            raise
        self._alive = self.ended

    def _send_signal(self, sig: int) -> None:
        # By pidfd, since the number of one that somebody has reaped may be another's by now.
        if self.returncode is None and self._alive is not None:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._alive.fileno(), sig)

    def _ends_with(self, fd: int) -> None:
        self.ended = Handle(fd)
        self.sentinel = fd


class _ForkLaunch(Launch):
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
                signal.pthread_sigmask(signal.SIG_SETMASK, before.union(SIGNALS_THAT_UNWIND))
                _be_the_child(child, reading)
        except OSError:  # there are too many processes
            os.close(writing)
            raise
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
        child.forked = True
        code = child._bootstrap(parent_sentinel)
    finally:
        atexit._run_exitfuncs()
        os._exit(code)


class _FreshLaunch(Launch):
    """Common to spawn and forkserver: what the child needs is written to it through a pipe."""

    def __init__(self, child: Child) -> None:
        self._handles: list[Handle] = []
        super().__init__(child)

    def _keep(self, fd: int) -> int:
        """A copy that stays open until the launch, whatever becomes of the original meanwhile."""
        self._handles.append(Handle(os.dup(fd)))
        return self._handles[-1].fileno()

    def _fds(self) -> list[int]:
        return [handle.fileno() for handle in self._handles]

    def launch(self) -> None:
        try:
            self._launch_with(self._fds())
        finally:
            self.forget()

    def forget(self) -> None:
        self._handles.clear()
        self._letter = b""

    def _launch_with(self, fds: list[int]) -> None:
        raise NotImplementedError

    def _prepare(self, child: Child) -> None:
        letter = io.BytesIO()
        with stdlib_untouched():
            preparation = spawn.get_preparation_data(child.name)
        preparation.pop("start_method", None)
        preparation["authkey"] = bytes(preparation["authkey"])  # as it is now, and pickled like anything else
        child.main = {key: preparation.pop(key) for key in list(preparation) if key.startswith("init_main")}
        if not os.path.exists(child.main.get("init_main_from_path", "/")):  # standard input
            child.main.clear()
        self._preparation = preparation
        _context.set_spawning_popen(self)
        try:
            reduction.dump(child, letter)
        finally:
            _context.set_spawning_popen(None)
        self._letter = letter.getvalue()

    def _tell(self, writing: int, letter: bytes) -> None:
        """Write what multiprocessing prepares a child with, so that it finds modules, and then the child."""
        preparation = io.BytesIO()
        reduction.dump(self._preparation, preparation)
        _write(writing, preparation.getvalue(), letter)


class _SpawnLaunch(_FreshLaunch):
    """A new interpreter."""

    method = "spawn"
    DupFd = _popen_spawn._DupFd

    def duplicate_for_child(self, fd: int) -> int:
        return self._keep(fd)

    def _launch_with(self, fds: list[int]) -> None:
        from multiprocessing import resource_tracker

        tracker: Any = resource_tracker.getfd()
        reading, writing = os.pipe()
        before = deafened()
        try:
            command = spawn.get_command_line(tracker_fd=tracker, pipe_handle=reading)
            passed = [*fds, tracker, reading]
            self.pid = _util.spawnv_passfds(os.fsencode(spawn.get_executable()), command, passed)
        except BaseException:
            os.close(writing)
            raise
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            os.close(reading)
        self.finalizer = _util.Finalize(self, _util.close_fds, (writing,))
        self._watch()
        self._tell(writing, self._letter)


class _ForkServerLaunch(_FreshLaunch):
    """A fork of a clean server process."""

    method = "forkserver"
    DupFd = _popen_forkserver._DupFd

    def duplicate_for_child(self, fd: int) -> int:
        self._keep(fd)
        return len(self._handles) - 1

    def _launch_with(self, fds: list[int]) -> None:
        try:
            status, writing = server.connect_to_new_process(fds)
        except GONE as failure:
            raise RuntimeError(_SERVER_ENDED) from failure
        self._ends_with(status)
        self._status = self.ended
        self.finalizer = _util.Finalize(self, _util.close_fds, (writing,))
        try:
            self._tell(writing, server.sealed(self._letter))
            self.pid = _forkserver.read_signed(status)
        except (OSError, EOFError) as failure:
            self.close()
            raise RuntimeError(_SERVER_ENDED) from failure
        try:
            self._alive = Handle(os.pidfd_open(self.pid))
        except ProcessLookupError:  # it has ended, and the server, which reaped it, has said so
            pass
        except BaseException:  # no descriptor is free
            os.kill(self.pid, signal.SIGKILL)
            self.close()
            raise

    def _reap(self) -> None:
        if self.ended is not self._status:
            self.returncode = UNKNOWN_EXITCODE
            return
        try:
            self.returncode = _forkserver.read_signed(self._status.fileno())
            _stay_readable(self._status.fileno())
        except (OSError, EOFError):  # the server was killed, and the child may live on
            if self._alive is None:
                self.returncode = UNKNOWN_EXITCODE
            else:
                self.ended = self._alive

    def close(self) -> None:
        self._status.close()
        if self._alive is not None:
            self._alive.close()
        super().close()


_SERVER_ENDED: Final = (
    "the fork server ended before it had made the process. Most often the main module starts processes "
    'while it is imported: put what starts them under `if __name__ == "__main__":`. '
    "The traceback is on standard error."
)

LAUNCHES: Final[dict[str, type[Launch]]] = {
    "fork": _ForkLaunch,
    "forkserver": _ForkServerLaunch,
    "spawn": _SpawnLaunch,
}


def _stay_readable(pipe: int) -> None:
    """The sentinel has been read empty, and the server may not have closed its end yet: put a byte back."""
    writing = os.open(f"/proc/self/fd/{pipe}", os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    os.write(writing, b"\0")
    os.close(writing)


def _write(fd: int, *letters: bytes) -> None:
    # Blocks until the child has read what the pipe cannot hold.
    with open(fd, "wb", closefd=False) as pipe:
        try:
            pipe.writelines(letters)
            pipe.flush()
        except BrokenPipeError:  # it died at once; its end tells
            pass
