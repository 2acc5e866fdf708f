"""The attributes of a process, with the stdlib's rules and errors."""

from __future__ import annotations

from typing import Any, cast

from aioproc._kernel.child import Child

__all__: list[str] = []


class Attributes:
    """What can be asked of a process at any time; the stdlib's process object behind it knows.

    Args:
        name: Its name, or None for the class's name and a number.
        daemon: Whether it is a daemon, or None for what the current process is.
    """

    def __init__(self, name: str | None, daemon: bool | None) -> None:
        self.__child: Child | None = Child(self, name, daemon)

    @property
    def _child(self) -> Child:
        child = self.__dict__.get("_Attributes__child")
        if child is None:
            if self._is_copy():
                raise RuntimeError(f"this {type(self).__name__} is a pickled copy; use it where it was made")
            raise RuntimeError(
                f"{type(self).__name__}.__init__() did not call super().__init__(), which every Process needs"
            )
        return cast("Child", child)

    def _is_copy(self) -> bool:
        """Whether it came by pickle, and not as the process that runs here."""
        return "_asked" in self.__dict__

    @property
    def _open_child(self) -> Child:
        """What the child runs; ValueError once it is closed."""
        self._child._check_closed()  # type: ignore[attr-defined]
        return self._child

    @property
    def name(self) -> str:
        """Its name; a label only."""
        return self._open_child.name

    @name.setter
    def name(self, name: str) -> None:
        check(isinstance(name, str), f"name must be a string, not {name!r}")
        self._open_child.name = name

    @property
    def daemon(self) -> bool:
        """Whether it must not outlive this process; to be set before the start."""
        return self._open_child.daemon

    @daemon.setter
    def daemon(self, daemonic: bool) -> None:
        check(launch_of(self._open_child) is None, "process has already started")
        check(getattr(self, "_starting", None) is None, "process is being started")
        self._child.daemon = daemonic

    @property
    def pid(self) -> int | None:
        """Its process id; None before the start."""
        return self._child.pid

    ident = pid

    @property
    def exitcode(self) -> int | None:
        """None while it runs, 0 on success, 1 after an exception, N after ``sys.exit(N)``, -N by signal N."""
        return self._child.exitcode

    @property
    def authkey(self) -> bytes:
        """The process's authentication key, inherited from its parent."""
        return self._open_child.authkey

    @authkey.setter
    def authkey(self, authkey: bytes) -> None:
        self._open_child.authkey = authkey

    @property
    def sentinel(self) -> int:
        """A descriptor that becomes readable when the child ends; ValueError before the start."""
        return self._child.sentinel

    def is_alive(self) -> bool:
        """Whether the child runs."""
        return self._child.is_alive()

    def __repr__(self) -> str:
        if "_Attributes__child" not in self.__dict__:
            missing = "copy" if self._is_copy() else "without super().__init__()"
            return f"<{type(self).__name__} {missing}>"
        return repr(self._child).replace(type(self._child).__name__, type(self).__name__, 1)

    def born(self, child: Child) -> None:
        """Called in the child, where the object behind this one is another; not for users."""
        self.__child = child


def check(condition: bool, message: str) -> None:
    """The stdlib's checks are assertions; these also hold under ``python -O``."""
    if not condition:
        raise AssertionError(message)


def launch_of(child: Child) -> Any:
    """How the child was launched, or None before its start."""
    return child._popen  # type: ignore[attr-defined]
