"""A daemon that is joined finishes its work: its line comes first."""

import asyncio

import aioproc


async def work() -> None:
    await asyncio.sleep(1)
    print("daemon: done")


async def main() -> None:
    p = aioproc.Process(target=work, daemon=True)
    await p.start()
    await p.join()
    print("parent: ends now")


if __name__ == "__main__":
    aioproc.run(main)
