"""The event loops of a run: each is made once and kept, so that what lives in it lives from turn to turn."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from importlib.util import find_spec
from typing import Any, Final, TypeVar

T = TypeVar("T")

LOOPS: Final = ("asyncio", "uvloop") if find_spec("uvloop") else ("asyncio",)
_runners: dict[str, asyncio.Runner] = {}


def new_runner(loop: str) -> asyncio.Runner:
    """A runner with a loop of its own."""
    if loop == "asyncio":
        return asyncio.Runner()
    import uvloop

    return asyncio.Runner(loop_factory=uvloop.new_event_loop)


def run(loop: str, work: Coroutine[Any, Any, T]) -> T:
    """Run it in the loop of that kind."""
    if loop not in _runners:
        _runners[loop] = new_runner(loop)
    return _runners[loop].run(work)


def close() -> None:
    """End all loops."""
    while _runners:
        _runners.popitem()[1].close()


def named(contender: str, loop: str) -> str:
    """A contender's name in the tables: plain asyncio goes without saying."""
    return contender if loop == "asyncio" else f"{contender}, {loop}"
