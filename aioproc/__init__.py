"""multiprocessing, awaitable: processes, queues, locks and pools that survive kills and cancellation.

Names are imported when they are first used, so that a lean child pays only for what it needs.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aioproc.context import (
        Context,
        active_children,
        cpu_count,
        current_process,
        freeze_support,
        get_all_start_methods,
        get_context,
        get_start_method,
        parent_process,
        run,
        set_forkserver_preload,
        set_start_method,
    )
    from aioproc.errors import (
        NotOwner,
        ProcessDied,
        QueueEmpty,
        QueueFull,
        QueueShutDown,
        RemoteError,
        RemoteTraceback,
        TasksLost,
        WorkerDied,
    )
    from aioproc.group import ProcessGroup
    from aioproc.local.barrier import Barrier
    from aioproc.local.condition import Condition
    from aioproc.local.event import Event
    from aioproc.local.joinable_queue import JoinableQueue
    from aioproc.local.lock import Lock
    from aioproc.local.pipe import Connection, Pipe, wait
    from aioproc.local.process import Process
    from aioproc.local.queue import Queue
    from aioproc.local.rlock import RLock
    from aioproc.local.semaphore import BoundedSemaphore, Semaphore
    from aioproc.local.simple_queue import SimpleQueue
    from aioproc.meeting import meet
    from aioproc.meeting_sync import meet_sync
    from aioproc.orders import PoolStats, WorkerStats
    from aioproc.pool import AsyncPool, AsyncResult

_HOMES = {
    "aioproc.errors": (
        "NotOwner",
        "ProcessDied",
        "QueueEmpty",
        "QueueFull",
        "QueueShutDown",
        "RemoteError",
        "RemoteTraceback",
        "TasksLost",
        "WorkerDied",
    ),
    "aioproc.context": (
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
    ),
    "aioproc.local.process": ("Process",),
    "aioproc.local.pipe": (
        "Connection",
        "Pipe",
        "wait",
    ),
    "aioproc.local.simple_queue": ("SimpleQueue",),
    "aioproc.local.joinable_queue": ("JoinableQueue",),
    "aioproc.local.queue": ("Queue",),
    "aioproc.group": ("ProcessGroup",),
    "aioproc.orders": ("PoolStats", "WorkerStats"),
    "aioproc.pool": ("AsyncPool", "AsyncResult"),
    "aioproc.local.lock": ("Lock",),
    "aioproc.local.semaphore": ("BoundedSemaphore", "Semaphore"),
    "aioproc.local.event": ("Event",),
    "aioproc.local.rlock": ("RLock",),
    "aioproc.local.condition": ("Condition",),
    "aioproc.local.barrier": ("Barrier",),
    "aioproc.meeting": ("meet",),
    "aioproc.meeting_sync": ("meet_sync",),
}
_home_of = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "AsyncPool",
    "AsyncResult",
    "Barrier",
    "BoundedSemaphore",
    "Condition",
    "Connection",
    "Context",
    "Event",
    "JoinableQueue",
    "Lock",
    "NotOwner",
    "Pipe",
    "PoolStats",
    "Process",
    "ProcessDied",
    "ProcessGroup",
    "Queue",
    "QueueEmpty",
    "QueueFull",
    "QueueShutDown",
    "RLock",
    "RemoteError",
    "RemoteTraceback",
    "Semaphore",
    "SimpleQueue",
    "TasksLost",
    "WorkerDied",
    "WorkerStats",
    "active_children",
    "cpu_count",
    "current_process",
    "freeze_support",
    "get_all_start_methods",
    "get_context",
    "get_start_method",
    "meet",
    "meet_sync",
    "parent_process",
    "run",
    "set_forkserver_preload",
    "set_start_method",
    "wait",
]


def __getattr__(name: str) -> Any:
    try:
        home = _home_of[name]
    except KeyError:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None
    found = getattr(import_module(home), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))
