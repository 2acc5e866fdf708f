"""A pool, many calls: map() waits for all results, imap() hands them out one by one, for ever."""

import itertools

import aioproc


def work(number: int) -> int:
    return number * number


async def main() -> None:
    async with aioproc.AsyncPool(2) as pool:
        print("map:", await pool.map(work, range(10)))
        async with pool.imap(work, itertools.count()) as squares:  # the input has no end
            async for square in squares:
                if square > 50:
                    break
                print("imap:", square)


if __name__ == "__main__":
    aioproc.run(main)
