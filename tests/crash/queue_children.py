"""What is killed in the middle of queue operations."""

from __future__ import annotations

import itertools
import os
import signal
import sys
from collections.abc import Callable
from typing import Any, Final

import anyio
import pytest

from aioproc import TasksLost
from aioproc._kernel.store import IN_A_ROW
from tests.shared import Wire

VISIBLE: Final = {  # what others can see of an operation, in C: each is one system call
    "eventfd_read",
    "eventfd_write",
    "send",
    "sendmsg",
    "recvmsg_into",
    "flock",
    "open",
    "close",
}


def die_after(calls: int, operation: Callable[[], Any], wire: Wire) -> None:
    """Run the first ``calls`` visible system calls of an operation, then kill this process.

    If the operation has fewer, say so.
    """
    left = calls

    def count(frame: Any, event: str, function: Any) -> None:
        nonlocal left
        if getattr(function, "__name__", "") not in VISIBLE:
            return
        if event == "c_call" and left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        if event in ("c_return", "c_exception"):
            left -= 1

    sys.setprofile(count)
    try:
        operation()
    finally:
        sys.setprofile(None)
    wire.say("complete")


def operate(queue: Any, name: str, calls: int, wire: Wire) -> None:
    """One operation on a queue, cut short; "unseen" is one that does not look first."""
    name, _, unseen = name.partition(", ")
    if unseen:
        queue._store._puts_in_a_row = queue._store._takes_in_a_row = IN_A_ROW
    operations: dict[str, Callable[[], Any]] = {
        "put": lambda: queue.put("theirs"),
        "put many bytes": lambda: queue.put(bytes(200_000)),
        "put in vain": lambda: in_vain(lambda: queue.put("theirs", block=False)),
        "get": lambda: queue.get(),
        "get in vain": lambda: in_vain(lambda: queue.get(block=False)),
        "get and finish": lambda: (queue.get(), queue.task_done()),
        "qsize": lambda: queue.qsize(),
        "shutdown": lambda: queue.shutdown(),
        "shutdown at once": lambda: queue.shutdown(immediate=True),
        "join": lambda: lost(queue),
    }
    die_after(calls, operations[name], wire)


def in_vain(operation: Callable[[], Any]) -> None:
    """What has no place, or finds nothing."""
    with pytest.raises(Exception, match="in time"):
        operation()


def lost(queue: Any, before: int | None = None) -> int:
    """How many tasks join() says are lost, also if it began when only so many were known to be lost."""
    try:
        if before is None:
            queue.join()
        else:
            queue._store.tasks.joined(before)
    except TasksLost as error:
        return error.count
    return 0


def payload(number: int, size: int) -> bytes:
    """Bytes that show whether they are whole and whose they are."""
    return bytes([number % 251]) * size


def produce(queue: Any, who: int, size: int) -> None:
    """Put numbered items for ever."""
    for number in itertools.count():
        queue.put((who, number, payload(number, size)))


async def aproduce(queue: Any, who: int, size: int) -> None:
    """The same in a loop."""
    for number in itertools.count():
        await queue.aio.put((who, number, payload(number, size)))


def consume(queue: Any, seen: Any, size: int) -> None:
    """Take items for ever, and tell what was seen."""
    me = os.getpid()
    while True:
        who, number, data = queue.get()
        seen.put((me, who, number, data == payload(number, size)))


async def aconsume(queue: Any, seen: Any, size: int) -> None:
    """The same in a loop."""
    me = os.getpid()
    while True:
        who, number, data = await queue.aio.get()
        await seen.aio.put((me, who, number, data == payload(number, size)))


def in_loop(backend: Any, target: Any, *args: Any) -> None:
    """Run an async child in a loop of the test's kind."""
    name, options = backend
    anyio.run(target, *args, backend=name, backend_options=options)


def take_one(queue: Any, wire: Wire) -> None:
    """Say that a get begins."""
    wire.say("waiting")
    queue.get()
