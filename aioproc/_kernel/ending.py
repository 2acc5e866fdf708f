"""The end of a child, and what comes home from it: its value, its exception, or the news of its death."""

from __future__ import annotations

import threading
from functools import partial
from multiprocessing import process
from typing import Any, Generic, NoReturn, TypeVar, cast

from aioproc._kernel.channel import Arrival, Channel
from aioproc._kernel.channel import opened as unpacked
from aioproc._kernel.child import Child
from aioproc._kernel.handle import Handle
from aioproc._kernel.launch import Launch
from aioproc._kernel.outcome import ending, opened
from aioproc._kernel.waiting import until
from aioproc.errors import ProcessDied

T = TypeVar("T")


class Ending(Generic[T]):
    """How one child ends. Any tasks of any loop may wait for it, and one of them may close its Process.

    Args:
        child: It has been started.
        launch: How.
        home: Where its outcome arrives.
    """

    def __init__(self, child: Child, launch: Launch, home: Channel) -> None:
        self._child = child
        self._launch = launch
        self._home: Channel | None = home  # until the outcome has been opened
        self._opening = threading.Lock()  # loops in two threads may ask at once
        self._value: Any = None
        self._failure: BaseException | None = None

    def exitcode(self) -> int | None:
        """None while it runs."""
        return self._launch.poll()

    async def wait(self, timeout: float | None) -> None:
        """Wait until the child has ended; TimeoutError after ``timeout`` seconds."""
        seen = None
        while seen is not self._launch.ended:  # it is another one when the fork server was killed
            seen = self._launch.ended
            await until(partial(self._reap, seen), seen, timeout=timeout)

    def _reap(self, seen: Handle) -> None:
        if self._launch.poll() is not None:
            process._children.discard(self._child)  # type: ignore[attr-defined]
        elif self._launch.ended is seen:
            raise BlockingIOError

    async def result(self, timeout: float | None = None) -> T:
        """Wait until it has ended; then its value, its exception, or ProcessDied."""
        await self.wait(timeout)
        if self._home is not None:
            self._open()
        if self._failure is not None:
            raise self._failure
        return cast("T", self._value)

    def _open(self) -> None:
        with self._opening:
            home = self._home
            if home is None:
                return
            arrival = _pulled(home)  # OSError where no descriptor is free: it can be asked for again
            try:
                self._value = opened(unpacked(arrival or self._died()))
            except BaseException as error:
                self._failure = error
            home.close()
            self._home = None

    def _died(self) -> NoReturn:
        pid, code = self._launch.pid, self._launch.poll()
        assert code is not None
        raise ProcessDied(f"{self._child.name} (pid {pid}) ended without a result: {ending(code)}", pid, code)


def _pulled(home: Channel) -> Arrival | None:
    try:
        arrival = home.pull()
    except (BlockingIOError, EOFError):
        return None
    home.admit(arrival)
    return arrival
