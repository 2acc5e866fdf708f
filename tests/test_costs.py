"""What each operation costs, in system calls: one more than stands here fails, and so does one less.

Counts instead of times, so that this cannot flake. ``python -m tests.test_costs`` prints the table anew.
"""

from __future__ import annotations

import asyncio
import os
import textwrap
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Final
from unittest.mock import patch

import pytest
from blockbuster import BlockBuster

import aioproc
from aioproc._kernel import bundle, listening, waiting
from aioproc._kernel.store import IN_A_ROW
from tests.system_calls import begin_here, noted_here, system_calls

# Both sides of an operation that waits run in one loop: ``yield`` is a turn of it that does not sleep.
TABLE: Final = """\
queue: put
    send
queue: get
    lstat recvmsg_into
queue: get_nowait
    lstat recvmsg_into
queue: twin's put
    send
queue: twin's get
    lstat recvmsg_into
queue: get waits for a put
    yield lstat recvmsg_into ioctl yield send sleep lstat recvmsg_into yield
bounded queue: put
    open flock eventfd_write eventfd_read send eventfd_read close
bounded queue: get
    open flock eventfd_write lstat recvmsg_into eventfd_write eventfd_read close
bounded queue: get waits for a put
    yield ioctl poll poll ioctl yield open flock eventfd_write eventfd_read send eventfd_read close
    sleep ioctl open flock eventfd_write lstat recvmsg_into eventfd_write eventfd_read close
    yield
bounded queue: put waits for a get
    epoll_del yield poll epoll_wait poll poll ioctl epoll_add yield open flock eventfd_write lstat
    recvmsg_into eventfd_write eventfd_read close sleep poll open flock eventfd_write eventfd_read
    send eventfd_read close yield
joinable queue: put
    open flock eventfd_write open sendmsg eventfd_write eventfd_read close close
joinable queue: get
    open flock eventfd_write lstat recvmsg_into eventfd_write eventfd_read close
joinable queue: task_done
    eventfd_write close
simple queue: put
    send
simple queue: get
    lstat recvmsg_into
pipe: send
    send
pipe: recv
    lstat recvmsg_into
pipe: recv waits for a send
    yield lstat recvmsg_into yield send sleep lstat recvmsg_into yield
lock: acquire, release
    recvmsg ioctl sendmsg close
lock: twin's acquire, release
    recvmsg ioctl sendmsg close
lock: acquire waits for a release
    recvmsg epoll_del yield recvmsg sendmsg close epoll_add yield ioctl recvmsg sendmsg close close
    close sleep recvmsg recvmsg sendmsg close yield
rlock: acquire, release
    recvmsg ioctl sendmsg close
bounded semaphore: acquire, release
    recvmsg ioctl sendmsg close
bounded semaphore: acquire waits for a release
    recvmsg epoll_del yield recvmsg sendmsg close epoll_add yield ioctl recvmsg sendmsg close close
    close sleep recvmsg recvmsg sendmsg close yield
semaphore: acquire, release
    ioctl eventfd_read eventfd_write
semaphore: acquire waits for a release
    ioctl eventfd_read yield ioctl eventfd_read recvmsg eventfd_read getpid epoll_add yield
    eventfd_write sleep eventfd_read epoll_del ioctl sendmsg close eventfd_write yield
semaphore: acquire waits behind another
    ioctl eventfd_read epoll_del yield ioctl eventfd_read recvmsg eventfd_read getpid epoll_add yield
    ioctl poll recvmsg sendmsg close epoll_add yield eventfd_write sleep eventfd_read epoll_del
    ioctl recvmsg poll recvmsg epoll_change close close sendmsg close close close yield eventfd_write
    sleep epoll_wait recvmsg eventfd_read recvmsg sendmsg close eventfd_write yield
event: set
    eventfd_write
event: wait, set already
    poll
event: clear
    eventfd_read
event: wait waits for set
    epoll_del yield poll epoll_add yield eventfd_write sleep poll yield
condition: wait waits for notify
    yield recvmsg epoll_wait sendmsg close ioctl sendmsg close epoll_wait yield recvmsg recvmsg dup
    poll sendmsg close close close ioctl recvmsg sendmsg close close close close sleep epoll_wait
    recvmsg recvmsg sendmsg close yield
pool: call, in the parent
    send sleep recv_into
pool: call, in the worker
    send poll recvmsg_into
"""


def costs() -> dict[str, list[str]]:
    """The table: what stands further to the right is what the line before costs."""
    found, name = dict[str, list[str]](), ""
    for line in TABLE.splitlines():
        if line.startswith(" "):
            found[name] += line.split()
        else:
            name = line
            found[name] = []
    return found


Operation = Callable[[], Any]


def waits(first: Callable[[], Awaitable[object]], second: Callable[[], Any]) -> Operation:
    """The first waits until the second has been done."""

    async def both() -> None:
        task = asyncio.ensure_future(first())
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert not task.done()
        await done(second())
        await task

    return both


def pair(lock: Any) -> Operation:
    """Acquire and release."""

    async def acquire_and_release() -> None:
        await lock.acquire()
        lock.release()

    return acquire_and_release


def pair_of_twins(lock: Any) -> Operation:
    """The same by the twin."""

    def acquire_and_release() -> None:
        with lock:
            pass

    return acquire_and_release


def handed_over(lock: Any) -> Operation:
    """Of two pairs, the second waits for the first."""

    async def hand_over() -> None:
        await lock.acquire()
        await waits(pair(lock), lock.release)()

    return hand_over


def handed_on(lock: Any) -> Operation:
    """Of three pairs, the second waits for the first and the third for the second."""

    async def hand_on() -> None:
        await lock.acquire()
        head = asyncio.ensure_future(lock.acquire())
        await asyncio.sleep(0)
        await waits(pair(lock), partial(given_to, head, lock))()

    return hand_on


async def given_to(head: asyncio.Future[Any], lock: Any) -> None:
    """One for the head, and one for the next."""
    lock.release()
    await head
    lock.release()


def notified(condition: aioproc.Condition) -> Operation:
    """One waits and another notifies, each with its acquire and release."""

    async def wait() -> None:
        async with condition:
            await condition.wait()

    async def notify() -> None:
        async with condition:
            condition.notify()

    return waits(wait, notify)


async def done(result: Any) -> None:
    """Wait for it where it can be waited for."""
    if hasattr(result, "__await__"):
        await result


async def cost(
    operation: Operation, before: Operation = lambda: None, after: Operation = lambda: None
) -> list[str]:
    """The system calls of an operation once it has been done a few times, and between what it needs done."""
    with patch.object(bundle, "_SECONDS_EACH", 0.0), patch.object(listening, "_LOOK_SECONDS", 0.0):
        bundle.free_until = 0.0  # what was trusted before: no call goes by the clock
        for _ in range(IN_A_ROW + 2):
            await done(before())
            while not waiting.spent():  # else one of many operations would yield to the loop
                pass
            with system_calls() as found:
                await done(operation())
            await done(after())
    return found


async def of_queues() -> dict[str, list[str]]:
    """Unbounded: a put and a get are what the kernel needs for them, and no more."""
    queue = aioproc.Queue[int]()
    put, get = partial(queue.put, 1), queue.get
    return {
        "queue: put": await cost(put, after=get),
        "queue: get": await cost(get, before=put),
        "queue: get_nowait": await cost(queue.get_nowait, before=put),
        "queue: twin's put": await cost(lambda: queue.sync.put(1), after=get),
        "queue: twin's get": await cost(queue.sync.get, before=put),
        "queue: get waits for a put": await cost(waits(get, put)),
    }


async def of_bounded_queues() -> dict[str, list[str]]:
    """With a limit, that must be right after any death."""
    queue = aioproc.Queue[int](1)
    put, get = partial(queue.put, 1), queue.get
    return {
        "bounded queue: put": await cost(put, after=get),
        "bounded queue: get": await cost(get, before=put),
        "bounded queue: get waits for a put": await cost(waits(get, put)),
        "bounded queue: put waits for a get": await cost(waits(put, get), before=put, after=get),
    }


async def of_joinable_queues() -> dict[str, list[str]]:
    """Items are tasks."""
    queue = aioproc.JoinableQueue[int]()
    put, get = partial(queue.put, 1), queue.get

    async def get_and_finish() -> None:
        await get()
        queue.task_done()

    async def put_and_get() -> None:
        await put()
        await get()

    return {
        "joinable queue: put": await cost(put, after=get_and_finish),
        "joinable queue: get": await cost(get, before=put, after=queue.task_done),
        "joinable queue: task_done": await cost(queue.task_done, before=put_and_get),
    }


async def of_pipes() -> dict[str, list[str]]:
    """Pipes and the queue without a limit."""
    queue = aioproc.SimpleQueue[int]()
    here, there = aioproc.Pipe()

    async def send() -> None:
        await here.send(1)

    return {
        "simple queue: put": await cost(lambda: queue.put(1), after=queue.get),
        "simple queue: get": await cost(queue.get, before=lambda: queue.put(1)),
        "pipe: send": await cost(send, after=there.recv),
        "pipe: recv": await cost(there.recv, before=send),
        "pipe: recv waits for a send": await cost(waits(there.recv, send)),
    }


async def of_locks() -> dict[str, list[str]]:
    """What has a holder."""
    lock, bounded = aioproc.Lock(), aioproc.BoundedSemaphore(1)
    return {
        "lock: acquire, release": await cost(pair(lock)),
        "lock: twin's acquire, release": await cost(pair_of_twins(lock.sync)),
        "lock: acquire waits for a release": await cost(handed_over(lock)),
        "rlock: acquire, release": await cost(pair(aioproc.RLock())),
        "bounded semaphore: acquire, release": await cost(pair(bounded)),
        "bounded semaphore: acquire waits for a release": await cost(handed_over(bounded)),
    }


async def of_signals() -> dict[str, list[str]]:
    """What has none."""
    semaphore, event = aioproc.Semaphore(1), aioproc.Event()
    return {
        "semaphore: acquire, release": await cost(pair(semaphore)),
        "semaphore: acquire waits for a release": await cost(handed_over(semaphore)),
        "semaphore: acquire waits behind another": await cost(handed_on(semaphore)),
        "event: set": await cost(event.set),
        "event: wait, set already": await cost(event.wait, before=event.set),
        "event: clear": await cost(event.clear, before=event.set),
        "event: wait waits for set": await cost(waits(event.wait, event.set), before=event.clear),
        "condition: wait waits for notify": await cost(notified(aioproc.Condition())),
    }


async def of_pools() -> dict[str, list[str]]:
    """A call, in the parent and in the worker, which notes what it does from one call to the next."""
    async with aioproc.AsyncPool(1) as pool:
        call = await cost(lambda: pool.apply(abs, (1,)))
        await pool.apply(begin_here)
        await pool.apply(abs, (1,))
        noted = await pool.apply(noted_here)
    cycle = noted[: noted.index("send", 1)]
    assert noted == cycle + cycle[: len(noted) - len(cycle)]
    return {"pool: call, in the parent": call, "pool: call, in the worker": cycle}


ALL: Final = (of_queues, of_bounded_queues, of_joinable_queues, of_pipes, of_locks, of_signals, of_pools)


@pytest.mark.parametrize("operations", ALL, ids=lambda operations: str(operations.__name__))
def test_system_calls(operations: Any, blocked_loop_guard: BlockBuster) -> None:
    """An operation makes the system calls that the table names, in this order, and no other."""
    blocked_loop_guard.deactivate()  # it makes calls of its own
    found, table = asyncio.run(operations()), costs()
    assert found == {name: table[name] for name in found}


def test_any_call_is_seen() -> None:
    """A call counts by whatever name the code has for it, and also one that no operation makes today."""
    renamed = os.dup
    with system_calls() as found:
        os.close(renamed(0))
        os.getppid()
    assert found == ["dup", "close", "getppid"]


if __name__ == "__main__":
    for each in ALL:
        for name, calls in asyncio.run(each()).items():
            print(name, *textwrap.wrap(" ".join(calls), 100), sep="\n    ")
