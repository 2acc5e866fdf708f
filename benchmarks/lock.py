"""Locks and what is related: an uncontended pair of calls, and one turn among processes that all want it.

``python -m benchmarks lock``
"""

from __future__ import annotations

import asyncio
import os
import select
import socket
import struct
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from importlib.util import find_spec
from typing import Any, Final

import aioproc
from benchmarks import as_part, loops
from benchmarks.loops import LOOPS, named
from benchmarks.queue_peers import BLOCKING, CONTEXT
from benchmarks.record import Record

PAIRS: Final = 2000
TURNS: Final = 1024  # in all, whoever takes them
WARM_UP_TURNS: Final = 8  # of each process
SECTION_SECONDS: Final = 0.0002
PROCESSES: Final = (2, 8, 32, 64)
INT: Final = struct.Struct("i")


def measure(record: Record) -> None:
    """Everything about locks."""
    uncontended(record)
    relatives(record)
    contended(record)


class BareToken:
    """A descriptor that goes round in packets, and nothing else: what a hand-over must cost at least."""

    def __init__(self, processes: int) -> None:
        self.pairs = [socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET) for _ in range(processes)]

    def give(self, to: int, fd: int) -> None:
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, INT.pack(fd))]
        self.pairs[to % len(self.pairs)][0].sendmsg([b"t"], rights)
        os.close(fd)

    def take(self, number: int, flags: int = 0) -> int:
        _, ancillary, _, _ = self.pairs[number][1].recvmsg(1, socket.CMSG_SPACE(4), flags)
        return int(INT.unpack(ancillary[0][2])[0])

    def close(self) -> None:
        for pair in self.pairs:
            for end in pair:
                end.close()


class BareLine:
    """The system calls of our hand-over in their order, without a library: what outliving a death costs.

    Who waits sends a ticket, with an end of its own socket and a receipt; who gives takes the oldest, and
    sends the token there.
    """

    def __init__(self) -> None:
        self.front, self.back = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.deaths, token = CONTEXT.Pipe(duplex=False)
        self.front.sendmsg([b"t"], carrying(token.fileno()))
        token.close()


class Standing:
    """One process in that line."""

    def __init__(self, line: BareLine) -> None:
        self.line = line
        self.mine, self.theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.lost, self.receipt = os.pipe()
        self.posted = False
        self.epoll = select.epoll()
        for each in (self.mine, line.back):
            self.epoll.register(each, select.EPOLLIN)
        self.epoll.register(self.lost, select.EPOLLHUP | select.EPOLLET)
        self.epoll.register(line.deaths, select.EPOLLHUP)

    def take(self) -> int:
        """The token, if it is free or once it is sent here."""
        try:
            return received(self.line.back, 1)[0]
        except BlockingIOError:
            pass
        if not self.posted:
            self.line.back.sendmsg([b"t"], carrying(self.theirs.fileno(), self.receipt), socket.MSG_DONTWAIT)
            os.close(self.receipt)
            self.posted = True
        poll = select.poll()
        poll.register(self.epoll, select.POLLIN)
        while True:
            poll.poll()
            try:
                token, self.receipt = received(self.mine, 2)
            except BlockingIOError:
                with suppress(BlockingIOError):  # it became free when the ticket was about to be sent
                    return received(self.line.back, 1)[0]
            else:
                self.posted = False
                return token

    def give(self, token: int) -> None:
        """Send it to the oldest ticket, if there is one."""
        try:
            end, receipt = received(self.line.front, 2)
        except BlockingIOError:
            self.line.front.sendmsg([b"t"], carrying(token), socket.MSG_DONTWAIT)
        else:
            owner = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET, 0, end)
            owner.sendmsg([b"t"], carrying(token, receipt), socket.MSG_DONTWAIT)
            owner.close()
            os.close(receipt)
        os.close(token)

    def leave(self) -> None:
        """Take what is still to come, and give it on."""
        while self.posted:
            self.give(self.take())


def carrying(*fds: int) -> list[tuple[int, int, bytes]]:
    return [(socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack(f"{len(fds)}i", *fds))]


def received(end: socket.socket, count: int) -> tuple[int, ...]:
    _, ancillary, _, _ = end.recvmsg(1, socket.CMSG_SPACE(4 * count), socket.MSG_DONTWAIT)
    return struct.unpack(f"{count}i", ancillary[0][2])


# Uncontended


def uncontended(record: Record) -> None:
    """One process takes it and gives it back."""
    record.measurement("lock.free", "A lock's acquire and release, uncontended", "us a pair")
    runs: dict[str, Callable[[], float]] = {
        named("aioproc", loop): partial(awaited, loop, aioproc.Lock, PAIRS) for loop in LOOPS
    }
    runs["aioproc twin"] = lambda: blocking(aioproc.Lock().sync)
    runs["bare token"] = bare
    runs["multiprocessing, blocking"] = lambda: blocking(CONTEXT.Lock())
    runs["multiprocessing in threads"] = lambda: loops.run("asyncio", in_threads(CONTEXT.Lock(), PAIRS // 10))
    if find_spec("aioprocessing"):
        for loop in LOOPS:
            runs[named("aioprocessing", loop)] = partial(theirs, loop, "AioLock")
    else:
        record.leave_out("aioprocessing", "not installed")
    record.take("lock.free", runs, 9)


def relatives(record: Record) -> None:
    """Semaphores and RLock, free, and an event that is set."""
    for key, kind in (("rlock", "RLock"), ("semaphore", "Semaphore"), ("bounded", "BoundedSemaphore")):
        record.measurement(f"lock.{key}", f"{kind}: acquire and release, uncontended", "us a pair")
        runs: dict[str, Callable[[], float]] = {
            "aioproc": partial(awaited, "asyncio", getattr(aioproc, kind), PAIRS),
            "aioproc twin": lambda kind=kind: blocking(getattr(aioproc, kind)().sync),  # type: ignore[misc]
            "multiprocessing, blocking": lambda kind=kind: blocking(getattr(CONTEXT, kind)()),  # type: ignore[misc]
        }
        if find_spec("aioprocessing") and key != "rlock":  # theirs is owned by one of its threads
            runs["aioprocessing"] = partial(theirs, "asyncio", f"Aio{kind}")
        record.take(f"lock.{key}", runs, 5)
    record.measurement("lock.event", "Event: set, wait and clear", "us for the three")
    record.take(
        "lock.event",
        {
            "aioproc": lambda: loops.run("asyncio", set_and_wait(aioproc.Event())),
            "aioproc twin": lambda: set_and_wait_blocking(aioproc.Event().sync),
            "multiprocessing, blocking": lambda: set_and_wait_blocking(CONTEXT.Event()),
        },
        5,
    )


def awaited(loop: str, make: Callable[[], Any], pairs: int) -> float:
    async def run() -> float:
        lock = make()
        before = time.perf_counter()
        for _ in range(pairs):
            await lock.acquire()
            lock.release()
        return (time.perf_counter() - before) / pairs

    return loops.run(loop, run())


def blocking(lock: Any) -> float:
    before = time.perf_counter()
    for _ in range(PAIRS):
        lock.acquire()
        lock.release()
    return (time.perf_counter() - before) / PAIRS


def bare() -> float:
    """The token out of a socket and into it again."""
    token = BareToken(1)
    token.give(0, os.dup(0))
    before = time.perf_counter()
    for _ in range(PAIRS):
        token.give(0, token.take(0))
    taken = time.perf_counter() - before
    os.close(token.take(0))
    token.close()
    return taken / PAIRS


async def in_threads(lock: Any, pairs: int) -> float:
    before = time.perf_counter()
    for _ in range(pairs):
        await asyncio.to_thread(lock.acquire)
        lock.release()
    return (time.perf_counter() - before) / pairs


def theirs(loop: str, kind: str) -> float:
    """aioprocessing's. Its coro_release() waits for ever: it takes up the one thread that it needs."""
    import aioprocessing

    async def run() -> float:
        lock = getattr(aioprocessing, kind)()
        before = time.perf_counter()
        for _ in range(PAIRS // 10):
            await lock.coro_acquire()
            lock.release()
        return (time.perf_counter() - before) / (PAIRS // 10)

    return loops.run(loop, run())


async def set_and_wait(event: aioproc.Event) -> float:
    before = time.perf_counter()
    for _ in range(PAIRS):
        event.set()
        await event.wait()
        event.clear()
    return (time.perf_counter() - before) / PAIRS


def set_and_wait_blocking(event: Any) -> float:
    before = time.perf_counter()
    for _ in range(PAIRS):
        event.set()
        event.wait()
        event.clear()
    return (time.perf_counter() - before) / PAIRS


# Contended


def contended(record: Record) -> None:
    """All processes want it all the time; in many short turns, as in `benchmarks.queue.trip`."""
    record.measurement("lock.turns", "One turn, without the section itself", "us a turn", "processes")
    for many in PROCESSES[:1] if record.quick else PROCESSES:
        runs: dict[str, Callable[[], float]] = {
            named("aioproc", loop): partial(turns, loop, take_turns_awaited, aioproc.Lock, many)
            for loop in LOOPS
        }
        runs["aioproc twin"] = partial(turns, BLOCKING, take_turns, lambda: aioproc.Lock().sync, many)
        runs["multiprocessing, blocking"] = partial(turns, BLOCKING, take_turns, CONTEXT.Lock, many)
        runs["bare token"] = partial(turns, BLOCKING, pass_on, partial(bare_token, many), many)
        runs["bare line"] = partial(turns, BLOCKING, stand_in_line, BareLine, many)
        for loop in LOOPS:
            make = partial(bare_token, many)
            runs[named("bare token, awaited", loop)] = partial(turns, loop, pass_on_awaited, make, many)
        if find_spec("aioprocessing"):
            runs["aioprocessing"] = partial(turns, "asyncio", take_turns_of_theirs, their_lock, many)
        record.take("lock.turns", runs, 11 if many < 32 else 5 if many < 64 else 3, many)


def turns(loop: str, work: Callable[..., Any], make: Callable[[], Any], processes: int) -> float:
    """Seconds from one turn to the next, less the section itself, once all processes are up and warm."""
    shared, start, ends = make(), CONTEXT.Barrier(processes), CONTEXT.Array("d", 2 * processes)
    each = TURNS // processes
    children = [
        CONTEXT.Process(target=in_child, args=(loop, work, shared, each, number, start, ends))
        for number in range(processes)
    ]
    for child in children:
        child.start()
    for child in children:
        child.join()
    taken: float = max(ends[:processes]) - min(ends[processes:])
    return taken / (each * processes) - SECTION_SECONDS


def in_child(
    loop: str, work: Callable[..., Any], shared: Any, each: int, number: int, start: Any, ends: Any
) -> None:
    """One of the processes."""

    def go() -> None:
        start.wait()
        ends[len(ends) // 2 + number] = time.perf_counter()

    found = work(shared, each, go)
    if loop != BLOCKING:
        loops.run(loop, found)
    ends[number] = time.perf_counter()
    loops.close()


def section() -> None:
    """What is done while the lock is held."""
    until = time.perf_counter() + SECTION_SECONDS
    while time.perf_counter() < until:
        pass


def take_turns(lock: Any, each: int, go: Callable[[], None]) -> None:
    for part in (WARM_UP_TURNS, each):
        go()
        for _ in range(part):
            with lock:
                section()


async def take_turns_awaited(lock: aioproc.Lock, each: int, go: Callable[[], None]) -> None:
    for part in (WARM_UP_TURNS, each):
        go()
        for _ in range(part):
            async with lock:
                section()


async def take_turns_of_theirs(lock: Any, each: int, go: Callable[[], None]) -> None:
    for part in (WARM_UP_TURNS, each):
        go()
        for _ in range(part):
            await lock.coro_acquire()
            section()
            lock.release()


def their_lock() -> Any:
    import aioprocessing

    return aioprocessing.AioLock(context=CONTEXT)


def next_number(numbers: Any) -> int:
    with numbers.get_lock():
        numbers.value += 1
        return int(numbers.value - 1)


def pass_on(shared: tuple[BareToken, Any], each: int, go: Callable[[], None]) -> None:
    token, numbers = shared
    number = next_number(numbers)
    for part in (WARM_UP_TURNS, each):
        go()
        for _ in range(part):
            fd = token.take(number)
            section()
            token.give(number + 1, fd)


def stand_in_line(line: BareLine, each: int, go: Callable[[], None]) -> None:
    place = Standing(line)
    for part in (WARM_UP_TURNS, each):
        go()
        for _ in range(part):
            token = place.take()
            section()
            place.give(token)
    place.leave()


async def pass_on_awaited(shared: tuple[BareToken, Any], each: int, go: Callable[[], None]) -> None:
    """The same in a loop, which is told of the token by a reader that stays registered."""
    token, numbers = shared
    number, loop = next_number(numbers), asyncio.get_running_loop()
    come = asyncio.Event()
    loop.add_reader(token.pairs[number][1], come.set)
    for part in (WARM_UP_TURNS, each):
        go()
        for _ in range(part):
            fd = await taken(token, number, come)
            section()
            token.give(number + 1, fd)
    loop.remove_reader(token.pairs[number][1])


async def taken(token: BareToken, number: int, come: asyncio.Event) -> int:
    while True:
        await come.wait()
        come.clear()
        try:
            return token.take(number, socket.MSG_DONTWAIT)
        except BlockingIOError:  # the loop told twice
            pass


def bare_token(processes: int) -> tuple[BareToken, Any]:
    token = BareToken(processes)
    token.give(0, os.dup(0))
    return token, CONTEXT.Value("i", 0)


if __name__ == "__main__":
    as_part("lock")
