"""Large payloads: written once into a file in memory, read or mapped by whoever receives its descriptor.

The kernel frees the file when nobody holds it, also when it was never received.

Source: memfd_create(2), mmap(2) (MAP_PRIVATE), writev(2), preadv(2).
"""

from __future__ import annotations

import mmap
import os
import pickle
from collections.abc import Iterator, Sequence
from typing import Any, Final

from aioproc._kernel.handle import Handle, handing_out

IN_THREAD_BYTES: Final = 4 << 20  # to copy more than this takes a thread, lest the loop waits
_ALIGNMENT: Final = 64
_CHUNK_BYTES: Final = 1 << 20  # in one system call, so that others get their turn


def stored(pieces: Sequence[Any], buffers: Sequence[memoryview]) -> tuple[Handle, list[int]]:
    """A file in memory with the pickle and each buffer, and how long each of them is.

    Raises:
        OSError: There is no memory or no free descriptor.
    """
    memory = Handle(os.memfd_create("aioproc", os.MFD_CLOEXEC))
    end = 0
    for piece in pieces:
        end = _write(memory.fileno(), memoryview(piece).cast("B"), end)
    lengths = [end]
    for buffer in buffers:
        _write(memory.fileno(), buffer, _aligned(end))
        end = _aligned(end) + buffer.nbytes
        lengths.append(buffer.nbytes)
    return memory, lengths


def _write(fd: int, view: memoryview, start: int) -> int:
    while view.nbytes:
        written = os.pwrite(fd, view[:_CHUNK_BYTES], start)
        view, start = view[written:], start + written
    return start


def _aligned(position: int) -> int:
    return -(-position // _ALIGNMENT) * _ALIGNMENT


def opened(memory: Handle, lengths: Sequence[int], descriptors: list[int]) -> Any:
    """The object in a file: its buffers are mapped, writable, without a copy; the pickle is read."""
    with handing_out(descriptors):
        buffers = list(_mapped(memory, lengths)) if len(lengths) > 1 else []
        reader = Reader(memory, lengths[0])
        return pickle.Unpickler(reader, buffers=buffers).load()


def _mapped(memory: Handle, lengths: Sequence[int]) -> Iterator[memoryview]:
    whole = memoryview(mmap.mmap(memory.fileno(), 0, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE))
    end = lengths[0]
    for length in lengths[1:]:
        start, end = _aligned(end), _aligned(end) + length
        yield whole[start:end]


class Reader:
    """A pickle in a file: large bytes are read straight into their place, and other threads run meanwhile."""

    def __init__(self, memory: Handle, length: int) -> None:
        self._memory = memory
        self._fd = memory.fileno()
        self._at = 0
        self._end = length

    def read(self, most: int = -1) -> bytes:
        left = self._end - self._at
        wanted = left if most < 0 else min(most, left)
        data = self._some(wanted)
        if len(data) == wanted:
            return data
        pieces = [data]  # one call reads 2 GiB at most
        while pieces[-1]:
            wanted -= len(pieces[-1])
            pieces.append(self._some(wanted))
        return b"".join(pieces)

    def _some(self, most: int) -> bytes:
        data = os.pread(self._fd, most, self._at)
        self._at += len(data)
        return data

    def readinto(self, place: Any) -> int:
        view = memoryview(place).cast("B")
        done = 0
        while done < view.nbytes:
            got = os.preadv(self._fd, [view[done : done + _CHUNK_BYTES]], self._at)
            if not got:
                break
            done, self._at = done + got, self._at + got
        return done

    def readline(self) -> bytes:
        data = os.pread(self._fd, self._end - self._at, self._at)
        line = data[: data.find(b"\n") + 1] or data
        self._at += len(line)
        return line


def read(memory: Handle, length: int) -> bytes:
    """The first bytes of a file in memory."""
    return Reader(memory, length).read()
