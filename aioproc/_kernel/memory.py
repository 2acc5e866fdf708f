"""Large payloads: written once into a file in memory, read or mapped by whoever receives its descriptor.

The kernel frees the file when nobody holds it, also when it was never received. What a program keeps of it
must not take the descriptors that it needs for itself; docs/design/large_payloads.md says how.

Source: memfd_create(2), mmap(2) (MAP_PRIVATE), writev(2), preadv(2).
"""

from __future__ import annotations

import mmap
import os
import pickle
import sys
from array import array
from collections.abc import Iterator, Sequence
from typing import Any, Final

from aioproc._kernel.bundle import half_are_free
from aioproc._kernel.handle import Handle, handing_out

IN_THREAD_BYTES: Final = 4 << 20  # to copy more than this takes a thread, lest the loop waits
READ_BYTES: Final = 1 << 20  # buffers up to this are read: as fast as to map and touch them, or faster
_MAP_HOLDS_DESCRIPTOR: Final = sys.version_info < (3, 13)
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
    """The object in a file: the pickle is read; its buffers are read or mapped, writable and its own."""
    with handing_out(descriptors):
        buffers = list(_buffers(memory, lengths)) if len(lengths) > 1 else []
        reader = Reader(memory, lengths[0])
        return pickle.Unpickler(reader, buffers=buffers).load()


def is_heavy(lengths: Sequence[int]) -> bool:
    """Whether so much would be read that opening it holds up a loop."""
    first, end = _span(lengths)
    return lengths[0] + (0 if _is_mapped(end - first) else end - first) > IN_THREAD_BYTES


def _span(lengths: Sequence[int]) -> tuple[int, int]:
    """Where the buffers begin and end in the file."""
    first = end = _aligned(lengths[0])
    for length in lengths[1:]:
        end = _aligned(end) + length
    return first, end


def _is_mapped(nbytes: int) -> bool:
    """Whether buffers of so many bytes together are mapped, not read."""
    return nbytes > READ_BYTES and (not _MAP_HOLDS_DESCRIPTOR or half_are_free())


def _buffers(memory: Handle, lengths: Sequence[int]) -> Iterator[memoryview]:
    first, end = _span(lengths)
    whole = _whole(memory, first, end)
    end = 0
    for length in lengths[1:]:
        start, end = _aligned(end), _aligned(end) + length
        yield whole[start:end]


def _whole(memory: Handle, first: int, end: int) -> memoryview:
    """That part of the file, mapped or read; no write to it reaches the file."""
    if _is_mapped(end - first):
        try:
            return memoryview(_mapped(memory.fileno()))[first:end]
        except OSError:  # no descriptor is free after all, or there are too many maps
            pass
    place = _place(end - first)
    _read_into(memory.fileno(), place, first)
    return place


def _mapped(fd: int) -> mmap.mmap:
    access = mmap.PROT_READ | mmap.PROT_WRITE
    if sys.version_info >= (3, 13):
        return mmap.mmap(fd, 0, mmap.MAP_PRIVATE, access, trackfd=False)
    return mmap.mmap(fd, 0, mmap.MAP_PRIVATE, access)


def _place(nbytes: int) -> memoryview:
    """Aligned memory of our own; if large, not of the heap, which is cleared under the interpreter's lock."""
    if nbytes > READ_BYTES:
        return memoryview(mmap.mmap(-1, nbytes, mmap.MAP_PRIVATE))
    heap = array("B", b"\0") * (nbytes + _ALIGNMENT - 1)  # unlike a bytearray, it tells where it lies
    start = -heap.buffer_info()[0] % _ALIGNMENT
    return memoryview(heap)[start : start + nbytes]


def _read_into(fd: int, view: memoryview, start: int) -> int:
    """Read from there on until it is full or nothing is left; how much that was."""
    done = 0
    while done < view.nbytes:
        got = os.preadv(fd, [view[done : done + _CHUNK_BYTES]], start + done)
        if not got:
            break
        done += got
    return done


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
        done = _read_into(self._fd, memoryview(place).cast("B"), self._at)
        self._at += done
        return done

    def readline(self) -> bytes:
        data = os.pread(self._fd, self._end - self._at, self._at)
        line = data[: data.find(b"\n") + 1] or data
        self._at += len(line)
        return line


def read(memory: Handle, length: int) -> bytes:
    """The first bytes of a file in memory."""
    return Reader(memory, length).read()
