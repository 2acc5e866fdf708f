"""A main module without the guard that every program with processes needs: `... METHOD BY`."""

import sys

import anyio

import aioproc


def work() -> None:
    print("worked", flush=True)


async def main(method: str) -> None:
    await aioproc.get_context(method).Process(target=work)


if sys.argv[2] == "run":
    aioproc.run(main, sys.argv[1])
else:
    anyio.run(main, sys.argv[1])
