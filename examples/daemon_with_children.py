"""A daemon may not have children: the error says so, and comes home."""

import aioproc


async def work() -> None:
    print("grandchild: never gets here")


async def try_to_start_a_process() -> None:
    await aioproc.Process(target=work).start()


async def main() -> None:
    p = aioproc.Process(target=try_to_start_a_process, daemon=True)
    try:
        await p  # starts it, waits, and raises what it raised
    except AssertionError as error:
        print(f"error: {error}")


if __name__ == "__main__":
    aioproc.run(main)
