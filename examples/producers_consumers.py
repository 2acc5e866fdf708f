"""Three producers, two consumers, and one None for each consumer once the producers are done."""

from typing import Any

import aioproc


async def produce(queue: aioproc.Queue[Any], name: str) -> None:
    for number in range(3):
        await queue.put(f"{name}{number}")


def consume(queue: Any, name: str) -> None:  # a plain function: no event loop, so the twin
    while (item := queue.get()) is not None:
        print(f"{name}: got {item}\n", end="")


async def main() -> None:
    queue = aioproc.Queue[Any]()
    producers = [aioproc.Process(target=produce, args=(queue, name)) for name in "abc"]
    consumers = [aioproc.Process(target=consume, args=(queue.sync, f"consumer {n}")) for n in (1, 2)]
    for p in producers + consumers:
        await p.start()
    for p in producers:
        await p.join()
    for _ in consumers:
        await queue.put(None)
    for p in consumers:
        await p.join()
    print("all done, left in the queue:", queue.qsize())


if __name__ == "__main__":
    aioproc.run(main)
