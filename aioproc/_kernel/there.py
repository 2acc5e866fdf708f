"""What a foreign executor's worker runs for us: the call, timed, with its exception's traceback as text.

Imports nothing but the stdlib's own, so that it also runs in a subinterpreter or on another machine.
"""

from __future__ import annotations

import importlib
import inspect
import os
import pickle
import time
import traceback
from functools import cache
from typing import Any

from aioproc._kernel.chunks import run_chunk

Answer = tuple[int, float, bool, Any, str]  # pid, seconds, whether it returned, value or exception, traceback


def call_there(func: Any, args: Any, kwargs: Any, loop: tuple[str, dict[str, Any]]) -> Answer:
    """Call a function, or run a coroutine function in a new event loop."""
    since = time.perf_counter()
    try:
        value = func(*args, **kwargs)
        if func is run_chunk and any(map(inspect.iscoroutine, value)):
            value = _each(value)
        if inspect.iscoroutine(value):
            value = _run(value, loop)
        return os.getpid(), time.perf_counter() - since, True, value, ""
    except BaseException as error:
        text = "".join(traceback.format_exception(error))
        return os.getpid(), time.perf_counter() - since, False, _portable(error), text


async def _each(values: list[Any]) -> list[Any]:
    return [await value if inspect.iscoroutine(value) else value for value in values]


def stay_a_moment(seconds: float) -> None:
    """Keep one worker busy, so that the next call needs another one."""
    time.sleep(seconds)


def _run(coroutine: Any, loop: tuple[str, dict[str, Any]]) -> Any:
    import anyio

    async def main() -> Any:
        return await coroutine

    backend, options = loop
    if options.get("use_uvloop") and not _uvloop_loads():
        options = options | {"use_uvloop": False}
    return anyio.run(main, backend=backend, backend_options=options)


@cache
def _uvloop_loads() -> bool:
    # Not where it is not installed, and not in a subinterpreter, which learns that anew each time, in 3 ms.
    try:
        importlib.import_module("uvloop")
    except ImportError:
        return False
    return True


def _portable(error: BaseException) -> BaseException | str:
    """See ``outcome.raised``, which this does without, as it runs in processes that are not ours."""
    try:  # others would end the program, or a task, that waits, and so would what opens as one
        if isinstance(error, Exception) and isinstance(pickle.loads(pickle.dumps(error)), Exception):
            return error
    except BaseException:  # its pickling and unpickling are the user's code
        pass
    return "".join(traceback.format_exception_only(error)).strip()
