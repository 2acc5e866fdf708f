"""A start in a thread, cancelled twice; the loop ends, and is closed when the thread has undone it."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

import aioproc
from aioproc._kernel import start
from aioproc._kernel.launch import LAUNCHES

go, telling = threading.Event(), threading.Event()
kind: Any = LAUNCHES["forkserver"]
run: Any = start._Run
launch, tell = kind.launch, run._tell


def launch_slowly(self: Any) -> None:
    launch(self)
    go.wait()


def tell_and_say_so(self: Any) -> None:
    telling.set()
    tell(self)


async def main() -> None:
    task = asyncio.create_task(aioproc.Process(target=time.sleep, args=(60,)).start())
    await asyncio.sleep(0.5)
    for _ in range(2):
        task.cancel()
        await asyncio.sleep(0.05)
    assert task.cancelled()


if __name__ == "__main__":
    kind.launch, run._tell = launch_slowly, tell_and_say_so
    loop = asyncio.new_event_loop()
    loop.run_until_complete(main())
    go.set()
    telling.wait()
    time.sleep(0.2)
    loop.close()
