"""Start all, then join all: three children that take a second each take little over one."""

import asyncio
import time

import aioproc


async def work(number: int) -> None:
    await asyncio.sleep(1)
    print(f"child {number}: done")


async def with_a_list() -> None:
    processes = [aioproc.Process(target=work, args=(number,)) for number in range(3)]
    for p in processes:
        await p.start()
    for p in processes:
        await p.join()


async def with_a_group() -> None:
    async with aioproc.ProcessGroup() as group:  # joins them all, and stops the rest if one fails
        for number in range(3):
            await group.start(work, number)


async def main() -> None:
    for way in with_a_list, with_a_group:
        before = time.perf_counter()
        await way()
        print(f"{way.__name__}: {time.perf_counter() - before:.2f} s")


if __name__ == "__main__":
    aioproc.run(main)
