"""A pool's callbacks: called with the result or the exception, in the thread of the event loop."""

import threading

import aioproc


def work(number: int) -> int:
    if number == 3:
        raise ValueError("three is not welcome")
    return number * number


async def main() -> None:
    here = threading.get_ident()

    # A callback runs in the loop itself, so it must be short and must not block.
    def on_result(result: int) -> None:
        print(f"result {result}, in the loop's thread: {threading.get_ident() == here}")

    def on_error(error: BaseException) -> None:
        print(f"error {error}, in the loop's thread: {threading.get_ident() == here}")

    async with aioproc.AsyncPool(1) as pool:
        for number in (2, 3):
            pool.apply_async(work, (number,), callback=on_result, error_callback=on_error)


if __name__ == "__main__":
    aioproc.run(main)
