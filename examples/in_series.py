"""Start and join inside the loop: three children that take a second each take three."""

import asyncio
import time

import aioproc


async def work(number: int) -> None:
    await asyncio.sleep(1)
    print(f"child {number}: done")


async def main() -> None:
    before = time.perf_counter()
    for number in range(3):
        p = aioproc.Process(target=work, args=(number,))
        await p.start()
        await p.join()
    print(f"in series: {time.perf_counter() - before:.2f} s")


if __name__ == "__main__":
    aioproc.run(main)
