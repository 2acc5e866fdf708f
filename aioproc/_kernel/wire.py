"""What a pool and its worker say to each other: a small header, and behind it what the task itself opens.

The header names the task before anything is unpickled, so that a message that cannot be opened fails its own
task only, and so that the pool can take a message back without opening it.
"""

from __future__ import annotations

import inspect
import os
import struct
from collections.abc import Sequence
from pickle import Unpickler, loads
from types import FunctionType
from typing import Any, Final

from aioproc._kernel.handle import handing_out
from aioproc._kernel.memory import Reader
from aioproc._kernel.parcel import Parcel, unpack

HEADER: Final = struct.Struct("<BBQd")  # the mark of a pickle, kind, task, seconds or count
_ASYNC_FLAGS: Final = inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR
MARK: Final = 0x80  # a packet that begins so is no affair of the channel's
SMALL_BYTES: Final = 32 * 1024  # larger tasks are not sent ahead
STREAM_AHEAD: Final = 8  # items of a stream that may be on their way


class Kind:
    """What a message is; the second byte of a pickle, its protocol, is 5 at most.

    Plain numbers, because an enum costs a microsecond a message.
    """

    LAST_WORD = 0  # of a child that ends, see child.py; it has no header
    CALL = 10
    CALL_IN_LOOP = 11
    STREAM = 12
    STREAM_IN_LOOP = 13

    READY = 20
    INITIALIZER_FAILED = 21
    DONE = 22
    STOPPED = 23
    ITEM = 24

    CANCEL = 30
    INTERRUPT = 31
    CREDIT = 32


class Message:
    """A message that has arrived, its inside unopened; `open` or `drop` it once."""

    __slots__ = ("_buffers", "_data", "_descriptors", "kind", "number", "task")

    def __init__(self, data: Any, buffers: Sequence[Any], descriptors: list[int]) -> None:
        self._buffers = buffers
        self._descriptors = descriptors
        self.kind: int
        self.task: int
        head = data if type(data) is bytes else data.read(HEADER.size)
        if head[1] < Kind.CALL:
            self.kind, self.task, self.number = Kind.LAST_WORD, 0, 0.0
            self._data = head if head is data else head + data.read()
        else:
            _, self.kind, self.task, self.number = HEADER.unpack_from(head)
            self._data = memoryview(data)[HEADER.size :] if head is data else data

    def open(self) -> Any:
        """What is inside, unpickled."""
        if type(self._data) is Reader:
            with handing_out(self._descriptors):
                return Unpickler(self._data, buffers=self._buffers).load()
        if not self._descriptors:
            return loads(self._data, buffers=self._buffers)
        return unpack(self._data, self._buffers, self._descriptors)

    def drop(self) -> None:
        """Close what came with it."""
        for fd in self._descriptors:
            os.close(fd)


def addressed(parcel: Parcel, kind: int, task: int, number: float = 0.0) -> Parcel:
    """The same parcel, now with a header."""
    header = HEADER.pack(MARK, kind, task, number)
    pieces = parcel.pieces
    if len(pieces) == 1 and len(pieces[0]) < SMALL_BYTES:
        parcel.pieces = (header + pieces[0],)
    else:
        parcel.pieces = (header, *pieces)
    return parcel


def signal_of(kind: int, task: int = 0, number: float = 0.0) -> Parcel:
    """A message that is only a header."""
    return Parcel((HEADER.pack(MARK, kind, task, number),))


def is_asynchronous(func: Any) -> bool:
    """Whether a function needs an event loop: it, or the ``__call__`` of an object, is ``async def``."""
    if type(func) is FunctionType and not func.__dict__:
        return bool(func.__code__.co_flags & _ASYNC_FLAGS)
    return _is_async(func) or (not inspect.isroutine(func) and _is_async(type(func).__call__))


def _is_async(func: Any) -> bool:
    return inspect.iscoroutinefunction(func) or inspect.isasyncgenfunction(func)
