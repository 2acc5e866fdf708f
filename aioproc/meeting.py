"""meet: the same Lock, Queue, Event for processes that are no relatives, by name.

The hub at a path hands out one thing: a table of names that the kernel keeps. The first to ask for a name
makes the object and puts copies of its descriptors there; the others take copies. Nothing that comes from
another process is unpickled: who takes an object makes one of the same kind, and puts the descriptors that
he found where his own were. docs/design/meeting.md.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from types import TracebackType
from typing import Any, Final, TypeVar

from aioproc._kernel import summons
from aioproc._kernel.bundle import close_all
from aioproc._kernel.member import ATTEMPTS, Member
from aioproc._kernel.names import Entry
from aioproc._kernel.parcel import pack, unpack
from aioproc._kernel.waiting import checkpoint, in_thread, shielded, spawned, until, until_blocking
from aioproc.local import barrier, event, joinable_queue, lock, queue, semaphore

__all__ = ["meet", "meet_sync"]

NAME_BYTES: Final = 1024

T = TypeVar("T")

# What there is under names, and what its one number is called.
_KINDS: Final = {
    "Lock": "",
    "Semaphore": "value",
    "BoundedSemaphore": "value",
    "Event": "",
    "Queue": "maxsize",
    "JoinableQueue": "maxsize",
    "Barrier": "parties",
}


class _Table:
    """The objects of one member, each made or found once."""

    def __init__(self, member: Member) -> None:
        self.member = member
        self._known: dict[str, tuple[tuple[str, int], Any]] = {}

    def get(self, kind: type[T], name: str, size: int | None = None) -> T:
        """The object under a name, made if there is none.

        Raises:
            ValueError: Another kind or size is there; not in a meeting; no name.
        """
        names, asked = self.member.check(), (kind.__name__, size or 0)
        _check(name)
        known = self._known.get(name)
        if known is not None and not _closed(known[1]):
            _agree(name, known[0], asked)
            return known[1]  # type: ignore[no-any-return]
        made = kind() if size is None else kind(size)  # type: ignore[call-arg]
        parcel = pack(made)
        with names.alone():
            found = names.find(name)
            if found is None:
                names.add(name, *asked, parcel.handles)
        if found is not None:
            made = _rebuilt(name, asked, parcel, found)
        self._known[name] = asked, made
        return made

    def __len__(self) -> int:
        return len(self._known)

    def forget(self) -> None:
        self._known.clear()


def _check(name: Any) -> None:
    if not isinstance(name, str):
        raise TypeError(f"a name is a str, not {type(name).__name__}")
    if not 0 < len(name.encode(errors="surrogatepass")) <= NAME_BYTES:
        raise ValueError(f"a name has 1 to {NAME_BYTES} bytes")


def _closed(made: Any) -> bool:
    store = getattr(made, "_store", None)
    return store is not None and bool(store.closed)


def _agree(name: str, there: tuple[str, int], asked: tuple[str, int]) -> None:
    if there != asked:
        raise ValueError(f"{name!r} is {_described(*there)} there, not {_described(*asked)}")


def _described(kind: str, size: int) -> str:
    number = _KINDS.get(kind, "size")
    return f"{kind}({number}={size})" if number else kind


def _rebuilt(name: str, asked: tuple[str, int], parcel: Any, found: Entry) -> Any:
    """The object that was found: this process's own pickle of its like, with the other descriptors."""
    descriptors = list(found.descriptors)
    try:
        _agree(name, (found.kind, found.size), asked)
        if len(descriptors) < len(parcel.handles):
            raise OSError(f"no free file descriptor for {name!r}")
        own = [_type(handle.fileno()) for handle in parcel.handles]
        if [_type(fd) for fd in descriptors] != own:
            raise ValueError(f"what is under {name!r} is no {_described(*asked)} of this version of aioproc")
    except BaseException:
        close_all(descriptors)
        raise
    return unpack(b"".join(parcel.pieces), (), descriptors)


def _type(fd: int) -> int:
    return stat.S_IFMT(os.fstat(fd).st_mode)


class _Face:
    """What both faces are."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.path.abspath(os.fsdecode(path))
        self._member = Member(self.path)
        self._table = _Table(self._member)
        self._entered = False

    def _enter(self) -> None:
        if self._entered:
            raise RuntimeError("a meeting is entered once; call meet() again")
        self._entered = True

    def __repr__(self) -> str:
        try:
            self._member.check()
        except (ValueError, RuntimeError):
            return f"<{type(self).__name__} {self.path} not in it>"
        return f"<{type(self).__name__} {self.path} {len(self._table)} names known>"


class Meeting(_Face):
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
            timeout: This process's default for `wait`.
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
                await until(member.stirred, member.connection)
                await in_thread(self._tend)
        except (OSError, ValueError):
            pass  # no hub can be had, or left
        finally:
            self._watch_ended.set()

    def _tend(self) -> None:
        self._member.tend()
        if self._left:
            self._member.connection.close()


class SyncMeeting(_Face):
    """The twin of `Meeting`: hands out the twins of the same objects."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        super().__init__(path)
        self._summons: summons.Summons | None = None
        self._busy, self._news = True, False

    def Lock(self, name: str) -> lock.SyncLock:
        """The twin of the `Lock` of this name; see `Meeting.Lock`."""
        return self._get(lock.Lock, name).sync

    def Semaphore(self, name: str, value: int = 1) -> semaphore.SyncSemaphore:
        """The twin of the `Semaphore` of this name and start value; see `Meeting.Lock`."""
        return self._get(semaphore.Semaphore, name, value).sync

    def BoundedSemaphore(self, name: str, value: int = 1) -> semaphore.SyncBoundedSemaphore:
        """The twin of the `BoundedSemaphore` of this name and number of permits; see `Meeting.Lock`."""
        return self._get(semaphore.BoundedSemaphore, name, value).sync

    def Event(self, name: str) -> event.SyncEvent:
        """The twin of the `Event` of this name; see `Meeting.Lock`."""
        return self._get(event.Event, name).sync

    def Queue(self, name: str, maxsize: int = 0) -> queue.SyncQueue[Any]:
        """The twin of the `Queue` of this name and size; see `Meeting.Lock`."""
        return self._get(queue.Queue, name, max(maxsize, 0)).sync

    def JoinableQueue(self, name: str, maxsize: int = 0) -> joinable_queue.SyncJoinableQueue[Any]:
        """The twin of the `JoinableQueue` of this name and size; see `Meeting.Lock`."""
        return self._get(joinable_queue.JoinableQueue, name, max(maxsize, 0)).sync

    def Barrier(
        self,
        name: str,
        parties: int,
        action: Callable[[], Any] | None = None,
        timeout: float | None = None,
    ) -> barrier.SyncBarrier:
        """The twin of the `Barrier` of this name and number of parties; see `Meeting.Barrier`."""
        found = self._get(barrier.Barrier, name, parties)
        found._action, found._timeout = action, timeout
        return found.sync

    def _get(self, kind: type[T], name: str, size: int | None = None) -> T:
        if self._entered and not self._member.connection.closed:
            self._tend()
            if self._summons is None:  # nobody waited for us: are these still the names?
                self._await_welcome()
        return self._table.get(kind, name, size)

    def _await_welcome(self) -> None:
        for _ in range(ATTEMPTS):
            if not self._member.welcome_due:
                return
            until_blocking(self._member.stirred, self._member.connection)
            self._tend()
        raise self._member.no_hub()

    def __enter__(self) -> SyncMeeting:
        """Enter; starts the hub if there is none."""
        self._enter()
        try:
            if summons.possible():
                self._summons = summons.Summons(self._tend)
            self._member.on_roll = self._summons is not None
            self._join()
        except BaseException:
            self._leave()
            raise
        self._busy = False
        self._tend()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._leave()

    def _join(self) -> None:
        member = self._member
        for _ in range(ATTEMPTS):
            member.knock()
            try:
                until_blocking(member.welcomed, member.connection)
            except EOFError:
                continue
            self._listen()
            return
        raise member.no_hub()

    def _listen(self) -> None:
        if self._summons is not None:
            self._summons.listen(self._member.connection)

    def _tend(self) -> None:
        """See to the connection; also called by a signal, at any moment."""
        self._news = True
        while self._news and not self._busy:
            self._busy, self._news = True, False
            try:
                while self._member.tend():
                    self._listen()  # and look again: what came before that is not told
            except OSError:
                pass  # no hub can be had: the names here serve on
            finally:
                self._busy = False

    def _leave(self) -> None:
        self._busy = True
        if self._summons is not None:
            self._summons.end()
        self._member.leave()
        self._table.forget()


def meet(path: str | os.PathLike[str]) -> Meeting:
    """Meet the processes that meet at this path, to share objects by name.

    Args:
        path: Of a Unix socket, which is made: in a folder that all of them can write to, up to 107 bytes.

    Returns:
        What ``async with`` enters: ``hub.Lock(name)``, ``hub.Queue(name, maxsize=0)``, and so on.

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


def meet_sync(path: str | os.PathLike[str]) -> SyncMeeting:
    """The same for code without a loop: ``with meet_sync(path) as hub:`` hands out the twins.

    Not for use inside a running loop. Enter it in the main thread: only there can the kernel's signal be
    answered that tells of a hub's death. In another thread the names are brought to a new hub when the next
    one is asked for, and a newcomer that came before has new objects under them, which that thread is told.
    """
    return SyncMeeting(path)
