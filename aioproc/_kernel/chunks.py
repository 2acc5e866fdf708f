"""What a worker runs for a part of a map's input."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any


def run_chunk(func: Callable[..., Any], star: bool, items: Sequence[Any]) -> list[Any]:
    """The results of a plain function for each item."""
    if star:
        return [func(*item) for item in items]
    return [func(item) for item in items]


async def run_chunk_async(func: Callable[..., Awaitable[Any]], star: bool, items: Sequence[Any]) -> list[Any]:
    """The results of a coroutine function for each item, one after the other."""
    if star:
        return [await func(*item) for item in items]
    return [await func(item) for item in items]
