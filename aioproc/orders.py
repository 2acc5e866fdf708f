"""What a pool is asked to do, and what it tells of itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

__all__ = ["PoolStats", "Settings", "WorkerStats", "name_of"]


Item = Callable[[Any, BaseException | None], None]  # a value, or why it could not be opened


@dataclass(frozen=True, slots=True)
class Settings:
    """What ``pool.options`` sets."""

    timeout: float | None = None
    retries: int = 0
    grace: float = 0.0
    name: str | None = None


def name_of(func: Any, settings: Settings) -> str:
    """What a call is named in statistics."""
    return settings.name or getattr(func, "__qualname__", None) or repr(func)


@dataclass(frozen=True, slots=True)
class WorkerStats:
    """One worker: its process id, "starting", "idle", "busy" or "ending", its task's name, tasks done."""

    pid: int | None
    state: str
    task: str | None
    done: int


@dataclass(frozen=True, slots=True)
class PoolStats:
    """A pool at one moment.

    Attributes:
        workers: Each worker.
        queued: Calls that no worker has in hand.
        running: Calls in hand.
        done: Calls that returned.
        failed: Calls that raised, were cancelled or were lost.
        restarts: Workers that were replaced.
    """

    workers: tuple[WorkerStats, ...]
    queued: int
    running: int
    done: int
    failed: int
    restarts: int
