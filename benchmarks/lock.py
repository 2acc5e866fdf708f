"""Locks: an uncontended pair of calls, and handing over among processes that all want it.

python -m benchmarks.lock [ROUNDS]; aioprocessing takes part where it is installed.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import socket
import statistics
import struct
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any, Final

import aioproc
from benchmarks.measuring import Contender, alternate, ratio, table

PAIRS: Final = 2000
TURNS: Final = 2048  # in all, whoever takes them
WARM_UP_TURNS: Final = 8  # of each process: after a fork, memory is copied as it is touched
SECTION_SECONDS: Final = 0.0002

context = multiprocessing.get_context("fork")
INT = struct.Struct("i")


class BareToken:
    """A descriptor that goes round in packets, and nothing else: what a hand-over must cost at least."""

    def __init__(self, processes: int) -> None:
        self.pairs = [socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET) for _ in range(processes)]

    def give(self, to: int, fd: int) -> None:
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, INT.pack(fd))]
        self.pairs[to % len(self.pairs)][0].sendmsg([b"t"], rights)
        os.close(fd)

    def take(self, number: int) -> int:
        _, ancillary, _, _ = self.pairs[number][1].recvmsg(1, socket.CMSG_SPACE(4))
        return int(INT.unpack(ancillary[0][2])[0])

    def __del__(self) -> None:
        for pair in self.pairs:
            for end in pair:
                end.close()


def section() -> None:
    """What is done while the lock is held."""
    until = time.perf_counter() + SECTION_SECONDS
    while time.perf_counter() < until:
        pass


# Uncontended


async def ours() -> float:
    lock = aioproc.Lock()
    before = time.perf_counter()
    for _ in range(PAIRS):
        await lock.acquire()
        lock.release()
    return (time.perf_counter() - before) / PAIRS


def twin() -> float:
    return blocking(aioproc.Lock().sync)


def stdlib() -> float:
    return blocking(multiprocessing.Lock())


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
    return (time.perf_counter() - before) / PAIRS


async def aioprocessing_lock() -> float:
    import aioprocessing

    lock: Any = aioprocessing.AioLock()
    before = time.perf_counter()
    for _ in range(PAIRS // 10):
        await lock.coro_acquire()
        lock.release()  # their coro_release() waits for ever: it takes up the one thread that it needs
    return (time.perf_counter() - before) / (PAIRS // 10)


# Contended


def take_turns(lock: Any, turns: int, go: Callable[[], None]) -> None:
    for part in (WARM_UP_TURNS, turns):
        go()
        for _ in range(part):
            with lock:
                section()


def take_turns_async(lock: aioproc.Lock, turns: int, go: Callable[[], None]) -> None:
    async def main() -> None:
        for part in (WARM_UP_TURNS, turns):
            go()
            for _ in range(part):
                async with lock:
                    section()

    asyncio.run(main())


def take_turns_aioprocessing(lock: Any, turns: int, go: Callable[[], None]) -> None:
    async def main() -> None:
        for part in (WARM_UP_TURNS, turns):
            go()
            for _ in range(part):
                await lock.coro_acquire()
                section()
                lock.release()

    asyncio.run(main())


def pass_on(shared: tuple[BareToken, Any], turns: int, go: Callable[[], None]) -> None:
    token, numbers = shared
    with numbers.get_lock():
        number = numbers.value
        numbers.value += 1
    for part in (WARM_UP_TURNS, turns):
        go()
        for _ in range(part):
            fd = token.take(number)
            section()
            token.give(number + 1, fd)


def bare_token(processes: int) -> tuple[BareToken, Any]:
    token = BareToken(processes)
    token.give(0, os.dup(0))
    return token, context.Value("i", 0)


def contended(work: Callable[..., None], make: Callable[[], Any], processes: int) -> Contender:
    """Seconds from one turn to the next, less the section itself, once all processes are up and warm."""

    def run() -> float:
        shared, start, ends = make(), context.Barrier(processes), context.Array("d", 2 * processes)
        turns = TURNS // processes

        def child(number: int) -> None:
            def go() -> None:
                start.wait()
                ends[processes + number] = time.perf_counter()

            work(shared, turns, go)
            ends[number] = time.perf_counter()

        children = [context.Process(target=child, args=(number,)) for number in range(processes)]
        for each in children:
            each.start()
        for each in children:
            each.join()
        took: float = max(ends[:processes]) - min(ends[processes:])
        return took / (turns * processes) - SECTION_SECONDS

    return run


def aioprocessing_is_here() -> bool:
    try:
        import aioprocessing  # noqa: F401
    except ImportError:
        return False
    return True


async def main(rounds: int) -> None:
    peer = aioprocessing_is_here()
    free: dict[str, Contender] = {
        "aioproc": ours,
        "aioproc twin": twin,
        "stdlib, blocking": stdlib,
        "bare token": bare,
    }
    if peer:
        free["aioprocessing"] = aioprocessing_lock
    times = await alternate(free, rounds)
    print("Uncontended acquire and release")
    print(table(times, "aioproc", 1e6, "us"))
    if peer:
        print(f"aioprocessing takes {ratio(times, 'aioprocessing', 'aioproc'):.1f} times as long\n")
    hand_over = {}
    for processes in (2, 8, 32):
        contenders: dict[str, Contender] = {
            "aioproc twin": contended(take_turns, lambda: aioproc.Lock().sync, processes),
            "aioproc": contended(take_turns_async, aioproc.Lock, processes),
            "stdlib, blocking": contended(take_turns, multiprocessing.Lock, processes),
            "bare token": contended(pass_on, partial(bare_token, processes), processes),
        }
        if peer:
            contenders["aioprocessing"] = contended(take_turns_aioprocessing, _their_lock, processes)
        times = await alternate(contenders, max(3, rounds // 2))
        hand_over[processes] = statistics.median(times["aioproc twin"])
        print(f"\nOne turn among {processes} processes, without the section itself")
        print(table(times, "bare token", 1e6, "us"))
    print(f"\nfrom 2 to 32 processes: {hand_over[32] / hand_over[2]:.2f}")


def _their_lock() -> Any:
    import aioprocessing

    return aioprocessing.AioLock(context=context)


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 9))
