"""Large messages of a pool: packed and opened in a thread, so that the loop is not held up."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from aioproc._kernel.background import Loop
from aioproc._kernel.waiting import in_thread
from aioproc._kernel.wire import Letter, Message
from aioproc.results import AsyncResult
from aioproc.task import Outcome, Task, outcome_of

__all__ = ["Copies"]


class Copies:
    """What is being copied.

    Args:
        packed: Called with each task that is ready to be sent.
        ended: Called after each.

    Attributes:
        count: How many are under way.
    """

    def __init__(self, loop: Loop, packed: Callable[[Task], None], ended: Callable[[], None]) -> None:
        self._loop = loop
        self._packed = packed
        self._ended = ended
        self._packing = set[Task]()
        self.count = 0

    @property
    def packing(self) -> int:
        """How many tasks wait for it; not those that were stopped meanwhile."""
        return sum(not task.result._done for task in self._packing)

    def pack(self, task: Task, letter: Letter) -> None:
        """Pack a task's arguments; what goes wrong comes out of its result."""
        self._packing.add(task)
        self._begin(partial(self._pack, task, letter), f"pack {task.result.name}")

    def open(self, result: AsyncResult[Any], message: Message) -> None:
        """Open a result's message, and settle it."""
        self._begin(partial(self._open, result, message), f"open the result of {result.name}")

    def let_go(self, letter: Letter) -> None:
        """Free the copy of a task that has ended: the kernel takes its time for that too."""
        kept = [letter.parcel]
        del letter.parcel
        self._begin(partial(in_thread, kept.clear), "free a large message")

    def _begin(self, work: Callable[[], Awaitable[None]], name: str) -> None:
        async def run() -> None:
            try:
                await work()
            finally:
                self.count -= 1
                self._ended()

        self.count += 1
        self._loop.spawn(run, name)

    async def _pack(self, task: Task, letter: Letter) -> None:
        try:
            await in_thread(letter.seal)
        except Exception as failure:
            task.result._raise(failure)
        finally:  # also when somebody cancels all tasks
            self._packing.discard(task)
            if not task.result._done:  # else it was cancelled meanwhile
                self._packed(task)

    async def _open(self, result: AsyncResult[Any], message: Message) -> None:
        found: list[Outcome] = []
        try:
            await in_thread(lambda: found.append(outcome_of(message)))
        finally:
            if found:
                result._settle(*found[0])
