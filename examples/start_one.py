"""Start a process: the parent goes on at once, and both lines appear."""

import asyncio

import aioproc


async def work() -> None:
    await asyncio.sleep(1)
    print("child: done")


async def main() -> None:
    p = aioproc.Process(target=work)
    await p.start()
    print("parent: started a child and goes on")


if __name__ == "__main__":
    aioproc.run(main)  # the program ends when the child has, as with multiprocessing
