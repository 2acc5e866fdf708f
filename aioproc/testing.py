"""Contract checks: what every implementation of a primitive must do, for our tests and for other people's."""

from __future__ import annotations

import queue as stdlib
from collections.abc import Awaitable, Callable
from typing import Any

import anyio

__all__ = ["check_queue"]


async def check_queue(make: Callable[[int], Any]) -> None:
    """Check a queue against the contract of `aioproc.Queue`, in one process.

    Args:
        make: Makes a queue of a given maxsize; 0 for no limit.

    Raises:
        AssertionError: It does not keep to the contract; the message says where.
    """
    for check in (_keeps_order, _is_bounded, _loses_nothing_to_a_cancel, _shuts_down, _refuses_once_closed):
        for maxsize in (0, 3):
            queue = make(maxsize)
            await check(queue, maxsize)
            queue.close()


async def _keeps_order(queue: Any, maxsize: int) -> None:
    for items in (range(3), ["a", None, bytes(100_000)]):
        await queue.put_many(items)
        assert queue.qsize() == 3, "qsize counts what was put"
        assert [await queue.get() for _ in range(3)] == list(items), "first in, first out"
        assert queue.empty(), "empty when all were taken"


async def _is_bounded(queue: Any, maxsize: int) -> None:
    for number in range(3):
        queue.put_nowait(number)
    assert queue.full() == bool(maxsize), "full at maxsize, never without one"
    if maxsize:
        await _raises(stdlib.Full, lambda: queue.put(3, timeout=0.01))
        await _raises(stdlib.Full, lambda: queue.put(3, block=False))
    assert await queue.get_many(10) == [0, 1, 2], "a refused put put nothing"
    await _raises(stdlib.Empty, lambda: queue.get(timeout=0.01))
    await _raises(stdlib.Empty, lambda: queue.get(block=False))


async def _loses_nothing_to_a_cancel(queue: Any, maxsize: int) -> None:
    got: list[int] = []

    async def take() -> None:
        got.append(await queue.get())

    async with anyio.create_task_group() as outer:
        async with anyio.create_task_group() as inner:
            for _ in range(3):
                inner.start_soon(take)
            await anyio.wait_all_tasks_blocked()
            inner.cancel_scope.cancel()
        outer.start_soon(take)
        await anyio.wait_all_tasks_blocked()
        await queue.put(1)
    assert got == [1], "an item goes to who still waits"


async def _shuts_down(queue: Any, maxsize: int) -> None:
    await queue.put_many([1, 2])
    queue.shutdown()
    await _raises(Exception, lambda: queue.put(3))
    assert [item async for item in queue] == [1, 2], "what was put before shutdown is handed out"
    await _raises(Exception, lambda: queue.get())


async def _refuses_once_closed(queue: Any, maxsize: int) -> None:
    queue.close()
    queue.close()
    await _raises(ValueError, lambda: queue.put(1))
    await _raises(ValueError, lambda: queue.get())


async def _raises(kind: type[Exception], operation: Callable[[], Awaitable[Any]]) -> None:
    try:
        with anyio.fail_after(5):
            await operation()
    except kind:
        return
    raise AssertionError(f"{kind.__name__} was to be raised")
