"""Producers and consumers killed at random under load: whole items, in order, and the survivors go on."""

from __future__ import annotations

import multiprocessing
import os
import random
import select
import signal
import time
from collections.abc import Iterator
from typing import Any

import pytest

from aioproc import Queue
from tests.conftest import BACKENDS
from tests.crash import queue_children as children
from tests.crash.test_queue_kill_points import has_room_for_exactly
from tests.shared import Wire

CONTEXT: Any = multiprocessing.get_context("fork")


class Crowd:
    """Two producers and two consumers, half of them in a loop; who is killed is replaced."""

    def __init__(self, queue: Any, seen: Any, size: int, backend: Any) -> None:
        self._queue, self._seen, self._size, self._backend = queue, seen, size, backend
        self._number = 0
        self._members = [self._start(role) for role in range(4)]

    def _start(self, role: int) -> tuple[int, Any]:
        self._number += 1
        plain, looped = [(children.produce, children.aproduce), (children.consume, children.aconsume)][
            role // 2
        ]
        args = (self._queue, self._number if role < 2 else self._seen, self._size)
        if role % 2:
            process = CONTEXT.Process(target=children.in_loop, args=(self._backend, looped, *args))
        else:
            process = CONTEXT.Process(target=plain, args=args)
        process.start()
        return role, process

    def kill_one(self) -> None:
        """Kill somebody and start another in his place."""
        at = random.randrange(len(self._members))
        role, process = self._members[at]
        _kill(process)
        self._members[at] = self._start(role)

    def kill_all(self) -> None:
        for _, process in self._members:
            _kill(process)


def _kill(process: Any) -> None:
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert process.exitcode == -signal.SIGKILL, "it ended by itself, with an error"
    process.close()


def _everything(queue: Any) -> Iterator[Any]:
    while not queue.empty():
        yield queue.get(timeout=5)


def _under_fire(size: int, maxsize: int, backend: Any, kills: int) -> None:
    queue, seen = Queue[Any](maxsize).sync, Queue[Any]().sync
    crowd = Crowd(queue, seen, size, backend)
    last: dict[tuple[int, int], int] = {}
    items: set[tuple[int, int]] = set()

    def note(consumer: int, producer: int, number: int, whole: bool) -> None:
        assert whole, "a torn item"
        assert number > last.get((consumer, producer), -1), "out of order"
        last[consumer, producer] = number
        assert (producer, number) not in items, "an item came twice"
        items.add((producer, number))

    for _ in range(kills):
        note(*seen.get(timeout=20))  # the survivors go on
        time.sleep(random.random() * 0.004)
        crowd.kill_one()
        assert 0 <= queue.qsize() <= maxsize or not maxsize
    note(*seen.get(timeout=20))
    crowd.kill_all()
    for report in _everything(seen):
        note(*report)
    for producer, number, data in _everything(queue):
        note(0, producer, number, data == children.payload(number, size))
    assert queue.qsize() == 0
    if maxsize:
        has_room_for_exactly(queue, maxsize)
    queue.put("works")
    assert queue.get() == "works"


@pytest.mark.parametrize("loop", BACKENDS)
@pytest.mark.parametrize("maxsize", [0, 4])
@pytest.mark.parametrize("size", [10, 20_000, 300_000, 5_000_000])
def test_random_kills(size: int, maxsize: int, loop: str) -> None:
    """Nine kills each, 216 in all: nothing torn, nothing twice, nobody stuck, and all places are there."""
    _under_fire(size, maxsize, BACKENDS[loop], 9)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("loop", BACKENDS)
@pytest.mark.parametrize("maxsize", [0, 4])
@pytest.mark.parametrize("size", [10, 20_000, 300_000, 5_000_000])
def test_many_random_kills(size: int, maxsize: int, loop: str) -> None:
    """85 kills each, 2,040 in all."""
    _under_fire(size, maxsize, BACKENDS[loop], 85)


def _second_consumer_gets(queue: Any) -> bool:
    """Whether an item still reaches somebody after a consumer that waited for it was killed."""
    wire = Wire()
    process = CONTEXT.Process(target=children.take_one, args=(queue, wire))
    process.start()
    assert wire.hear() == "waiting"
    _asleep(process.pid)
    _kill(process)
    queue.put("for the survivors")
    try:
        return bool(queue.get(timeout=2) == "for the survivors")
    except Exception:
        return False


def _asleep(pid: int) -> None:
    while True:
        with open(f"/proc/{pid}/stat") as stat:
            if stat.read().rpartition(")")[2].split()[0] == "S":
                return
        select.select([], [], [], 0.001)


@pytest.mark.parametrize("maxsize", [0, 1])
def test_a_killed_waiting_consumer_disturbs_nobody(maxsize: int) -> None:
    """After it, an item put reaches the next consumer."""
    assert _second_consumer_gets(Queue[Any](maxsize).sync)


def test_the_stdlib_queue_deadlocks_where_ours_does_not() -> None:
    """The test above is worth something: with the stdlib's queue the item reaches nobody any more."""
    queue = CONTEXT.Queue()
    assert not _second_consumer_gets(queue)
    queue.close()
    queue.join_thread()
