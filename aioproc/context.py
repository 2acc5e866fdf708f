"""Contexts: how processes start, with every other name at hand, as in ``multiprocessing.get_context``."""

from __future__ import annotations

import inspect
import multiprocessing
import os
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final, Literal, TypeVar

from aioproc.local.process import (
    ForkProcess,
    ForkServerProcess,
    Process,
    SpawnProcess,
    active_children,
    current_process,
)

if TYPE_CHECKING:
    from multiprocessing.process import BaseProcess

__all__ = [
    "Context",
    "active_children",
    "cpu_count",
    "current_process",
    "freeze_support",
    "get_all_start_methods",
    "get_context",
    "get_start_method",
    "parent_process",
    "run",
    "set_forkserver_preload",
    "set_start_method",
]

T = TypeVar("T")

_PROCESSES: Final[dict[str, type[Process[Any]]]] = {
    "fork": ForkProcess,
    "forkserver": ForkServerProcess,
    "spawn": SpawnProcess,
}
_chosen: str | None = None


class Context:
    """Every public name of aioproc, with processes started in one way.

    Args:
        method: "fork", "forkserver", "spawn", or None for the default, whatever it is when a process starts.

    Raises:
        ValueError: There is no such method here.
    """

    def __init__(self, method: str | None = None) -> None:
        if method is not None and method not in _PROCESSES:
            _check_method(method)
        self._method = method
        self.Process: type[Process[Any]] = _PROCESSES[method] if method else Process

    def __getattr__(self, name: str) -> Any:
        import aioproc

        if name.startswith("_") or name not in aioproc.__all__:
            raise AttributeError(f"a context has no attribute {name!r}")
        found = getattr(aioproc, name)
        if self._method and name in ("AsyncPool", "ProcessGroup"):
            named = {"__doc__": found.__doc__, "__module__": found.__module__}
            found = type(name, (found,), {"_context": self, **named})
            setattr(self, name, found)
        return found

    def get_context(self, method: str | None = None) -> Context:
        """The context of another method, or this one."""
        return self if method is None else get_context(method)

    def get_start_method(self, allow_none: bool = False) -> str | None:
        """How this context starts processes."""
        return self._method or get_start_method(allow_none)

    def __repr__(self) -> str:
        return f"<Context {self._method or f'default ({get_start_method()})'}>"

    def __reduce__(self) -> tuple[Any, ...]:
        return get_context, (self._method,)


_contexts: Final = {method: Context(method) for method in (None, *_PROCESSES)}


def get_context(method: str | None = None) -> Context:
    """The context that starts processes by ``method``; the default one for None.

    Raises:
        ValueError: There is no such method here.
    """
    _check_method(method)
    return _contexts[method]


def get_all_start_methods() -> list[str]:
    """What `set_start_method` takes here, the default first."""
    available = multiprocessing.get_all_start_methods()  # other libraries may have added theirs
    return [method for method in ("forkserver", "spawn", "fork") if method in available]


def get_start_method(allow_none: bool = False) -> str:
    """How the default context starts processes: forkserver where there is one, else spawn."""
    if _chosen is None and allow_none:
        return None  # type: ignore[return-value]
    return _chosen or get_all_start_methods()[0]


def set_start_method(method: str | None, force: bool = False) -> None:
    """Choose how the default context starts processes; multiprocessing's own choice is left alone.

    Raises:
        RuntimeError: It was chosen before, and not ``force``.
        ValueError: There is no such method here.
    """
    global _chosen
    _check_method(method)
    if _chosen is not None and not force:
        raise RuntimeError(
            f"the start method has already been set to {_chosen!r}; use force=True to change it"
        )
    _chosen = method


def _check_method(method: str | None) -> None:
    if method is not None and method not in get_all_start_methods():
        raise ValueError(f"cannot find context for {method!r}; there are {get_all_start_methods()}")


def set_forkserver_preload(module_names: list[str]) -> None:
    """Modules that the fork server imports before it makes the first child.

    Raises:
        TypeError: Not a list of strings.
    """
    from aioproc._kernel.forkserver import server

    given: Any = module_names
    names: list[Any] = [None] if isinstance(given, str) else list(given)
    if not all(isinstance(name, str) for name in names):
        raise TypeError(f"module_names must be a list of strings, not {module_names!r}")
    server.extra = names


def cpu_count() -> int:
    """How many processors the machine has."""
    return multiprocessing.cpu_count()


def parent_process() -> BaseProcess | None:
    """The process that started this one, as ``multiprocessing.parent_process`` has it; else None."""
    return multiprocessing.parent_process()


def freeze_support() -> None:
    """For frozen Windows programs, as in the stdlib; nothing elsewhere."""
    multiprocessing.freeze_support()


def run(
    main: Callable[..., Awaitable[T]],
    *args: object,
    backend: Literal["asyncio", "trio"] = "asyncio",
    use_uvloop: bool | None = None,
) -> T:
    """Run a coroutine function in a new event loop, until it is done.

    Args:
        main: An ``async def``, and its positional arguments after it.
        backend: "asyncio" or "trio".
        use_uvloop: Whether asyncio runs on uvloop; None: when it is installed.

    Raises:
        TypeError: ``main`` is no ``async def``, or is already called.
        BaseException: What ``main`` raises; Ctrl-C is a plain KeyboardInterrupt, also in groups.
        RuntimeError: This module is being imported by a child: what starts processes belongs under
            ``if __name__ == "__main__":``.
    """
    import anyio

    from aioproc._kernel.child import refuse_while_importing_main

    refuse_while_importing_main()
    start = _checked(main)
    options: dict[str, Any] = {}
    if backend == "asyncio":
        options["use_uvloop"] = _has_uvloop() if use_uvloop is None else use_uvloop
    try:
        return anyio.run(start, *args, backend=backend, backend_options=options)
    except KeyboardInterrupt:
        raise KeyboardInterrupt from None  # without asyncio's CancelledError before it
    except BaseExceptionGroup as group:
        if group.split(KeyboardInterrupt)[1] is None:  # trio wraps it once per task group
            raise KeyboardInterrupt from None
        raise


def _checked(main: Callable[..., Awaitable[T]]) -> Callable[..., Awaitable[T]]:
    """The function; what is no ``async def`` may still return something to be awaited."""
    given: Any = main
    if inspect.iscoroutine(given):
        given.close()  # which nobody will await
        name = given.__name__
        raise TypeError(f"run() takes the coroutine function itself: run({name}), not run({name}())")
    if inspect.iscoroutinefunction(main):
        return main
    if not callable(main):
        raise TypeError(f"main must be an async def, not {main!r}")

    async def awaited(*args: object) -> T:
        made = main(*args)
        if not inspect.isawaitable(made):
            raise TypeError(f"main must be an async def, not {main!r}")
        return await made

    return awaited


def _has_uvloop() -> bool:
    from importlib.util import find_spec

    return os.name == "posix" and find_spec("uvloop") is not None
