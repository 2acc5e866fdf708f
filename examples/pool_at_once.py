"""A pool, five calls at once on three workers: two rounds, not five."""

import os
import time

import aioproc

SECONDS = 0.4


def work(number: int) -> tuple[int, int]:
    time.sleep(SECONDS)
    return number * number, os.getpid()


def warm_up(_: int) -> None:
    time.sleep(0.1)


async def main() -> None:
    pool = aioproc.AsyncPool(3)
    await pool.map(warm_up, range(6), chunksize=1)
    before = time.monotonic()
    results = [pool.apply_async(work, (number,)) for number in range(5)]
    pool.close()
    await pool.join()
    took = time.monotonic() - before
    answers = [await result for result in results]
    print(*[square for square, _ in answers])
    print(f"{len({pid for _, pid in answers})} workers did {len(answers)} calls")
    print(f"two rounds of {SECONDS} s: {took:.2f} s")


if __name__ == "__main__":
    aioproc.run(main)
