"""What one member of a meeting has under which name: its own objects, with everybody's descriptors in them.

Nothing that comes from another process is unpickled: who finds an object makes one of the same kind, and
puts the descriptors that he found where his own were. docs/design/meeting.md.
"""

from __future__ import annotations

import os
import stat
import threading
from typing import Any, Final, TypeVar

from aioproc._kernel.bundle import close_all
from aioproc._kernel.member import Member
from aioproc._kernel.names import Entry, Names
from aioproc._kernel.parcel import pack, parcel_of, unpack

__all__ = ["Attendance"]

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


class Table:
    """The objects of one member, each made or found once."""

    def __init__(self, member: Member) -> None:
        self.member = member
        self._known: dict[str, tuple[tuple[str, int], Any]] = {}
        self._one_at_a_time = threading.RLock()  # so that threads get the same object

    def get(self, kind: type[T], name: str, size: int | None = None) -> T:
        """The object under a name, made if there is none.

        Raises:
            ValueError: Another kind or size is there; not in a meeting; no name.
        """
        names, asked = self.member.check(), (kind.__name__, size or 0)
        _check(name)
        with self._one_at_a_time:
            known = self._known.get(name)
            if known is None or _closed(known[1]):
                known = asked, _found_or_made(names, kind, name, size, asked)
                self._known[name] = known
        _agree(name, known[0], asked)
        return known[1]

    def __len__(self) -> int:
        return len(self._known)

    def forget(self) -> None:
        self._known.clear()


def _found_or_made(names: Names, kind: type[T], name: str, size: int | None, asked: tuple[str, int]) -> T:
    """The object under a name that this member has not asked for yet."""
    made = kind() if size is None else kind(size)  # type: ignore[call-arg]
    parcel = parcel_of(pack(made))
    with names.alone():
        found = names.find(name)
        if found is None:
            names.add(name, *asked, parcel.handles)
            return made
    return _rebuilt(name, asked, parcel, found)  # type: ignore[no-any-return]


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


class Attendance:
    """One process's part in the meeting at a path: what both faces are."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.path.abspath(os.fsdecode(path))
        self._member = Member(self.path)
        self._table = Table(self._member)
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
