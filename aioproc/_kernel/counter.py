"""Eventfds: a number that the kernel keeps, as a semaphore's value or as a flag.

Source: eventfd(2), proc(5) (/proc/self/fdinfo).
"""

from __future__ import annotations

import os
from typing import Any

from aioproc._kernel.handle import Handle
from aioproc._kernel.watch import ready


class Counter:
    """A semaphore's value; `take` is an attempt."""

    __slots__ = ("handle",)

    def __init__(self, value: int = 0, handle: Handle | None = None) -> None:
        if handle is None:
            handle = Handle(os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK | os.EFD_SEMAPHORE))
            if value:
                os.eventfd_write(handle.fileno(), value)
        handle.stays = False  # who stayed registered after a wait would be woken by what is another's
        self.handle = handle

    def __reduce__(self) -> tuple[Any, ...]:
        return Counter, (0, self.handle)

    def take(self) -> None:
        """Take one.

        Raises:
            BlockingIOError: It is at zero.
        """
        os.eventfd_read(self.handle.fileno())

    def give(self) -> None:
        os.eventfd_write(self.handle.fileno(), 1)

    @property
    def raised(self) -> bool:
        """Whether it is more than zero."""
        return ready(self.handle)

    @property
    def value(self) -> int:
        with open(f"/proc/self/fdinfo/{self.handle.fileno()}") as info:
            for line in info:
                name, _, number = line.partition(":")
                if name == "eventfd-count":
                    return int(number, 16)
        raise OSError("the kernel does not tell the count of an eventfd")


class Flag:
    """A flag that everybody sees, and can wait for without taking anything away."""

    __slots__ = ("handle",)

    def __init__(self, handle: Handle | None = None) -> None:
        self.handle = handle or Handle(os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK))

    def __reduce__(self) -> tuple[Any, ...]:
        return Flag, (self.handle,)

    def raise_(self) -> None:
        os.eventfd_write(self.handle.fileno(), 1)

    def lower(self) -> None:
        try:
            os.eventfd_read(self.handle.fileno())
        except BlockingIOError:
            pass

    @property
    def raised(self) -> bool:
        return ready(self.handle)

    def look(self) -> None:
        """An attempt that succeeds while the flag is raised.

        Raises:
            BlockingIOError: It is not.
        """
        if not self.raised:
            raise BlockingIOError
