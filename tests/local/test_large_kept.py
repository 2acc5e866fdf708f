"""Large arrays that are kept: they take no descriptors that the program needs, and are the receiver's own."""

from __future__ import annotations

import errno
import mmap
import os
import resource
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, nullcontext
from unittest.mock import patch

import anyio
import numpy as np
import pytest
from numpy.typing import NDArray

from aioproc import AsyncPool, Pipe, Queue
from aioproc._kernel import memory
from tests.conftest import BACKENDS
from tests.crash.killing import died, forked
from tests.shared import spare_descriptors

Array = NDArray[np.int64]
Arrays = AsyncIterator[Array]

LIMIT = 160
COUNT = 2 * LIMIT
NUMBERS = 20_000  # 160 KB
FEW = 8  # descriptors that a loop or a worker takes meanwhile


def numbered(number: int) -> Array:
    return np.full(NUMBERS, number)


async def through_a_queue() -> Arrays:
    queue: Queue[Array] = Queue()
    for number in range(COUNT):
        await queue.put(numbered(number))
        yield await queue.get()


async def through_a_pipe() -> Arrays:
    here, there = Pipe()
    for number in range(COUNT):
        async with anyio.create_task_group() as group:
            group.start_soon(there.send, numbered(number))
            array = await here.recv()
        yield array


async def through_a_pool() -> Arrays:
    async with AsyncPool(1) as pool:
        async for array in pool.imap(numbered, range(COUNT)):
            yield array


def in_a_child(loop: str, main: Callable[[], object]) -> None:
    """Run it in a loop, in a process that may have few descriptors."""

    def child() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (LIMIT, LIMIT))
        backend, options = BACKENDS[loop]
        anyio.run(main, backend=backend, backend_options=options)  # type: ignore[arg-type]

    assert not died(forked(child))


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


async def kept(arrays: Arrays, most: int) -> None:
    """Keep them all; from the first to the last no more descriptors are taken than so many."""
    async with aclosing(arrays):  # type: ignore[type-var]
        found = [await anext(arrays)]
        before = open_descriptors()
        async for array in arrays:
            found.append(array)
        assert open_descriptors() - before <= most
    for number, array in enumerate(found):  # each is written to, and no other has changed
        assert (array == number).all()
        array[:] = -1
    assert len(found) == COUNT


@pytest.mark.parametrize("arrays", [through_a_queue, through_a_pipe, through_a_pool])
@pytest.mark.parametrize("loop", BACKENDS)
def test_small_ones_take_no_descriptor(loop: str, arrays: Callable[[], Arrays]) -> None:
    """More arrays of 160 KB than there may be descriptors are kept, and none of these is taken."""
    in_a_child(loop, lambda: kept(arrays(), FEW))


@pytest.mark.parametrize("arrays", [through_a_queue, through_a_pipe, through_a_pool])
@pytest.mark.parametrize("loop", BACKENDS)
def test_larger_ones_leave_half(
    loop: str, arrays: Callable[[], Arrays], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Mapped ones take none since Python 3.13; before, half of the descriptors are left, and all arrive."""
    monkeypatch.setattr(memory, "READ_BYTES", 100_000)
    in_a_child(loop, lambda: kept(arrays(), FEW if sys.version_info >= (3, 13) else LIMIT // 2))


def received(size: int) -> tuple[Array, Array, Array]:
    """An array, and two that were made of the same file."""
    sent = np.arange(size)
    file, lengths = memory.stored([b"N."], [sent.data.cast("B")])
    copies = [
        np.frombuffer(next(memory._buffers(file, lengths)), np.int64),
        np.frombuffer(next(memory._buffers(file, lengths)), np.int64),
    ]
    return sent, copies[0], copies[1]


@pytest.mark.parametrize("size", [9_000, 131_072, 131_073, 1_000_000])
@pytest.mark.parametrize("crowded", [False, True])
def test_each_is_its_receivers_own(size: int, crowded: bool) -> None:
    """Read or mapped, also where no descriptor is left for a map: writable, aligned, apart from others."""
    with spare_descriptors(1) if crowded else nullcontext():
        sent, one, other = received(size)
    assert not _shared_maps()
    assert (one == sent).all()
    one[:] = 7
    assert (other == sent).all()
    assert (sent == np.arange(size)).all()
    for array in (one, other):
        assert array.flags.writeable
        assert array.ctypes.data % 64 == 0


def _shared_maps() -> list[str]:
    """Maps of files in memory through which a write would reach others."""
    with open("/proc/self/maps") as maps:
        return [line for line in maps if "memfd:aioproc" in line and " rw-s" in line]


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOMEM])
def test_what_the_kernel_does_not_map_is_read(number: int) -> None:
    """When the kernel refuses to map a file, it is read instead."""
    real = mmap.mmap

    def refused(fd: int, *args: int, **more: int) -> object:
        if fd >= 0:
            raise OSError(number, os.strerror(number))
        return real(fd, *args, **more)

    with patch("mmap.mmap", side_effect=refused):
        sent, one, _ = received(1_000_000)
    assert (one == sent).all()
    one[0] = 7


@pytest.mark.skipif(sys.version_info >= (3, 13), reason="a map takes no descriptor any more")
def test_much_that_cannot_be_mapped_is_for_a_thread() -> None:
    """Whether opening holds up the loop is known before: many MB do, where they will be read."""
    many = [10, memory.IN_THREAD_BYTES]
    assert not memory.is_heavy(many)
    with spare_descriptors(1):
        assert memory.is_heavy(many)
        assert not memory.is_heavy([10, memory.READ_BYTES])
        assert memory.is_heavy([memory.IN_THREAD_BYTES - 10, memory.READ_BYTES])
