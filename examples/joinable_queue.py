"""A JoinableQueue: the producers wait until their items are done; the consumers are daemons."""

import aioproc


async def produce(queue: aioproc.JoinableQueue[str], name: str) -> None:
    for number in range(3):
        await queue.put(f"{name}{number}")
    await queue.join()  # until every item that anybody has put is done


async def consume(queue: aioproc.JoinableQueue[str], name: str) -> None:
    async for item in queue:
        print(f"{name}: done {item}\n", end="")
        queue.task_done()


async def main() -> None:
    queue = aioproc.JoinableQueue[str]()
    producers = [aioproc.Process(target=produce, args=(queue, name)) for name in "abc"]
    for n in (1, 2):
        await aioproc.Process(target=consume, args=(queue, f"consumer {n}"), daemon=True).start()
    for p in producers:
        await p.start()
    for p in producers:
        await p.join()
    print("all done; the daemons end with us")


if __name__ == "__main__":
    aioproc.run(main)
