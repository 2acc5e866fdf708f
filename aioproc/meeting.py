"""meet: the same Lock, Queue, Event for processes that are no relatives, by name.

The hub at a path hands out one thing: a table of names that the kernel keeps. The first to ask for a name
makes the object and puts copies of its descriptors there; the others take copies. docs/design/meeting.md.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from types import TracebackType
from typing import Any

from aioproc._kernel.member import ATTEMPTS
from aioproc._kernel.waiting import checkpoint, in_thread, shielded, spawned, until
from aioproc.local import barrier, event, joinable_queue, lock, queue, semaphore
from aioproc.table import Attendance

__all__ = ["meet"]


class Meeting(Attendance):
    """A meeting of processes, while this one is in it; `meet` makes it.

    What was got here works on after leaving, and without the hub.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        super().__init__(path)
        self._left = False
        self._watch_ended: Any = None

    def Lock(self, name: str) -> lock.Lock:
        """The `Lock` of this name.

        Raises:
            ValueError: The name stands for something else, which the message tells; or not in the meeting.
            OSError: No descriptor is free, or no more names fit.

        If a peer dies: The name is given or not, never half.
        Cost: Some fifty system calls the first time, none later. Waits, if at all, for the few calls of
            another process that is just looking up a name.
        """
        return self._table.get(lock.Lock, name)

    def Semaphore(self, name: str, value: int = 1) -> semaphore.Semaphore:
        """The `Semaphore` of this name and start value; see `Lock` here for the rest."""
        return self._table.get(semaphore.Semaphore, name, value)

    def BoundedSemaphore(self, name: str, value: int = 1) -> semaphore.BoundedSemaphore:
        """The `BoundedSemaphore` of this name and number of permits; see `Lock` here for the rest."""
        return self._table.get(semaphore.BoundedSemaphore, name, value)

    def Event(self, name: str) -> event.Event:
        """The `Event` of this name; see `Lock` here for the rest."""
        return self._table.get(event.Event, name)

    def Queue(self, name: str, maxsize: int = 0) -> queue.Queue[Any]:
        """The `Queue` of this name and size; see `Lock` here for the rest."""
        return self._table.get(queue.Queue, name, max(maxsize, 0))

    def JoinableQueue(self, name: str, maxsize: int = 0) -> joinable_queue.JoinableQueue[Any]:
        """The `JoinableQueue` of this name and size; see `Lock` here for the rest."""
        return self._table.get(joinable_queue.JoinableQueue, name, max(maxsize, 0))

    def Barrier(
        self,
        name: str,
        parties: int,
        action: Callable[[], Any] | None = None,
        timeout: float | None = None,
    ) -> barrier.Barrier:
        """The `Barrier` of this name and number of parties; see `Lock` here for the rest.

        Args:
            name: As everybody calls it.
            parties: How many; the same for all.
            action: This process's: it is called when one of its tasks is the last to arrive.
            timeout: This process's default for its `Barrier.wait`.
        """
        found = self._table.get(barrier.Barrier, name, parties)
        found._action, found._timeout = action, timeout
        return found

    async def __aenter__(self) -> Meeting:
        """Enter; starts the hub if there is none.

        If cancelled: Not entered; a hub that was started ends.
        """
        import anyio

        await checkpoint()
        self._enter()
        try:
            await self._join()
        except BaseException:
            self._member.leave()
            raise
        self._member.served_by_loop()
        self._watch_ended = anyio.Event()
        spawned(self._watch)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._left = True
        self._member.connection.close()
        try:
            await shielded(self._watch_ended.wait)
        finally:
            self._member.leave()
            self._table.forget()

    async def _join(self) -> None:
        member = self._member
        for _ in range(ATTEMPTS):
            if not member.knock_at_once():
                await in_thread(member.knock)
            try:
                return await until(member.welcomed, member.connection)
            except EOFError:
                pass
        raise member.no_hub()

    async def _watch(self) -> None:
        """Bring the names to the next hub when one dies."""
        member = self._member
        try:
            while not self._left:
                connection = member.connection
                try:
                    await until(member.stirred, connection)
                except ValueError:  # closed: left, or another one serves now
                    if connection is member.connection:
                        raise
                else:
                    await in_thread(self._tend)
        except (OSError, ValueError):
            pass  # no hub can be had, or left
        finally:
            self._watch_ended.set()

    def _tend(self) -> None:
        self._member.tend_for_loop()
        if self._left:
            self._member.connection.close()


def meet(path: str | os.PathLike[str]) -> Meeting:
    """Meet the processes that meet at this path, to share objects by name.

    Args:
        path: Of a Unix socket, which is made: in a folder that all of them can write to, up to 107 bytes.

    Returns:
        What ``async with`` enters, with ``hub.Lock(name)``, ``hub.Queue(name, maxsize=0)``, and so on.

    Raises:
        OSError: On entering: the path is too long, not writable, something else, or another user's.

    If cancelled: Not entered.
    If a peer dies: Nothing but what its objects promise; a killed hub is replaced, with all names.
    Cost: To enter, a few system calls where a hub runs; the start of a small Python process where none does.

    >>> async def main(path):
    ...     async with meet(path) as hub:
    ...         async with hub.Lock("tickets"):
    ...             return hub.Queue("jobs", maxsize=100)
    >>> import anyio, tempfile
    >>> with tempfile.TemporaryDirectory() as folder: anyio.run(main, f"{folder}/hub")
    <Queue 0/100 items, 0 waiting>
    """
    return Meeting(path)
