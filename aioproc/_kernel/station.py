"""One worker as its pool sees it: the process, its two channels, and the tasks that it has been sent.

The inbox brings tasks to the worker; the pool keeps a reading end of it too, so it can take back what the
worker has not taken. The channel home brings outcomes to the pool, and controls to running tasks. No lock is
held by anybody, so a worker killed at any moment holds up nobody.
"""

from __future__ import annotations

import os
import signal
import time
import weakref
from collections.abc import Callable, Iterator
from itertools import islice
from multiprocessing import process, util
from typing import Any, Final, Protocol

from aioproc._kernel.channel import Channel, channel
from aioproc._kernel.child import Child, Work
from aioproc._kernel.handle import Handle
from aioproc._kernel.lifeline import lifeline
from aioproc._kernel.post import Post
from aioproc._kernel.start import start
from aioproc._kernel.wire import Kind, Mail, Message, signal_of
from aioproc._kernel.worker import Worker

MESSAGES_AT_ONCE: Final = 64  # then other callbacks of the loop have their turn


class Sendable(Protocol):
    """A task, as far as a station looks at it."""

    number: int
    mail: Mail
    station: Any


class Station:
    """A worker's process and what it has been sent.

    Attributes:
        sent: Tasks sent and not heard of again, in order; a worker takes them in this order.
        ready: It has started and its initializer has succeeded.
        retired: It gets no more tasks.
        holds_on: It did not let go of a task that was stopped.
        since: When its oldest task became its oldest.
        assigned: How many tasks it has been sent, without those taken back.
        done: How many outcomes it has sent home.
        died_on_purpose: The pool has killed it.
    """

    def __init__(self) -> None:
        self.sent: dict[int, Any] = {}
        self.ready = False
        self.retired = False
        self.holds_on = False
        self.since = 0.0
        self.assigned = 0
        self.done = 0
        self.died_on_purpose = False
        self.pid: int | None = None  # until it is started
        self.last_word: Message | None = None
        self._child: Any = None

    async def start(
        self, make: Callable[[Channel], Worker], loop: tuple[str, dict[str, Any]], method: str
    ) -> None:
        """Start the process.

        If cancelled: There is none.
        """
        inbox, theirs = channel()
        self._inbox = Post(inbox)
        self._behind = Post(Channel(Handle(os.dup(theirs.handle.fileno()), forks=False)))
        home, far_home = channel()
        self.home = Post(home, announced=True)
        for ours in (self._inbox, self.home):
            ours.handle.keep_from_forks()
        worker = make(theirs)
        child = Child(worker, None, False)
        child.home = far_home
        child.lifeline_of_parent, child.lifeline = lifeline()
        child.work = Work(worker, loop)
        child.quiet = child.deaf = True
        self._child = child
        _kill_at_exit(self)
        try:
            await start(child, method)
        except BaseException:
            self._close_channels()
            raise
        finally:
            for handle in (child.lifeline, far_home.handle, theirs.handle):
                handle.close()
            child.work = None
        self.pid = self._launch.pid

    @property
    def _launch(self) -> Any:
        return self._child._popen

    @property
    def ended(self) -> Handle:
        """Readable when the process has ended."""
        handle: Handle = self._launch.ended
        return handle

    def send(self, task: Sendable) -> bool:
        """Send a task; False when there is no room now.

        Raises:
            OSError: It cannot be sent at all.
        """
        try:
            self._inbox.send(task.mail)
        except BlockingIOError:
            return False
        except BrokenPipeError:  # it has died; its end tells
            return False
        if not self.sent:
            self.since = time.monotonic()
        self.sent[task.number] = task
        self.assigned += 1
        task.station = self
        return True

    def take_back(self) -> list[Any]:
        """Take back every task that the worker has not taken, oldest first."""
        return [*self._taken_back()]

    def take_back_some(self, count: int) -> list[Any]:
        """As `take_back`, but at most so many."""
        return [*islice(self._taken_back(), count)]

    def _taken_back(self) -> Iterator[Any]:
        while True:
            try:
                message = self._behind.receive()
            except (BlockingIOError, EOFError):
                return
            message.drop()
            task = self.sent.pop(message.task, None)
            if task is None:  # a Ctrl-C came when it had been sent and not yet been noted
                continue
            task.station = None
            self.assigned -= 1
            yield task

    def messages(self) -> Iterator[Message]:
        """What it has sent home, as far as it is there.

        Raises:
            EOFError: It is dead.
        """
        receive = self.home.receive
        try:
            for _ in range(MESSAGES_AT_ONCE):
                message = receive()
                if message.kind == Kind.LAST_WORD:
                    self.last_word = message
                else:
                    yield message
                    if not self.sent:  # nothing more is expected; if it comes all the same, we are called
                        return
        except BlockingIOError:
            pass

    def finished(self, number: int) -> Any:
        """The task that an outcome names, which it now has out of its hands."""
        task = self.sent.pop(number, None)
        self.done += 1
        self.since = time.monotonic()
        return task

    def tell(self, kind: int, task: int, number: float = 0.0) -> None:
        """Send a control message to a running task."""
        try:
            self.home.send(signal_of(kind, task, number))
        except BrokenPipeError:  # it has died; its end tells
            pass

    def interrupt(self, task: int) -> None:
        """Raise KeyboardInterrupt in a plain task, if it still runs."""
        self.tell(Kind.INTERRUPT, task)
        self._signal(signal.SIGINT)

    def kill(self) -> None:
        """End the process at once, because the pool wants so."""
        self.died_on_purpose = self.retired = True
        self._signal(signal.SIGKILL)

    def _signal(self, number: int) -> None:
        if self._child is not None and self._launch is not None and self._launch.poll() is None:
            self._launch._send_signal(number)

    def retire(self) -> None:
        """Let it end when it has done what it was sent."""
        self.retired = True
        self._inbox.close()

    def reap(self) -> int | None:
        """The exit code, once the process has ended."""
        code: int | None = self._launch.poll()
        if code is not None:
            process._children.discard(self._child)  # type: ignore[attr-defined]
        return code

    def close(self) -> None:
        """Release everything; after the process's end."""
        if self.last_word is not None:
            self.last_word.drop()
        self._close_channels()
        self._child.close()

    def _close_channels(self) -> None:
        for handle in (
            self._inbox.handle,
            self._behind.handle,
            self.home.handle,
            self._child.lifeline_of_parent,
        ):
            handle.close()


_stations: weakref.WeakSet[Station] = weakref.WeakSet()
_registered_in: int | None = None


def _kill_at_exit(station: Station) -> None:
    global _registered_in
    if _registered_in != os.getpid():
        _registered_in = os.getpid()
        _stations.clear()  # of the process that this one was forked from
        util.Finalize(None, _kill_all, exitpriority=110)
    _stations.add(station)


def _kill_all() -> None:
    """Before multiprocessing joins this process's children: a pool that was not closed would never end."""
    for station in list(_stations):
        station.kill()
