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
from typing import Any, Final

import aioproc
from benchmarks.measuring import Contender, alternate, ratio, table

PAIRS: Final = 2000
TURNS: Final = 1500  # in all, whoever takes them
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

    def close(self) -> None:
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
    took = (time.perf_counter() - before) / PAIRS
    token.close()
    return took


async def aioprocessing_lock() -> float:
    import aioprocessing

    lock: Any = aioprocessing.AioLock()
    before = time.perf_counter()
    for _ in range(PAIRS // 10):
        await lock.coro_acquire()
        lock.release()
    return (time.perf_counter() - before) / (PAIRS // 10)


# Contended


def take_turns(lock: Any, turns: int, go: Any) -> None:
    go.wait()
    for _ in range(turns):
        with lock:
            section()


def take_turns_async(lock: aioproc.Lock, turns: int, go: Any) -> None:
    async def main() -> None:
        for _ in range(turns):
            async with lock:
                section()

    go.wait()
    asyncio.run(main())


def take_turns_aioprocessing(lock: Any, turns: int, go: Any) -> None:
    async def main() -> None:
        for _ in range(turns):
            await lock.coro_acquire()
            section()
            lock.release()

    go.wait()
    asyncio.run(main())


def pass_on(token: BareToken, number: int, turns: int, go: Any) -> None:
    go.wait()
    for _ in range(turns):
        fd = token.take(number)
        section()
        token.give(number + 1, fd)


def contended(work: Callable[..., None], make: Callable[[], Any], processes: int) -> Contender:
    """Seconds from one turn to the next, less the section itself."""

    def run() -> float:
        shared = make()
        turns = TURNS // processes
        return among([(work, (shared, turns)) for _ in range(processes)], turns * processes)

    return run


def contended_bare(processes: int) -> Contender:
    def run() -> float:
        token, turns = BareToken(processes), TURNS // processes
        token.give(0, os.dup(0))
        took = among([(pass_on, (token, number, turns)) for number in range(processes)], turns * processes)
        token.close()
        return took

    return run


def among(work: list[tuple[Callable[..., None], tuple[Any, ...]]], turns: int) -> float:
    go = context.Barrier(len(work) + 1)
    children = [context.Process(target=target, args=(*args, go)) for target, args in work]
    for child in children:
        child.start()
    go.wait()
    before = time.perf_counter()
    for child in children:
        child.join()
    return (time.perf_counter() - before) / turns - SECTION_SECONDS


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
            "bare token": contended_bare(processes),
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
