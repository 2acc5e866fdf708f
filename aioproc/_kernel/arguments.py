"""Numbers, functions and arguments that users give: what is refused, and what is said then."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set
from operator import index
from types import CoroutineType
from typing import Any, NoReturn


def integer(name: str, value: int, least: int | None = None) -> int:
    """The number as an int.

    Raises:
        TypeError: It is no integer.
        ValueError: It is below ``least``.
    """
    try:
        number = index(value)
    except TypeError:
        raise TypeError(f"{name} must be an integer, not {value!r}") from None
    if least is not None and number < least:
        raise ValueError(f"{name} must be {least} or more, not {value!r}")
    return number


def seconds(name: str, value: float) -> float:
    """The number of seconds.

    Raises:
        TypeError: It is no number.
        ValueError: It is negative, or not a number (NaN).
    """
    try:
        fits = value >= 0
    except TypeError:
        raise TypeError(f"{name} must be a number of seconds, not {value!r}") from None
    if not fits:
        raise ValueError(f"{name} must be a number of seconds from 0, not {value!r}")
    return value


def patience(timeout: float | None) -> float | None:
    """How many seconds to wait at most: None waits for ever, less than zero not at all.

    Raises:
        TypeError: It is no number.
        ValueError: It is not a number (NaN).
    """
    if timeout is None:
        return None
    try:
        if timeout <= 0:
            return 0.0
    except TypeError:
        pass
    return seconds("timeout", timeout)


def arguments(name: str, value: Any) -> tuple[Any, ...]:
    """The positional arguments of a function.

    Raises:
        TypeError: It has no order, or is a string.
    """
    if isinstance(value, (str, bytes, Set, Mapping)) or not isinstance(value, Iterable):
        raise TypeError(f"{name} must be a tuple of arguments, not {value!r} (one is written {name}=(x,))")
    return tuple(value)


def keywords(name: str, value: Any) -> dict[str, Any]:
    """The keyword arguments of a function; TypeError if it is no mapping."""
    if not isinstance(value, Mapping):
        raise TypeError(f"{name} must be a mapping, not {value!r}")
    return dict(value)


def not_callable(name: str, value: Any, example: str) -> NoReturn:
    """Refuse what is no function.

    Args:
        example: How it is written, with ``{}`` for the function; said of a call that was made too early.

    Raises:
        TypeError: Always.
    """
    advice = ""
    if isinstance(value, CoroutineType):
        value.close()  # which nobody will await
        advice = f" (write {example.format(value.__name__)})"
    raise TypeError(f"{name} must be callable, not {value!r}{advice}")
