"""An object on its way: pickled pieces, large buffers beside them, and the descriptors that go along.

Source: PEP 574 (pickle protocol 5), multiprocessing/reduction.py (ForkingPickler).
"""

from __future__ import annotations

import copyreg
import io
import os
import pickle
import reprlib
import socket
import sys
from collections import ChainMap
from collections.abc import Callable, Iterator, MutableSequence, Sequence
from contextlib import contextmanager
from functools import cache
from multiprocessing.reduction import ForkingPickler
from pickle import dumps
from typing import Any, Final

from aioproc._kernel.handle import Handle, arrive, courier, handing_out

PACKET_BYTES: Final = 128 * 1024  # what is longer travels in a file in memory
OUT_OF_BAND_BYTES: Final = 64 * 1024  # buffers of this size and more travel beside the pickle
_MOST_BUFFERS: Final = 4096  # a packet must hold the length of each
_NUMBERS: Final = frozenset({float, bool, type(None)})
_HUGE: Final = 1 << 8 * 1024  # an int that may be longer than a packet
_MINUS_HUGE: Final = -_HUGE
_STRINGS: Final = frozenset({str, bytes})
_SHORT: Final = 1024  # of a string, in characters or bytes
_LONG: Final = 32 * 1024  # bytes that are not copied; for fewer, a call with three pieces costs more
_FEW: Final = 16
_FROM_MEMO: Final = {"BINGET", "LONG_BINGET"}
_EXTRA: Final[dict[type, Any]] = ForkingPickler._extra_reducers  # type: ignore[attr-defined]
_REGISTERED: Final = copyreg.dispatch_table


class Parcel:
    """A pickled object that needs more than one packet that is its pickle.

    Attributes:
        pieces: The pickle; bytes of 64 KiB and more inside it are pieces of their own, not copied.
        buffers: Large buffers of the object, in order, not copied.
        handles: Descriptors that travel with it; open for as long as the object is.
        flags: What the channel says of it beforehand.
        packet: What is sent, piece by piece, once the channel has sealed the parcel; None before.
        rights: The descriptors that are sent with the packet.
        ends: A socket pair for them, where they are too many for one packet and must wait.
    """

    buffers: Sequence[memoryview] = ()
    handles: Sequence[Handle] = ()
    flags = 0
    packet: Sequence[bytes] | None = None
    rights: Sequence[Handle] = ()
    ends: tuple[Handle, Handle] | None = None

    def __init__(self, pieces: Sequence[Any]) -> None:
        self.pieces = pieces

    def hold(self) -> None:
        """Let copies of its descriptors travel: whoever gave the handles may close them from now on.

        Raises:
            OSError: No descriptor is free; the handles are still what travels.
        """
        if self.handles:
            self.rights = [Handle(os.dup(handle.fileno())) for handle in self.rights]
            self.handles = ()

    @property
    def nbytes(self) -> int:
        """How many bytes will be copied."""
        return sum(map(len, self.pieces)) + sum(view.nbytes for view in self.buffers)


Packed = bytes | Parcel  # what fits into a packet, and brings nothing along, is its pickle


def pickled(obj: object) -> bytes:
    """The pickle of an object in one piece, by cloudpickle where pickle itself cannot.

    Raises:
        pickle.PicklingError: It cannot be pickled; the message names the object and what to do.
    """
    file = io.BytesIO()
    pickler = pickle.Pickler(file, 5)
    if _learned() != _Tables.known:
        _Tables.learn()
    pickler.dispatch_table = _Tables.plain
    try:
        pickler.dump(obj)
        if _Tables.main_is_out_of_reach and not _Tables.main_is_shared:
            _check_reach([file.getvalue()])
    except (pickle.PicklingError, AttributeError, TypeError) as failure:
        return _by_value(obj, None, failure)
    return file.getvalue()


def pack(obj: object) -> Packed:
    """Pickle an object for a message; see `pickled` for errors."""
    if are_plain(obj if type(obj) is tuple else (obj,)):
        return dumps(obj, 5)
    if type(obj) is bytes and _LONG <= len(obj) < PACKET_BYTES - _SHORT:
        return _as_they_are(obj)
    try:
        writer = _writers.pop()
    except IndexError:
        writer = _Writer()
    return writer.write(obj)


def _as_they_are(data: bytes) -> Parcel:
    """The pickle of bytes around themselves: a copy of many KB, kept until there is room, costs more."""
    head = pickle.PROTO + b"\x05" + pickle.BINBYTES + len(data).to_bytes(4, "little")
    return Parcel((head, data, pickle.STOP))


def are_plain(items: tuple[Any, ...]) -> bool:
    """Whether they are a few numbers and short strings, which fit into a packet."""
    for item in items:
        kind = type(item)
        if kind is int:
            if not _MINUS_HUGE < item < _HUGE:
                return False
        elif kind not in _NUMBERS and not (kind in _STRINGS and len(item) < _SHORT):
            return False
    return len(items) < _FEW


def parcel_of(packed: Packed) -> Parcel:
    """The same as a parcel."""
    return Parcel((packed,)) if isinstance(packed, bytes) else packed


def unpack(data: Any, buffers: Sequence[Any] = (), descriptors: MutableSequence[int] | None = None) -> Any:
    """The object again; descriptors that it did not adopt are closed, whatever happens."""
    with handing_out(descriptors if descriptors is not None else []):
        return pickle.loads(data, buffers=buffers)


class _Pieces(list[Any]):
    write = list.append  # pickle hands over bytes of 64 KiB and more as they are


class _Writer:
    """A pickler that is used again and again: to make one costs more than a small pickle."""

    def __init__(self) -> None:
        self._pieces = _Pieces()
        self._buffers: list[memoryview] = []
        self._handles: list[Handle] = []
        self._pickler = pickle.Pickler(self._pieces, 5, buffer_callback=self._stays_inside)
        self._dump, self._clear_memo = self._pickler.dump, self._pickler.clear_memo
        self._known = -1

    def write(self, obj: object) -> Packed:
        """The object, pickled."""
        if self._known != len(_EXTRA) + len(_REGISTERED):
            _Tables.learn()
            self._known = _Tables.known
            self._pickler.dispatch_table = {**_Tables.message, Handle: self._goes_along}
        packed: Packed
        try:
            self._dump(obj)
            if _Tables.main_is_out_of_reach and not _Tables.main_is_shared:
                _check_reach(self._pieces)
        except (pickle.PicklingError, AttributeError, TypeError) as failure:
            return _parcel_by_value(obj, failure)  # and this writer is dropped: its pickle is half written
        self._clear_memo()
        pieces = self._pieces
        if len(pieces) > 1 or len(pieces[0]) > PACKET_BYTES or self._buffers or self._handles:
            packed = self._parcel()
        else:
            packed = pieces.pop()
        _writers.append(self)
        return packed

    def _parcel(self) -> Parcel:
        parcel = Parcel(tuple(self._pieces))
        self._pieces.clear()
        parcel.buffers, self._buffers = self._buffers, []
        parcel.handles, self._handles = self._handles, []
        return parcel

    def _goes_along(self, handle: Handle) -> tuple[Any, ...]:
        self._handles.append(handle)
        return arrive, (len(self._handles) - 1,)

    def _stays_inside(self, buffer: pickle.PickleBuffer) -> bool:
        return _stays_inside(buffer, self._buffers)


_writers: list[_Writer] = []
_named: Final = reprlib.Repr()  # what cannot be pickled may be large
_named.maxother = _named.maxstring = 200


def _stays_inside(buffer: pickle.PickleBuffer, buffers: list[memoryview]) -> bool:
    try:
        view = buffer.raw()
    except BufferError:  # not contiguous
        return True
    if view.nbytes < OUT_OF_BAND_BYTES or len(buffers) == _MOST_BUFFERS:
        return True
    buffers.append(view)
    return False


def _keeper(buffers: list[memoryview]) -> Callable[[pickle.PickleBuffer], bool]:
    return lambda buffer: _stays_inside(buffer, buffers)


def _parcel_by_value(obj: object, failure: Exception) -> Parcel:
    buffers: list[memoryview] = []
    handles: list[Handle] = []
    before, courier.outgoing = courier.outgoing, handles
    try:
        parcel = Parcel((_by_value(obj, _keeper(buffers), failure),))
    finally:
        courier.outgoing = before
    parcel.buffers, parcel.handles = buffers, handles
    return parcel


@cache
def _extended(cloudpickler: Any) -> Any:
    """cloudpickle's pickler, with a table of what else is reduced in a way of its own."""

    class Extended(cloudpickler):  # type: ignore[misc]
        def __init__(self, file: io.BytesIO, callback: Any, table: dict[type, Any]) -> None:
            self._table = ChainMap(cloudpickler.dispatch_table, table)
            super().__init__(file, 5, buffer_callback=callback)

        @property
        def dispatch_table(self) -> Any:
            return self._table

    return Extended


def _by_value(
    obj: object, callback: Callable[[pickle.PickleBuffer], bool] | None, failure: Exception
) -> bytes:
    try:
        import cloudpickle
    except ImportError:
        raise pickle.PicklingError(
            f"cannot pickle {_named.repr(obj)}: {failure} (lambdas, closures and a notebook's functions "
            "travel with cloudpickle: pip install aioproc[cloudpickle])"
        ) from failure
    file = io.BytesIO()
    try:
        table = _Tables.plain if callback is None else _Tables.message
        _extended(cloudpickle.Pickler)(file, callback, table).dump(obj)
    except Exception as second:
        raise pickle.PicklingError(f"cannot pickle {_named.repr(obj)}: {second}") from failure
    return file.getvalue()


@contextmanager
def main_shared(shared: bool) -> Iterator[None]:
    """While inside, what is pickled goes, if ``shared``, to the process of which this one is a copy.

    What it names in its main module, however out of reach for others, is the same there.
    """
    before, _Tables.main_is_shared = _Tables.main_is_shared, shared
    try:
        yield
    finally:
        _Tables.main_is_shared = before


def _check_reach(pieces: Sequence[bytes]) -> None:
    """PicklingError for names of a main module that no child can import: a notebook's, or ``python -c``."""
    if any(b"__main__" in piece for piece in pieces if _is_frame(piece)) and _names_main(b"".join(pieces)):
        raise pickle.PicklingError("it names something of __main__, which no other process can import here")


def _names_main(pickled: bytes) -> bool:
    """Whether a pickle looks something up in the main module, and does not merely contain its name."""
    import pickletools

    recent: list[Any] = [None, None]  # the last two strings: a module's name, and a name in it
    memo: list[Any] = []
    pushed: Any = None
    argument: Any
    for opcode, argument, _ in pickletools.genops(pickled):
        if opcode.name == "MEMOIZE":
            memo.append(pushed)
            continue
        if opcode.name == "STACK_GLOBAL" and recent[0] == "__main__":
            return True
        pushed = memo[argument] if opcode.name in _FROM_MEMO else argument
        if isinstance(pushed, str):
            recent = [recent[1], pushed]
    return False


def _is_frame(piece: bytes) -> bool:
    """Whether it is a frame of the pickle, and not large bytes as they are: a frame has about 64 KiB."""
    return len(piece) < 2 * OUT_OF_BAND_BYTES


class _Tables:
    """What copyreg and multiprocessing know to reduce, merged; made anew when either has learned more."""

    known = -1
    main_is_out_of_reach = False
    main_is_shared = False  # with who will read what is pickled now
    plain: dict[type, Any]
    message: dict[type, Any]  # the stdlib's sockets and connections go along as descriptors

    @classmethod
    def learn(cls) -> None:
        known = _learned()
        main = sys.modules.get("__main__")
        file = getattr(main, "__file__", None) or "<none>"  # "<stdin>" and its like are no files
        cls.main_is_out_of_reach = getattr(main, "__spec__", None) is None and file.startswith("<")
        cls.plain = {**_REGISTERED, **_EXTRA}
        cls.message = {**cls.plain, socket.socket: _reduce_socket}
        connection = sys.modules.get("multiprocessing.connection")
        if connection is not None:
            cls.message[connection.Connection] = _reduce_connection
        cls.known = known


def _learned() -> int:
    return len(_EXTRA) + len(_REGISTERED)


def _reduce_socket(sock: socket.socket) -> tuple[Any, ...]:
    return _socket, (Handle(os.dup(sock.fileno())), sock.family, sock.type, sock.proto)


def _socket(handle: Handle, family: int, kind: int, proto: int) -> socket.socket:
    return socket.socket(family, kind, proto, fileno=handle.detach())


def _reduce_connection(connection: Any) -> tuple[Any, ...]:
    return _connection, (Handle(os.dup(connection.fileno())), connection.readable, connection.writable)


def _connection(handle: Handle, readable: bool, writable: bool) -> Any:
    from multiprocessing.connection import Connection

    return Connection(handle.detach(), readable, writable)
