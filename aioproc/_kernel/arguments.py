"""Numbers that users give: what is refused, and what is said then."""

from __future__ import annotations

from operator import index


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
