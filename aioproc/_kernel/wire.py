"""What a pool and its worker say to each other: what the task itself opens, and at its end an address.

The address names the task before anything is unpickled, so that a message that cannot be opened fails its own
task only, and so that the pool can take a message back without opening it.
"""

from __future__ import annotations

import errno
import inspect
import struct
from collections.abc import Callable
from pickle import dumps, loads
from types import BuiltinFunctionType, FunctionType, ModuleType
from typing import Any, Final

from aioproc._kernel import bundle, channel, memory
from aioproc._kernel.parcel import Packed, Parcel, are_plain, pack, parcel_of

ADDRESS: Final = struct.Struct("<QdB")  # task, seconds or bytes or count, kind
SMALL_BYTES: Final = 32 * 1024  # larger tasks are not sent ahead
STREAM_AHEAD: Final = 8  # items of a stream that may be on their way

_ASYNC_FLAGS: Final = inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR
PICKLE: Final = 0x80
buffers: Final = channel._buffers
_NAMES_KEPT: Final = 1000


class Kind:
    """What a message is: its last byte. That of a message without an address is "." or zero.

    Plain numbers, because an enum costs a microsecond a message.
    """

    CALL = 10  # of a plain function; of an `async def`, one more
    CALL_IN_LOOP = 11
    STREAM = 12  # likewise
    STREAM_IN_LOOP = 13

    READY = 20
    INITIALIZER_FAILED = 21
    DONE = 22
    FAILED = 23
    STOPPED = 24
    ITEM = 25
    LEAVING = 26  # the worker ends after this task, of which the outcome follows

    CANCEL = 30
    INTERRUPT = 31
    CREDIT = 32

    LETTER_FOLLOWS = 33  # the next message is one for which there must be room for descriptors

    LAST_WORD = 40  # of a child that ends, see child.py; it has no address
    MOST = 45


_LEAST: Final = Kind.CALL
_MOST: Final = Kind.MOST


class Letter:
    """An addressed parcel, for which one packet is too small or descriptors must go along.

    Attributes:
        is_large: To copy it, or to free the copy, would hold up a loop.
    """

    __slots__ = ("_address", "_sealed", "is_large", "parcel")

    def __init__(self, parcel: Parcel, address: bytes) -> None:
        self.parcel = parcel
        self._address = address
        self._sealed = False
        self.is_large = parcel.nbytes > memory.IN_THREAD_BYTES

    def seal(self) -> None:
        """Make the packet; this copies what is large."""
        if not self._sealed:
            self.parcel.packet = [*channel.seal(self.parcel), self._address]
            self._sealed = True


Call = tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]  # a function and its arguments
Mail = bytes | Letter  # what is small is its packet


class Message:
    """A message that has arrived, its inside unopened; `open` or `drop` it once.

    Args:
        buffer: What was received, and behind it what the buffer held before.
        nbytes: How many bytes were received.
        descriptors: What came along.
        lost: Whether this process had no room for all of that.
    """

    __slots__ = ("_buffer", "_descriptors", "_lost", "_nbytes", "kind", "number", "task")

    kind: int
    task: int
    number: float

    def __init__(self, buffer: bytearray, nbytes: int, descriptors: list[int], lost: bool) -> None:
        self._buffer = buffer
        self._descriptors = descriptors
        self._lost = lost
        inside = nbytes - ADDRESS.size
        if inside >= 0 and _LEAST <= buffer[nbytes - 1] <= _MOST:
            self.task, self.number, self.kind = ADDRESS.unpack_from(buffer, inside)
            self._nbytes = inside
        else:
            self.task, self.number, self.kind = 0, 0.0, Kind.LAST_WORD
            self._nbytes = nbytes

    def open(self) -> Any:
        """What is inside, unpickled."""
        if self._descriptors or self._buffer[0] != PICKLE or self._lost:
            self._need_all()
            return channel.opened(self._arrival)
        try:
            return loads(self._buffer)
        finally:
            buffers.append(self._buffer)

    def open_call(self) -> tuple[Any, Any, Any]:
        """The function, the arguments and the keyword arguments of a task."""
        if not self.number:
            return self.open()  # type: ignore[no-any-return]
        buffer = self._buffer
        try:
            return loads(buffer), loads(memoryview(buffer)[int(self.number) :]), {}
        finally:
            self.drop()

    @property
    def is_heavy(self) -> bool:
        """Whether opening it would hold up a loop."""
        return self._buffer[0] != PICKLE and not self._lost and channel.heavy(self._arrival)

    def drop(self) -> None:
        """Let go of it and of what came with it."""
        buffers.append(self._buffer)
        if self._descriptors:
            bundle.close_all(self._descriptors)

    @property
    def _arrival(self) -> channel.Arrival:
        return self._buffer, self._nbytes, self._descriptors

    def _need_all(self) -> None:
        if self._lost:
            self.drop()
            raise OSError(errno.EMFILE, "no free file descriptor for what came with it")


def addressed(packed: Packed, kind: int, task: int, number: float = 0.0) -> Mail:
    """What was packed, with its address."""
    address = ADDRESS.pack(task, number, kind)
    if isinstance(packed, bytes) and len(packed) < SMALL_BYTES:
        return packed + address
    return Letter(parcel_of(packed), address)


def signal_of(kind: int, task: int = 0, number: float = 0.0) -> bytes:
    """A message that is only an address."""
    return ADDRESS.pack(task, number, kind)


def called(task: int, call: Call, streams: bool) -> tuple[Mail, bool]:
    """A task, and whether it needs an event loop.

    The name of a function is pickled once; of plain arguments, nothing but they are pickled.
    """
    func, args, kwargs = call
    kind = Kind.STREAM if streams else Kind.CALL
    if type(func) is FunctionType or (
        isinstance(func, BuiltinFunctionType) and isinstance(func.__self__, ModuleType)
    ):
        name, in_loop = _known.get(func) or _learned(func)
        if name and not kwargs and are_plain(args):
            return name + dumps(args, 5) + ADDRESS.pack(task, len(name), kind + in_loop), in_loop
    else:
        in_loop = is_asynchronous(func)
    return addressed(pack(call), kind + in_loop, task), in_loop


_known: dict[Callable[..., Any], tuple[bytes, bool]] = {}


def _learned(func: Callable[..., Any]) -> tuple[bytes, bool]:
    """The pickle of a function that travels by its name, else nothing; whether it needs an event loop."""
    in_loop = is_asynchronous(func)
    try:
        name = dumps(func, 5)
    except Exception:  # a lambda or a closure
        return b"", in_loop
    if pack(func) != name:  # by value, because no worker can import it
        return b"", in_loop
    if len(_known) >= _NAMES_KEPT:
        _known.clear()
    _known[func] = name, in_loop
    return name, in_loop


def is_asynchronous(func: Any) -> bool:
    """Whether a function needs an event loop: it, or the ``__call__`` of an object, is ``async def``."""
    if type(func) is FunctionType and not func.__dict__:
        return bool(func.__code__.co_flags & _ASYNC_FLAGS)
    return _is(_is_async, func)


def awaits_and_returns(func: Any) -> bool:
    """Whether it is asynchronous, but no generator function."""
    return _is(inspect.iscoroutinefunction, func)


def _is(kind: Callable[[Any], bool], func: Any) -> bool:
    """Whether a function, or the ``__call__`` of an object, is of a kind."""
    return kind(func) or (not inspect.isroutine(func) and kind(type(func).__call__))


def _is_async(func: Any) -> bool:
    return inspect.iscoroutinefunction(func) or inspect.isasyncgenfunction(func)
