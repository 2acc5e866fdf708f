"""A parent with children of each kind, to be interrupted: `... METHOD BACKEND`."""

from __future__ import annotations

import sys
from typing import Any

import anyio

import aioproc
from tests.until_signal import UntilSignal


def plain() -> None:
    signalled = UntilSignal()
    try:
        print("ready", flush=True)
        signalled.sleep()
    finally:
        print("plain unwound", flush=True)


async def cooperative() -> None:
    try:
        print("ready", flush=True)
        await anyio.sleep(60)
    finally:
        print("async unwound", flush=True)


async def main(method: str) -> None:
    context: Any = aioproc.get_context(method)
    try:
        async with aioproc.ProcessGroup() as group:
            for target in (plain, cooperative):
                await group.start(context.Process(target=target))
            async with context.Process(target=cooperative):
                print("ready", flush=True)  # a start that Ctrl-C interrupts is another matter
                await anyio.sleep(60)
    finally:
        print("parent unwound", flush=True)


if __name__ == "__main__":
    aioproc.run(main, sys.argv[1], backend=sys.argv[2])  # type: ignore[arg-type]
