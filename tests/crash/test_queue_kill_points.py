"""Every prefix of every operation's system calls, and then a kill: what is right afterwards."""

from __future__ import annotations

import fcntl
import multiprocessing
import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest

from aioproc import JoinableQueue, Queue
from aioproc._kernel.ledger import reopened
from aioproc._kernel.watch import ready
from tests.crash.killing import died, forked, forks_after, stand_still_in_a_put
from tests.crash.queue_children import in_vain, lost, operate
from tests.local.queue_children import take_two
from tests.shared import Wire

MOST_CALLS = 60


def prefixes(queue_of: Any, name: str) -> Iterator[tuple[Any, bool]]:
    """A queue for each prefix of an operation after which its process was killed; whether it was complete."""
    for calls in range(MOST_CALLS):
        queue, wire = queue_of(), Wire()
        context: Any = multiprocessing.get_context("fork")
        process = context.Process(target=operate, args=(queue.sync, name, calls, wire))
        process.start()
        process.join()
        complete = process.exitcode == 0
        assert complete or process.exitcode == -9
        process.close()
        yield queue.sync, complete
        queue.close()
        if complete:
            return
    pytest.fail("the operation has no end")


def filled(kind: type[Queue[Any]], maxsize: int, items: int) -> Any:
    queue = kind(maxsize)
    for number in range(items):
        queue.sync.put(number)
    return queue


def has_room_for_exactly(queue: Any, places: int) -> None:
    """Nothing is off: so many puts go, not one more."""
    for number in range(places):
        queue.put(f"more {number}", timeout=0)
    with pytest.raises(Exception, match="no place"):
        queue.put("too much", timeout=0)
    assert queue.full()
    for _ in range(places):
        queue.get(timeout=0)


@pytest.mark.parametrize("kind", [Queue, JoinableQueue])
@pytest.mark.parametrize("operation", ["put", "put, unseen", "put many bytes"])
def test_killed_in_a_put(kind: Any, operation: str) -> None:
    """The item is there whole or not at all, and every place is there."""
    seen = set()
    for queue, complete in prefixes(lambda: filled(kind, 3, 1), operation):
        size = queue.qsize()
        seen.add((size, complete))
        assert size == 2 if complete else size in (1, 2)
        assert queue.get(timeout=0) == 0
        if size == 2:
            assert queue.get(timeout=0) in ("theirs", bytes(200_000))
        assert queue.empty()
        assert queue.qsize() == 0
        has_room_for_exactly(queue, 3)
    assert {size for size, complete in seen} == {1, 2}


@pytest.mark.parametrize("kind", [Queue, JoinableQueue])
@pytest.mark.parametrize("operation", ["get", "get, unseen"])
def test_killed_in_a_get(kind: Any, operation: str) -> None:
    """The item is there or was taken, and every place is there."""
    seen = set()
    for queue, complete in prefixes(lambda: filled(kind, 3, 3), operation):
        size = queue.qsize()
        seen.add(size)
        assert size == 2 if complete else size in (2, 3)
        assert [queue.get(timeout=0) for _ in range(size)] == [0, 1, 2][-size:]
        has_room_for_exactly(queue, 3)
    assert seen == {2, 3}


@pytest.mark.parametrize("kind", [Queue, JoinableQueue])
@pytest.mark.parametrize("look", ["", ", unseen"])
def test_killed_in_vain(kind: Any, look: str) -> None:
    """Who finds no place, or nothing, changes nothing."""
    for queue, _ in prefixes(lambda: filled(kind, 2, 2), "put in vain" + look):
        assert queue.qsize() == 2
        assert [queue.get(timeout=0), queue.get(timeout=0)] == [0, 1]
        has_room_for_exactly(queue, 2)
    for queue, _ in prefixes(lambda: filled(kind, 2, 0), "get in vain" + look):
        assert queue.qsize() == 0
        has_room_for_exactly(queue, 2)


@pytest.mark.parametrize("maxsize", [0, 3])
def test_killed_in_a_task(maxsize: int) -> None:
    """join() says how many tasks were lost, whether the consumer died before, in or after task_done."""
    for queue, _ in prefixes(lambda: filled(JoinableQueue, maxsize, 2), "get and finish"):
        left = queue.qsize()
        for _ in range(left):
            queue.get(timeout=0)
            queue.task_done()
        assert lost(queue) in (0, 2 - left)
        queue.join()
        with pytest.raises(ValueError, match="too many"):
            queue.task_done()


@pytest.mark.parametrize("maxsize", [0, 3])
def test_a_killed_producer_loses_no_task(maxsize: int) -> None:
    """join() counts a put that happened and none that did not."""
    for queue, _ in prefixes(lambda: filled(JoinableQueue, maxsize, 1), "put"):
        for _ in range(queue.qsize()):
            queue.get(timeout=0)
            queue.task_done()
        queue.join()


@pytest.mark.parametrize("kind", [Queue, JoinableQueue])
@pytest.mark.parametrize("maxsize", [0, 3])
@pytest.mark.parametrize("operation", ["shutdown", "shutdown at once"])
def test_killed_in_a_shutdown(kind: Any, maxsize: int, operation: str) -> None:
    """It is shut down for all or for nobody; a second one completes it."""
    for queue, _ in prefixes(lambda: filled(kind, maxsize, 2), operation):
        queue.shutdown()
        assert list(queue) == [0, 1][2 - queue.qsize() :] or queue.qsize() == 0
        with pytest.raises(Exception, match="shut down"):
            queue.put(1)
        if kind is JoinableQueue:
            try:
                while True:
                    queue.task_done()
            except ValueError:
                pass
            lost(queue)


@pytest.mark.parametrize("maxsize", [0, 3])
@pytest.mark.parametrize("died", [0, 2])
def test_killed_in_a_join(maxsize: int, died: int) -> None:
    """Who dies in join() keeps from nobody who waits that tasks were lost, and counts none twice."""

    def left_by_the_dead() -> Any:
        queue = filled(JoinableQueue, maxsize, 2)
        if died:
            context: Any = multiprocessing.get_context("fork")
            consumer = context.Process(target=take_two, args=(queue.sync,))
            consumer.start()
            consumer.join()
            consumer.close()
        else:
            for _ in range(2):
                queue.sync.get(timeout=0)
                queue.sync.task_done()
        return queue

    for queue, _ in prefixes(left_by_the_dead, "join"):
        assert lost(queue, before=0) == died  # as one who was waiting before
        assert lost(queue) == 0
        queue.put("more")
        queue.get()
        queue.task_done()
        queue.join()


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGCONT])
def test_a_join_beside_one_who_stands_still(how: signal.Signals) -> None:
    """join() waits for who stands still in the middle of a put, and for his task if he goes on with it."""
    queue = JoinableQueue[int]().sync
    child = forked(partial(stand_still_in_a_put, queue))
    os.waitpid(child, os.WUNTRACED)
    with ThreadPoolExecutor(1) as threads:
        joined = threads.submit(queue.join)
        os.kill(child, how)
        assert died(child) == (how == signal.SIGKILL)
        if how == signal.SIGCONT:
            assert queue.get() == 1
            queue.task_done()
        joined.result(timeout=20)
    assert queue.qsize() == 0


def test_killed_while_it_counts() -> None:
    """Who dies in qsize disturbs nobody."""
    for maxsize in (0, 3):
        for queue, _ in prefixes(lambda size=maxsize: filled(Queue, size, 2), "qsize"):
            assert queue.qsize() == 2
            assert [queue.get(timeout=0), queue.get(timeout=0)] == [0, 1]


def test_a_forked_child_takes_no_ring() -> None:
    """A child that finds no place leaves to its parent what rang there."""
    queue = filled(Queue, 1, 1)
    room = queue._store.room
    os.close(reopened(queue._store.ledger.gate))  # as at the end of somebody's entry
    assert ready(room)
    assert not died(forked(partial(in_vain, lambda: queue.put_nowait("theirs"))))
    assert ready(room)
    queue.close()


@pytest.mark.parametrize(("kind", "look"), [(Queue, "qsize"), (JoinableQueue, "join")])
def test_forks_of_other_threads_keep_no_lock(monkeypatch: pytest.MonkeyPatch, kind: Any, look: str) -> None:
    """A child that another thread forks while this one looks through a queue keeps nobody out of it."""
    queue = kind().sync
    with forks_after(monkeypatch, fcntl, "flock") as forked_meanwhile:
        getattr(queue, look)()
        forked_meanwhile()
        with queue._store.ledger.alone():
            pass
