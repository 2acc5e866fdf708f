"""A task of asyncio goes on in the callback that learns what it waits for, not in the loop's next turn.

`Future.set_result` only schedules that the task goes on: in the next turn, which polls all descriptors again.
So a wake-up takes two turns of the loop. Here the future is done, and what its task has asked it to call is
called at once, in the task's context, as the loop would do it. Only frames of this file lie under the task's.
Not so in asyncio's debug mode, whose log of what has held up the loop names what the loop itself has called;
nor in a loop that may run inside of itself (nest_asyncio), where the first of several that are woken might
wait for the others; nor where somebody else too has asked a future to be called.

Source: CPython's asyncio/futures.py (``_callbacks``, each with its context), asyncio/tasks.py (``__wakeup``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

Woken = Callable[[], Iterable[Any]]  # says which futures of asyncio are to be done


def resumption(loop: Any) -> Callable[[Woken], None]:
    """What a loop of asyncio is to call, with a `Woken`, for tasks to go on."""
    return _wake if loop.get_debug() or getattr(loop, "_nest_patched", False) else resume


def resume(woken: Woken) -> None:
    """Let futures be done, and the task that waits for each go on now; a loop calls it, where no task runs.

    If a task ends the program, those after it go on in the loop's next turn.
    """
    left = iter(woken())
    try:
        for future in left:
            if not future.done():
                _let_go_on(future)
    except BaseException:
        wake_all(left)
        raise


def _wake(woken: Woken) -> None:
    wake_all(woken())


def _let_go_on(future: Any) -> None:
    callbacks = future._callbacks
    if not callbacks or len(callbacks) > 1:
        future.set_result(None)
        return
    ((callback, context),) = callbacks
    future.remove_done_callback(callback)
    future.set_result(None)
    context.run(callback, future)


def wake_all(futures: Iterable[Any]) -> None:
    """Let futures be done, and their tasks go on in the loop's next turn."""
    for future in futures:
        if not future.done():
            future.set_result(None)
