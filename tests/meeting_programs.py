"""Programs that meet: ``python -m tests.meeting_programs NAME PATH ...``, each no relative of the others."""

from __future__ import annotations

import gc
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import anyio

import aioproc


def sell(path: str, folder: str, tickets: str) -> None:
    """Sell tickets from a file, together with whoever else does, under one lock; print those sold here."""
    with aioproc.meet_sync(path) as hub:
        lock, gate = hub.Lock("tickets"), hub.Barrier("all here", int(tickets))
        gate.wait(timeout=30)
        while True:
            with lock:
                number = sell_one(Path(folder))
            if not number:
                return
            print(number, flush=True)


def sell_one(folder: Path) -> int:
    """Take a number from the file, slowly and without any protection."""
    left = int((folder / "left").read_text())
    if left:
        time.sleep(0)
        (folder / "left").write_text(str(left - 1))
    return left


def arrive(path: str) -> None:
    """Enter when told, tell which table and whose turn it is, leave at the end of input."""
    print("ready", flush=True)
    sys.stdin.readline()
    with aioproc.meet_sync(path) as hub:
        names = hub._member.names
        assert names is not None
        with hub.Lock("lock"):
            turns = hub.Queue("turns")
            hub.Semaphore("count", 0).release()
            turns.put(os.getpid())
        print(*names.identity, flush=True)
        sys.stdin.readline()


def stay(path: str, way: str) -> None:
    """Be a member that sleeps: hold a lock and an item, tell so, and leave at the end of input."""
    if way == "sync":
        with aioproc.meet_sync(path) as hub:
            hub.Queue("jobs", 5).put("old")
            hub.Lock("held").acquire()
            print("in", flush=True)
            sys.stdin.readline()
    else:
        anyio.run(_stay, path, backend=way)


async def _stay(path: str) -> None:
    async with aioproc.meet(path) as hub:
        await hub.Queue("jobs", 5).put("old")
        await hub.Lock("held").acquire()
        print("in", flush=True)
        await anyio.to_thread.run_sync(sys.stdin.readline)


def many(path: str, number: str) -> None:
    """Ten objects, some shared by all and some of this process alone, until told to leave; and once more.

    Tell how many descriptors are open before, and after each time.
    """
    tell_descriptors()
    for _ in range(2):
        with aioproc.meet_sync(path) as hub:
            for each in range(5):
                hub.Lock(f"lock {each}")
                hub.Queue(f"{number} {each}").put(each)
            print("in", flush=True)
            sys.stdin.readline()
        del hub
        tell_descriptors()
        sys.stdin.readline()


def tell_descriptors() -> None:
    gc.collect()
    print(len(os.listdir("/proc/self/fd")), flush=True)


def killed(path: str, steps: str) -> None:
    """Enter and ask for names, and die at the given one of the system's calls that others can see."""
    left = int(steps)

    def trace(event: str, arguments: object) -> None:
        nonlocal left
        if event.startswith(("socket.", "os.mkfifo", "os.unlink", "open", "fcntl.", "subprocess")):
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(trace)
    with aioproc.meet_sync(path) as hub:
        with hub.Lock("lock"):
            hub.Queue("turns").put(1)
    print("survived", flush=True)


PROGRAMS: dict[str, Callable[..., None]] = {
    each.__name__: each for each in (sell, arrive, stay, many, killed)
}


def main() -> None:
    name, *arguments = sys.argv[1:]
    PROGRAMS[name](*arguments)


if __name__ == "__main__":
    main()
