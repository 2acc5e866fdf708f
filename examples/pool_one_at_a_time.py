"""A pool, one call at a time: apply() waits for each result before the next call."""

import time

import aioproc

SECONDS = 0.2


def work(number: int) -> int:
    time.sleep(SECONDS)
    return number * number


async def main() -> None:
    async with aioproc.AsyncPool(3) as pool:
        await pool.apply(work, (0,))  # the workers have started
        before = time.monotonic()
        results = [await pool.apply(work, (number,)) for number in range(3)]
        print(results)
        print(f"in series: {time.monotonic() - before:.2f} s")


if __name__ == "__main__":
    aioproc.run(main)
