"""Start several processes: all run, in whatever order."""

import os

import aioproc


async def work(number: int) -> None:
    print(f"child {number}: has pid {os.getpid()}")


async def main() -> None:
    for number in range(3):
        p = aioproc.Process(target=work, args=(number,))
        await p.start()
    print("parent: started three")


if __name__ == "__main__":
    aioproc.run(main)
