"""The fork server: a clean process that has imported what children need, and forks them.

Source: multiprocessing/forkserver.py.
"""

from __future__ import annotations

import os
import pickle
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing import context, forkserver, resource_tracker, spawn
from typing import Any, Final

from aioproc._kernel.bundle import highest_free
from aioproc._kernel.preload import telling_of_main

PRELOADED: Final = [
    "aioproc._kernel.outliving",
    "aioproc._kernel.child",
    "aioproc._kernel.worker",
    "aioproc.context",
    "anyio.lowlevel",
    "anyio._core._signals",
]
PRELOADED_IF_IMPORTED: Final = [
    "asyncio",
    "anyio._backends._asyncio",
    "uvloop",
    "trio",
    "anyio._backends._trio",
]
_stdlib_server: Any = forkserver._forkserver

FOR_A_REQUEST: Final = 6  # descriptors: a connection, two pipes, and a pidfd in the end
GONE: Final = (ConnectionError, FileNotFoundError, EOFError)  # what a connection to a killed server raises


class _WithKey:
    """A letter to a child of the server, after which it knows what the server asks for from Python 3.14 on.

    The stdlib tells a child where the server is, but not this: its own children each start another server.
    """

    def __init__(self, key: bytes, letter: bytes) -> None:
        self._content = key, letter

    def __reduce__(self) -> tuple[Any, ...]:
        return _opened_with_key, self._content


def _opened_with_key(key: bytes, letter: bytes) -> Any:
    _stdlib_server._forkserver_authkey = key
    return pickle.loads(letter)


@contextmanager
def stdlib_untouched() -> Iterator[None]:
    """multiprocessing settles its default start method when asked for preparation data; undo that."""
    default: Any = context._default_context
    before = default._actual_context
    try:
        yield
    finally:
        default._actual_context = before


class ForkServer(forkserver.ForkServer):
    """A fork server of our own, so that what it has imported is ours to say."""

    _forkserver_address: Any
    _forkserver_alive_fd: Any
    _forkserver_pid: Any
    _forkserver_authkey: Any = None  # of Python 3.14 and later

    def __init__(self) -> None:
        super().__init__()
        self.extra: list[str] = []
        self._adopted = False
        self._starting = threading.Lock()

    def ensure_running(self) -> None:
        """Start the server, unless it runs or can be taken over from the parent."""
        with self._starting:
            if not self._runs():
                self._start()

    def _runs(self) -> bool:
        if self._forkserver_pid is None:
            return self._inherited()
        ended = os.WEXITED | os.WNOHANG | os.WNOWAIT  # the stdlib's own method is to reap it
        return os.waitid(os.P_PID, self._forkserver_pid, ended) is None

    def _start(self) -> None:
        imported = [name for name in PRELOADED_IF_IMPORTED if name in sys.modules]
        self._preload_modules = [*PRELOADED, *imported, *self.extra, "aioproc._kernel.preload"]
        resource_tracker.ensure_running()  # now, because its start lets the signals through again
        # A signal to the whole group is no affair of the server's, nor of a child that is being made.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM, signal.SIGINT))
        try:
            with stdlib_untouched(), telling_of_main(spawn.get_preparation_data("ignore")):
                super().ensure_running()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def connect_to_new_process(self, fds: Sequence[int]) -> tuple[int, int]:
        """Have the server fork; the status and the data pipe."""
        self.ensure_running()
        highest_free(FOR_A_REQUEST, "a process")  # one that gives up in the midst disturbs the server
        address = self._forkserver_address
        try:
            return super().connect_to_new_process(fds)
        except GONE as failure:  # it was killed, and has just closed its door
            self._forget(address, ended=not isinstance(failure, FileNotFoundError))
        return super().connect_to_new_process(fds)

    def sealed(self, letter: bytes) -> bytes:
        """A letter, with what a child of the server needs in order to have it make processes too."""
        if self._forkserver_authkey is None:
            return letter
        return pickle.dumps(_WithKey(bytes(self._forkserver_authkey), letter))

    def _inherited(self) -> bool:
        """Whether there is a server of the parent's to use; a child of it adopts it."""
        parent = _stdlib_server
        if self._forkserver_alive_fd is None and not self._adopted and parent._inherited_fds is not None:
            self._adopted = True
            self._forkserver_authkey = getattr(parent, "_forkserver_authkey", b"")
            if self._forkserver_authkey is not None:  # else the stdlib started this process, and kept it
                self._forkserver_address = parent._forkserver_address
                self._forkserver_alive_fd = os.dup(parent._forkserver_alive_fd)
        return self._forkserver_alive_fd is not None

    def forked(self) -> None:
        """In a forked child: the server is no child of this process, yet can be used."""
        self._forkserver_pid = None
        self._lock = threading.Lock()
        self._starting = threading.Lock()

    def _forget(self, address: Any, ended: bool = True) -> None:
        # One whose socket's file was removed lives on, until its children have ended.
        with self._lock:
            if self._forkserver_address != address:  # another thread was faster, and this is the next one
                return
            if self._forkserver_pid is not None:
                with suppress(ChildProcessError):
                    os.waitpid(self._forkserver_pid, 0 if ended else os.WNOHANG)
            if self._forkserver_alive_fd is not None:
                os.close(self._forkserver_alive_fd)
            self._forkserver_address = self._forkserver_alive_fd = self._forkserver_pid = None


server = ForkServer()
os.register_at_fork(after_in_child=server.forked)
