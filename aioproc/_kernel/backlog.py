"""What this process has accepted for a channel and the kernel has not yet taken, in order.

It is written when the channel becomes writable: by a task of the running loop, by a thread where there is
no loop, and when the process ends. A process has one for a channel, however often that comes to it: else each
would be a producer of its own, and their items in no order.

Source: multiprocessing/util.py (Finalize).
"""

from __future__ import annotations

import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

from aioproc._kernel.bell import Bell
from aioproc._kernel.channel import Channel, Crowded, crowded, hold
from aioproc._kernel.forks import Private, no_fork
from aioproc._kernel.handle import Handle
from aioproc._kernel.parcel import Packed
from aioproc._kernel.waiting import asyncio_loop, spawned, until, until_blocking

Outcome = Callable[[bool], None]
Kept = tuple[Packed, Handle | None, Outcome | None]


class Backlog(Private):
    """The parcels that wait for room in a channel; `backlog_of` finds it.

    Args:
        writer: Where the parcels go.

    Attributes:
        writer: The same: all users send there.
        users: Those queues of this process that have it, until they are closed or forgotten.
        readers: The other ends, as long as something reads there.

    If a peer dies: Nothing. If this process is killed, what is kept here dies with it.
    """

    def __init__(self, writer: Channel) -> None:
        self.writer = writer
        self.users: weakref.WeakSet[Any] = weakref.WeakSet()
        self.readers: weakref.WeakSet[Channel] = weakref.WeakSet()
        self.kept: deque[Kept] = deque()
        self._lock = threading.Lock()
        self._writing = False
        self._loop: Any = None  # asyncio's, if a task of it writes
        self._afterwards: list[Callable[[], None]] = []
        self._finalizers: list[Any] = []
        self.abandoned = False
        super().__init__()

    def leave(self, user: object) -> None:
        """One of the users was closed; the last one closes the channel."""
        with no_fork:
            self.users.discard(user)
            if not self.users:
                self.writer.close()

    @contextmanager
    def unmoved(self) -> Iterator[int]:
        """How many are kept; inside none is written, so that each is here or in the kernel, not in both."""
        with self._lock:
            yield len(self.kept)

    def keep(self, packed: Packed, tail: Handle | None, outcome: Outcome | None, in_loop: bool) -> None:
        """Keep what was packed and see to it that it is written; ``outcome`` is told whether it was sent.

        Raises:
            OSError: No descriptor is free for what goes along; it is not kept.
            RuntimeError: Nobody can write it: no loop runs, and no thread can be started. It is not kept.
        """
        hold(packed)  # what it was made of may change, or be closed, from now on
        item = packed, tail, outcome
        with self._lock:
            self.kept.append(item)
            self._mind_the_end()
            is_written, self._writing = self._writing and not self._is_stuck(), True
        if is_written:
            return
        self._loop = asyncio_loop() if in_loop else None
        if not (in_loop and spawned(self._write)):
            try:
                self._start_thread()
            except RuntimeError:
                if self._withdrawn(item):
                    with suppress(BlockingIOError, Crowded):
                        self.pump()  # which sees to the end, if nothing is left
                    raise

    def _withdrawn(self, item: Kept) -> bool:
        """Keep an item no longer; False when it has been written meanwhile."""
        with self._lock:
            for place, kept in enumerate(self.kept):
                if kept is item:
                    del self.kept[place]
                    return True
        return False

    def _is_stuck(self) -> bool:
        """Whether the loop of the task that writes has ended, or stands still, and the task not cancelled."""
        return self._loop is not None and not self._loop.is_running()

    def pump(self) -> None:
        """Write what goes; BlockingIOError while something is left, `Crowded` if to wait may not help."""
        while True:
            with self._lock:
                if not self.kept:
                    afterwards, self._afterwards = self._afterwards, []
                    finalizers, self._finalizers = self._finalizers, []
                    break
                sent = True
                try:
                    self.writer.send(*self.kept[0][:2])
                except (BrokenPipeError, ValueError):  # shut down, or closed here
                    sent = False
                _, _, outcome = self.kept.popleft()
            if outcome is not None:
                outcome(sent)
        for last in afterwards:
            last()
        for finalizer in finalizers:
            finalizer.cancel()

    async def flush(self) -> None:
        """Wait until the kernel has everything; `Crowded` if nothing tells when it takes more."""
        if not self.kept:
            return
        try:
            await until(self.pump, self.writer.handle, "write")
        except Crowded:
            with self._receipts() as bell:
                await until(partial(self._pump_after, bell), bell.handle)

    def flush_blocking(self, timeout: float | None = None) -> None:
        """The same, asleep in this thread."""
        if not self.kept:
            return
        try:
            until_blocking(self.pump, self.writer.handle, "write", timeout)
        except Crowded:
            with self._receipts() as bell:
                until_blocking(partial(self._pump_after, bell), bell.handle, "read", timeout)

    @contextmanager
    def _receipts(self) -> Iterator[Bell]:
        """What rings when somebody receives from the channel, which may take descriptors off their way."""
        bell = Bell(rooms=[self.writer.handle])
        try:
            yield bell
        finally:
            bell.close()

    def _pump_after(self, bell: Bell) -> None:
        bell.quiet()  # what is received from here on rings it, and so would a send here that fails
        if not crowded(self.writer.handle):
            try:
                return self.pump()
            except Crowded:  # others were quicker; it rings already
                pass
        if self.writer.unread:
            raise BlockingIOError
        raise Crowded

    async def _write(self) -> None:
        try:
            while self._something_is_left():
                await self.flush()
        except (Crowded, ValueError):  # by other channels; or closed meanwhile, so nothing is left
            self._writing = False
        except BaseException:  # the loop ends, and the process may go on without one
            with suppress(RuntimeError):
                self._start_thread()
            raise

    def _start_thread(self) -> None:
        try:
            threading.Thread(target=self._write_blocking, name="aioproc feeder", daemon=True).start()
        except RuntimeError:  # no more threads
            self._writing = False
            raise

    def _write_blocking(self) -> None:
        try:
            while self._something_is_left():
                self.flush_blocking()
        except (Crowded, ValueError):
            self._writing = False

    def _something_is_left(self) -> bool:
        """Whether a writer must go on; if not, whoever keeps the next item starts one."""
        with self._lock:
            self._writing = bool(self.kept)
            return self._writing

    def _mind_the_end(self) -> None:
        if not self._finalizers:
            from multiprocessing.util import Finalize

            self._finalizers = [  # one before the children are joined, who may be waiting for it, one after
                Finalize(None, self._write_beside, exitpriority=10),
                Finalize(None, self._finish, exitpriority=-5),
            ]

    def _write_beside(self) -> None:
        try:
            self._start_thread()
        except RuntimeError:  # Python 3.12.0 and 3.12.1 start none at the end
            self._finish()

    def then(self, last: Callable[[], None]) -> None:
        """Do this once nothing is kept any more: now, or after the last parcel was written."""
        with self._lock:
            if self.kept:
                self._afterwards.append(last)
                return
        last()

    def _finish(self) -> None:
        if not self.abandoned:
            for reader in list(self.readers):
                reader.close()  # if nobody else can receive, it is over
            self.flush_blocking()

    def drop(self) -> None:
        """In a forked child: what is kept is the parent's to write."""
        self._lock = threading.Lock()
        self.kept.clear()
        self._afterwards = []
        self._finalizers = []
        self._writing, self._loop = False, None


_here: weakref.WeakValueDictionary[tuple[int, int], Backlog] = weakref.WeakValueDictionary()


def backlog_of(user: object, writer: Channel, reader: Channel) -> Backlog:
    """This process's backlog for a channel, with one user more."""
    channel = writer.handle.identity()
    with no_fork:
        found = _here.get(channel)
        if found is None or found.writer.handle.closed:
            found = _here[channel] = Backlog(writer)
        found.users.add(user)
        found.readers.add(reader)
        return found
