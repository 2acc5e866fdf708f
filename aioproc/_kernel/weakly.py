"""Methods that are called later, if their object is still there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from weakref import WeakMethod


def weakly(method: Callable[..., object]) -> Callable[..., None]:
    """The method, but without keeping its object alive."""
    reference = WeakMethod(method)

    def call(*args: Any) -> None:
        found = reference()
        if found is not None:
            found(*args)

    return call
