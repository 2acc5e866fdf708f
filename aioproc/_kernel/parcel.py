"""An object on its way: pickled bytes, large buffers beside them, and the descriptors that go along.

Source: PEP 574 (pickle protocol 5), multiprocessing/reduction.py (ForkingPickler).
"""

from __future__ import annotations

import copyreg
import io
import pickle
from collections.abc import MutableSequence, Sequence
from typing import Any, Final

from aioproc._kernel.handle import Handle, collecting, handing_out

OUT_OF_BAND_BYTES: Final = 64 * 1024  # buffers of this size and more travel beside the pickle


class Parcel:
    """A pickled object.

    Attributes:
        data: The pickle.
        buffers: Large buffers of the object, in order, not copied.
        handles: Descriptors that travel with it, kept open until the parcel is gone.
    """

    __slots__ = ("buffers", "data", "handles")

    def __init__(self, data: bytes, buffers: Sequence[memoryview], handles: Sequence[Handle]) -> None:
        self.data = data
        self.buffers = buffers
        self.handles = handles


def pickled(obj: object, buffers: list[memoryview] | None = None) -> bytes:
    """The pickle of an object, by cloudpickle where pickle itself cannot.

    Raises:
        pickle.PicklingError: It cannot be pickled; the message names the object and what to do.
    """
    try:
        return _written(_Pickler, obj, buffers)
    except (pickle.PicklingError, AttributeError, TypeError) as failure:
        if buffers is not None:
            buffers.clear()
        return _by_value(obj, buffers, failure)


def pack(obj: object) -> Parcel:
    """Pickle an object for a message; see `pickled` for errors."""
    buffers: list[memoryview] = []
    with collecting() as handles:
        data = pickled(obj, buffers)
    return Parcel(data, buffers, handles)


def unpack(data: Any, buffers: Sequence[Any] = (), descriptors: MutableSequence[int] | None = None) -> Any:
    """The object again; descriptors that it did not adopt are closed, whatever happens."""
    with handing_out(descriptors if descriptors is not None else []):
        return pickle.loads(data, buffers=buffers)


class _Pickler(pickle.Pickler):
    @property
    def dispatch_table(self) -> dict[type, Any]:  # type: ignore[override]
        from multiprocessing.reduction import ForkingPickler

        return {**copyreg.dispatch_table, **ForkingPickler._extra_reducers}  # type: ignore[attr-defined]


def _written(pickler: Any, obj: object, buffers: list[memoryview] | None) -> bytes:
    def keep_small_inside(buffer: pickle.PickleBuffer) -> bool:
        view = buffer.raw()
        if view.nbytes < OUT_OF_BAND_BYTES:
            return True
        assert buffers is not None
        buffers.append(view)
        return False

    file = io.BytesIO()
    pickler(file, 5, buffer_callback=None if buffers is None else keep_small_inside).dump(obj)
    return file.getvalue()


def _by_value(obj: object, buffers: list[memoryview] | None, failure: Exception) -> bytes:
    try:
        import cloudpickle
    except ImportError:
        raise pickle.PicklingError(
            f"cannot pickle {obj!r}: {failure} (lambdas, closures and a notebook's functions travel "
            "with cloudpickle: pip install aioproc[cloudpickle])"
        ) from failure
    try:
        return _written(cloudpickle.Pickler, obj, buffers)
    except Exception as second:
        raise pickle.PicklingError(f"cannot pickle {obj!r}: {second}") from failure
