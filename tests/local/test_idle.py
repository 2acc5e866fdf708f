"""Who waits sleeps: no attempt says "not yet" to something that stays ready, which would be polling."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import anyio
import pytest

from aioproc import (
    Barrier,
    BoundedSemaphore,
    Condition,
    Event,
    JoinableQueue,
    Lock,
    Pipe,
    Queue,
    RLock,
    Semaphore,
    SimpleQueue,
)
from tests.conftest import BACKENDS
from tests.crash.killing import died, forked, gone, stand_still_in_a_put
from tests.shared import Wire

Wait = Callable[[], object]
SETTLE_SECONDS = 30  # for the start, on a busy machine
WATCHED_SECONDS = 0.5


def waits(stack: ExitStack) -> Iterator[tuple[str, Wait, Callable[[], Awaitable[object]]]]:
    """What one may wait for, by the twin and in a loop; none of it will come."""
    yield from tokens()
    event, condition = Event(), Condition()
    yield "event", event.sync.wait, event.wait
    yield "condition", partial(be_notified, condition), partial(abe_notified, condition)
    barrier = Barrier(5)
    yield "barrier", barrier.sync.wait, barrier.wait
    yield from queues()
    tasks = JoinableQueue[Any]()
    tasks.sync.put_many([1, 2])
    stack.enter_context(gone(forked(partial(take_and_stay, tasks))))
    tasks.sync.get()
    yield "tasks that are at work", tasks.sync.join, tasks.join
    paused = JoinableQueue[Any]()
    child = forked(partial(stand_still_in_a_put, paused.sync))
    stack.enter_context(gone(child))
    os.waitpid(child, os.WUNTRACED)
    yield "tasks, while somebody stands still in a put", paused.sync.join, paused.join
    unread = Queue[bytes]()
    yield "queue that nobody reads, to flush", partial(flush, unread), partial(aflush, unread)
    here, there = Pipe()
    stack.callback(there.close)
    yield "pipe, to receive", here.sync.recv, here.recv
    yield "pipe, to poll", partial(here.sync.poll, None), partial(here.poll, None)
    one, other = Pipe()
    stack.callback(other.close)
    yield "pipe that nobody reads, to send", partial(send, one), partial(asend, one)


def tokens() -> Iterator[tuple[str, Wait, Callable[[], Awaitable[object]]]]:
    """Of locks and semaphores."""
    for kind in (Lock, RLock, BoundedSemaphore, Semaphore):
        held: Any = kind()
        held.sync.acquire()
        yield f"{kind.__name__} that is held", held.sync.acquire, held.acquire
    for limit in (BoundedSemaphore(0), Semaphore(0)):
        yield f"{limit!r}", limit.sync.acquire, limit.acquire
        yield f"{limit!r}, in line", limit.sync.acquire, limit.acquire
    for heir in (Lock(), BoundedSemaphore(2)):
        count = heir._tokens.count
        for _ in range(count):
            assert not died(forked(heir.sync.acquire))  # and leaves it to the dead
        for _ in range(count):
            assert heir.sync.acquire()
        assert heir.abandoned
        yield f"{heir!r} that was recovered", heir.sync.acquire, heir.acquire


def queues() -> Iterator[tuple[str, Wait, Callable[[], Awaitable[object]]]]:
    """Of queues, also after a death in the middle of an operation."""
    for kind, maxsize in ((Queue, 0), (Queue, 1), (JoinableQueue, 0), (JoinableQueue, 1)):
        empty: Any = kind(maxsize)
        yield f"{empty!r}, to get", empty.sync.get, empty.get
    simple = SimpleQueue[Any]()
    yield "simple queue", simple.sync.get, simple.get
    for kind in (Queue, JoinableQueue):
        full: Any = kind(1)
        full.sync.put(1)
        yield f"{full!r}, to put", partial(full.sync.put, 2), partial(full.put, 2)
    for call in (3, 5):
        torn, torn_full = Queue[Any](1), Queue[Any](1)
        assert died(forked(partial(torn.sync.put, 1), call))
        if torn.qsize():
            torn.sync.get()
        yield "queue after a death in a put, to get", torn.sync.get, torn.get
        torn_full.sync.put(1)
        assert died(forked(torn_full.sync.get, call))
        if not torn_full.qsize():
            torn_full.sync.put(1)
        yield (
            "queue after a death in a get, to put",
            partial(torn_full.sync.put, 2),
            partial(torn_full.put, 2),
        )


def take_and_stay(queue: Queue[Any]) -> None:
    queue.sync.get()
    signal.pause()


def be_notified(condition: Condition) -> None:
    with condition.sync:
        condition.sync.wait()


async def abe_notified(condition: Condition) -> None:
    async with condition:
        await condition.wait()


def flush(queue: Queue[bytes]) -> None:
    queue.sync.put_many([bytes(60_000)] * 100)
    queue.sync.flush()


async def aflush(queue: Queue[bytes]) -> None:
    await queue.put_many([bytes(60_000)] * 100)
    await queue.flush()


def send(end: Any) -> None:
    while True:
        end.sync.send_bytes(bytes(60_000))


async def asend(end: Any) -> None:
    while True:
        await end.send_bytes(bytes(60_000))


def run_so_far(process: int) -> int:
    """Nanoseconds that the threads of a process have run."""
    found = 0
    for thread in os.listdir(f"/proc/{process}/task"):
        with open(f"/proc/{process}/task/{thread}/schedstat") as stat:
            found += int(stat.read().split()[0])
    return found


@contextmanager
def waiting(works: dict[str, Wait]) -> Iterator[dict[str, int]]:
    """A process for each, which is about to wait."""
    ready = Wire()

    def say_and_do(work: Wait) -> None:
        ready.say()
        work()

    with ExitStack() as stack:
        found = {}
        for name, work in works.items():
            found[name] = forked(partial(say_and_do, work))
            stack.enter_context(gone(found[name]))
            ready.hear()
        yield found


def check_asleep(works: dict[str, Wait]) -> None:
    """All come to rest; what polls never does."""
    limit = time.monotonic() + SETTLE_SECONDS
    with waiting(works) as processes:
        ran = {"": 1}
        while ran and time.monotonic() < limit:
            before = {name: run_so_far(each) for name, each in processes.items()}
            time.sleep(WATCHED_SECONDS)
            ran = {
                name: run_so_far(each) - before[name]
                for name, each in processes.items()
                if run_so_far(each) > before[name]
            }
    assert not ran


def test_twins_sleep() -> None:
    """A thread that waits, for whatever it is, does not run at all."""
    with ExitStack() as stack:
        check_asleep({f"{number} {name}": wait for number, (name, wait, _) in enumerate(waits(stack))})


@pytest.mark.parametrize("loop", BACKENDS)
def test_loops_sleep(loop: str) -> None:
    """Nor does a loop with a task that waits."""
    backend, options = BACKENDS[loop]

    def in_loop(wait: Callable[[], Awaitable[object]]) -> Wait:
        async def main() -> None:
            await wait()

        return lambda: anyio.run(main, backend=backend, backend_options=options)

    with ExitStack() as stack:
        check_asleep(
            {f"{number} {name}": in_loop(wait) for number, (name, _, wait) in enumerate(waits(stack))}
        )
