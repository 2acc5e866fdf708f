"""What a pool is asked to do, and what it tells of itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

__all__ = ["Order", "PoolStats", "WorkerStats"]


Item = Callable[[Any, BaseException | None], None]  # a value, or why it could not be opened


@dataclass(frozen=True, slots=True)
class Settings:
    """What ``pool.options`` sets."""

    timeout: float | None = None
    retries: int = 0
    grace: float = 0.0
    name: str | None = None


@dataclass(slots=True)
class Order:
    """A call as an engine gets it; ``item`` takes what a stream yields."""

    func: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    retries: int = 0
    grace: float = 0.0
    timeout: float | None = None
    item: Item | None = None


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
