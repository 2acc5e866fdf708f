"""What ``with`` and ``async with`` mean for whatever is acquired and released, and what a twin is."""

from __future__ import annotations

from typing import Any

__all__ = ["Entered", "Twin"]


class Entered:
    """Acquired when a block is entered, released when it is left."""

    __slots__ = ()

    async def __aenter__(self: Any) -> None:
        await self.acquire()

    async def __aexit__(self: Any, *exc: object) -> None:
        self.release()


class Twin:
    """The same for threads: a view of an async face, which is all that travels with it."""

    __slots__ = ("aio",)

    def __init__(self, aio: Any) -> None:
        self.aio = aio

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.aio,)

    def __enter__(self: Any) -> bool:
        entered: bool = self.acquire()
        return entered

    def __exit__(self: Any, *exc: object) -> None:
        self.release()

    def __repr__(self) -> str:
        return repr(self.aio)
