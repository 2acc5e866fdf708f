"""Puts more than the kernel takes, and ends; its child counts what it gets."""

from __future__ import annotations

import sys
from typing import Any

import aioproc


def count(queue: Any, go_on: Any) -> None:
    """Take all, once nobody writes any more for want of room."""
    go_on.wait()
    print(sum(1 for _ in iter(queue.get, None)), "items")


async def main() -> None:
    """Fill the queue and go."""
    queue, go_on = aioproc.Queue[Any](), aioproc.Event()
    await aioproc.Process(target=count, args=(queue.sync, go_on.sync)).start()
    for number in range(20_000):
        queue.put_nowait(number)
    queue.put_nowait(None)
    go_on.set()


if __name__ == "__main__":
    aioproc.run(main, backend=sys.argv[1])  # type: ignore[arg-type]
