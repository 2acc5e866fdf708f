"""Where the time of each operation goes: the kernel's, pickle's and ours, beside the bare limit.

Processor time, of both processes where there are two: what the system accounts to the kernel; what pickle
takes for these objects in a loop by itself; what the bare limit takes outside of the kernel, which is
Python's way to its system calls and, where something waits, the event loop; and the rest, which is ours.
``python -m benchmarks operations``
"""

from __future__ import annotations

import os
import pickle
import resource
import select
import socket
import statistics
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Final

import aioproc
from benchmarks import as_part, loops
from benchmarks.lock import BareToken
from benchmarks.pool import small
from benchmarks.queue import ITEM, round_trip
from benchmarks.queue_peers import CONTEXT, BareAwaited, Peer
from benchmarks.record import Record

TURN_SECONDS: Final = 0.4
ROUNDS: Final = 5
CALL: Final[tuple[Any, ...]] = (small, (1,), {})
FLAGS: Final = os.EFD_NONBLOCK | os.EFD_SEMAPHORE

Cpu = tuple[float, float]  # seconds in user mode and in the kernel
Bare = Callable[[float], tuple[float, float]]  # seconds by the clock, and in user mode
Operation = Callable[[], Awaitable[object]]


class Spent:
    """What an operation has taken so far."""

    def __init__(self) -> None:
        self.count = 0
        self.wall = self.user = self.system = 0.0

    def add(self, count: int, wall: float, *cpus: Cpu) -> None:
        """Some operations more, and the processor time of each process that took part."""
        self.count += count
        self.wall += wall
        self.user += sum(user for user, _ in cpus)
        self.system += sum(system for _, system in cpus)

    def row(self, name: str, pickling: float, bare: float, bare_user: float) -> dict[str, Any]:
        """Seconds of one operation."""
        user = self.user / self.count
        calls = max(0.0, bare_user - pickling)
        return {
            "name": name,
            "wall": self.wall / self.count,
            "bare": bare,
            "kernel": self.system / self.count,
            "pickle": pickling,
            "calls": calls,
            "ours": max(0.0, user - pickling - calls),
        }


def measure(record: Record) -> None:
    """All operations, each in turn with its bare limit."""
    columns = ("wall", "bare", "kernel", "pickle", "calls", "ours")
    print(f"{'us':38}", *(f"{each:>8}" for each in columns))
    rows = record.rows.setdefault("operations", [])
    for name, (run, bare, pickling) in OPERATIONS.items():
        spent, walls, users = Spent(), list[float](), list[float]()
        for _ in range(record.rounds(ROUNDS)):
            run(spent, record.turn(TURN_SECONDS))
            wall, user = bare(record.turn(TURN_SECONDS / 2))
            walls.append(wall)
            users.append(user)
        row = spent.row(name, pickling(), statistics.median(walls), statistics.fmean(users))
        rows.append(row)
        print(f"{name:38}", *(f"{row[each] * 1e6:8.2f}" for each in columns), flush=True)


def cpu() -> Cpu:
    """What this process has taken so far."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime, usage.ru_stime


def since(before: Cpu, after: Cpu) -> Cpu:
    """What lies between."""
    return after[0] - before[0], after[1] - before[1]


async def repeat(operation: Operation, seconds: float) -> int:
    """Do it for so long; how often."""
    count, until = 0, time.perf_counter() + seconds
    while time.perf_counter() < until:
        for _ in range(20):
            await operation()
        count += 20
    return count


# In one process


def alone(make: Callable[[], Operation], spent: Spent, seconds: float) -> None:
    """An operation that needs nobody else."""

    async def run() -> None:
        operation = make()
        await repeat(operation, seconds / 20)
        before, began = cpu(), time.perf_counter()
        count = await repeat(operation, seconds)
        spent.add(count, time.perf_counter() - began, since(before, cpu()))

    loops.run("asyncio", run())


def put_and_get(queue: Any) -> Operation:
    async def run() -> None:
        await queue.put(ITEM)
        await queue.get()

    return run


def send_and_receive() -> Operation:
    here, there = aioproc.Pipe()

    async def run() -> None:
        await here.send(ITEM)
        await there.recv()

    return run


def pair(lock: Any) -> Operation:
    async def run() -> None:
        await lock.acquire()
        lock.release()

    return run


def set_wait_clear() -> Operation:
    event = aioproc.Event()

    async def run() -> None:
        event.set()
        await event.wait()
        event.clear()

    return run


# Between two processes


def trip(spent: Spent, seconds: float) -> None:
    """A queue's item there and back."""
    there, back = aioproc.Queue[Any](), aioproc.Queue[Any]()
    mine, theirs = CONTEXT.Pipe()
    process = CONTEXT.Process(target=echo_until_none, args=(there, back, theirs))
    process.start()

    async def there_and_back() -> None:
        await there.put(ITEM)
        await back.get()

    async def run() -> None:
        await repeat(there_and_back, seconds / 20)
        await there.put(len)  # whose answer comes by the pipe
        before, began, theirs_before = cpu(), time.perf_counter(), mine.recv()
        count = await repeat(there_and_back, seconds)
        wall, used = time.perf_counter() - began, since(before, cpu())
        await there.put(len)
        spent.add(count, wall, used, since(theirs_before, mine.recv()))
        await there.put(None)

    loops.run("asyncio", run())
    process.join()
    for each in (there, back, mine, theirs):
        each.close()


def echo_until_none(inbox: Any, outbox: Any, usage: Any) -> None:
    """The other process; a function in place of an item asks what it has used."""

    async def run() -> None:
        while (item := await inbox.get()) is not None:
            if item is len:
                usage.send(cpu())
            else:
                await outbox.put(item)

    loops.run("asyncio", run())
    loops.close()


def calls(at_once: int, spent: Spent, seconds: float) -> None:
    """Calls of a pool with one worker, so many at a time."""

    async def run() -> None:
        async with aioproc.AsyncPool(1) as pool:

            async def call() -> None:
                await pool.apply(*CALL[:2])

            async def call_many() -> None:
                for result in [pool.submit(small, 1) for _ in range(at_once)]:
                    await result

            operation = call if at_once == 1 else call_many
            await repeat(operation, seconds / 20)
            theirs, before, began = await pool.apply(cpu), cpu(), time.perf_counter()
            count = await repeat(operation, seconds)
            wall, used = time.perf_counter() - began, since(before, cpu())
            spent.add(count * at_once, wall, used, since(theirs, await pool.apply(cpu)))

    loops.run("asyncio", run())


# The bare limits


def timed(operation: Callable[[], object]) -> Bare:
    """Seconds of an operation that never waits."""

    def run(seconds: float) -> tuple[float, float]:
        count, began, before = 0, time.perf_counter(), cpu()
        while time.perf_counter() - began < seconds:
            for _ in range(100):
                operation()
            count += 100
        wall = time.perf_counter() - began
        return wall / count, since(before, cpu())[0] / count

    return run


def bare_packet(*items: Any, places: bool = False) -> Bare:
    """Pickle, send, receive, unpickle each; with a place taken and given back."""

    def run(seconds: float) -> tuple[float, float]:
        left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        free = os.eventfd(10, FLAGS)

        def once() -> None:
            if places:
                os.eventfd_read(free)
            for item in items:
                left.send(pickle.dumps(item, 5), socket.MSG_DONTWAIT)
                pickle.loads(right.recv(65536, socket.MSG_DONTWAIT))
            if places:
                os.eventfd_write(free, 1)

        with left, right:
            taken = timed(once)(seconds)
        os.close(free)
        return taken

    return run


def bare_token(seconds: float) -> tuple[float, float]:
    """A descriptor received and sent again."""
    token = BareToken(1)
    token.give(0, os.dup(0))
    taken = timed(lambda: token.give(0, token.take(0)))(seconds)
    os.close(token.take(0))
    token.close()
    return taken


def bare_counter(event: bool) -> Bare:
    """A counter up and down; for an event also a look at it."""

    def run(seconds: float) -> tuple[float, float]:
        fd, poll = os.eventfd(0, FLAGS), select.poll()
        poll.register(fd, select.POLLIN)

        def once() -> None:
            os.eventfd_write(fd, 1)
            if event:
                poll.poll(0)
            os.eventfd_read(fd)

        taken = timed(once)(seconds)
        os.close(fd)
        return taken

    return run


def bare_trip(item: Any) -> Bare:
    """An item there and back between two event loops."""

    def run(seconds: float) -> tuple[float, float]:
        before = cpu()
        taken = round_trip(Peer(BareAwaited, "asyncio"), item, max(100, int(seconds / 1e-4)))
        both = 2 * since(before, cpu())[0]  # the other process does the same
        return statistics.fmean(taken), both / len(taken)

    return run


def pickling(*items: Any) -> Callable[[], float]:
    """What it takes to pickle and unpickle these."""

    def run() -> float:
        return sum(timed(lambda item=item: pickle.loads(pickle.dumps(item, 5)))(0.1)[1] for item in items)  # type: ignore[misc]

    return run


NO_PICKLE: Final = pickling()
OPERATIONS: Final[dict[str, tuple[Callable[[Spent, float], None], Bare, Callable[[], float]]]] = {
    "queue: put, get": (
        partial(alone, lambda: put_and_get(aioproc.Queue[Any]())),
        bare_packet(ITEM),
        pickling(ITEM),
    ),
    "bounded queue: put, get": (
        partial(alone, lambda: put_and_get(aioproc.Queue[Any](10))),
        bare_packet(ITEM, places=True),
        pickling(ITEM),
    ),
    "pipe: send, recv": (partial(alone, send_and_receive), bare_packet(ITEM), pickling(ITEM)),
    "queue: there and back, two processes": (trip, bare_trip(ITEM), pickling(ITEM, ITEM)),
    "lock: acquire, release": (partial(alone, lambda: pair(aioproc.Lock())), bare_token, NO_PICKLE),
    "semaphore: acquire, release": (
        partial(alone, lambda: pair(aioproc.Semaphore())),
        bare_counter(event=False),
        NO_PICKLE,
    ),
    "event: set, wait, clear": (partial(alone, set_wait_clear), bare_counter(event=True), NO_PICKLE),
    "pool: a call": (partial(calls, 1), bare_trip(CALL), pickling(CALL, 2)),
    "pool: a call of 100 at once": (partial(calls, 100), bare_packet(CALL, 2), pickling(CALL, 2)),
}


if __name__ == "__main__":
    as_part("operations")
