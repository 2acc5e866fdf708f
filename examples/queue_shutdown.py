"""The same, ended by shutdown(): no None, no daemons; `async for` ends when nothing is left."""

import aioproc


async def produce(queue: aioproc.Queue[str], name: str) -> None:
    for number in range(3):
        await queue.put(f"{name}{number}")


async def consume(queue: aioproc.Queue[str], name: str) -> None:
    async for item in queue:
        print(f"{name}: got {item}\n", end="")
    print(f"{name}: the end\n", end="")


async def main() -> None:
    queue = aioproc.Queue[str](maxsize=4)
    async with aioproc.ProcessGroup() as consumers:
        for n in (1, 2):
            await consumers.start(consume, queue, f"consumer {n}")
        async with aioproc.ProcessGroup() as producers:
            for name in "abc":
                await producers.start(produce, queue, name)
        queue.shutdown()  # all producers are done
    print("all done")


if __name__ == "__main__":
    aioproc.run(main)
