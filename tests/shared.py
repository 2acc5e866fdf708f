"""What tests and their children share: numbers in memory, a wire for handing over words, a user each."""

from __future__ import annotations

import mmap
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from aioproc._kernel.channel import Channel, channel
from aioproc._kernel.handle import Handle
from aioproc._kernel.parcel import pack
from aioproc._kernel.waiting import until, until_blocking


class Shared:
    """Whole numbers that several processes read and write, without any protection."""

    def __init__(self, count: int = 16, handle: Handle | None = None) -> None:
        if handle is None:
            handle = Handle(os.memfd_create("shared", os.MFD_CLOEXEC))
            os.ftruncate(handle.fileno(), 8 * count)
        self.count, self.handle = count, handle
        self._numbers = memoryview(mmap.mmap(handle.fileno(), 8 * count)).cast("q")

    def __reduce__(self) -> tuple[Any, ...]:
        return Shared, (self.count, self.handle)

    def __getitem__(self, index: int) -> int:
        return self._numbers[index]

    def __setitem__(self, index: int, number: int) -> None:
        self._numbers[index] = number

    def __len__(self) -> int:
        return self.count


class Wire:
    """Words between processes, each heard by one of them."""

    def __init__(self, speak: Channel | None = None, listen: Channel | None = None) -> None:
        if speak is None or listen is None:
            speak, listen = channel()
        self._speak, self._listen = speak, listen

    def __reduce__(self) -> tuple[Any, ...]:
        return Wire, (self._speak, self._listen)

    def say(self, word: object = None) -> None:
        self._speak.send(pack(word))

    def hear(self, timeout: float | None = 30) -> Any:
        return until_blocking(self._listen.receive, self._listen.handle, timeout=timeout)

    async def ahear(self, timeout: float | None = 30) -> Any:
        return await until(self._listen.receive, self._listen.handle, timeout=timeout)


def become_another_user() -> None:
    """Go on as a user that no other process is, since the kernel counts descriptors in flight by user."""
    user = 20_000 + os.getpid() % 40_000
    os.setgid(user)
    os.setuid(user)


@contextmanager
def spare_descriptors(count: int) -> Iterator[None]:
    """Inside, this process can open so many more descriptors."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(map(int, os.listdir("/proc/self/fd")))
    fillers = [os.dup(0)]
    while fillers[-1] < highest:
        fillers.append(os.dup(0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (fillers[-1] + 1 + count, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
        for fd in fillers:
            os.close(fd)
