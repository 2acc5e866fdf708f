"""A pipe: two ends, each sends and receives; the loop ends when the other end is gone."""

import aioproc


async def echo(connection: aioproc.Connection) -> None:
    async for word in connection:
        await connection.send(word.upper())


async def main() -> None:
    here, there = aioproc.Pipe()
    async with aioproc.ProcessGroup() as group:
        await group.start(echo, there)
        there.close()  # the child has its own; ours would keep the pipe open
        for word in "one", "two":
            await here.send(word)
            print(f"{word} -> {await here.recv()}")
        here.close()  # ends the child's loop
    print("the child has ended")


if __name__ == "__main__":
    aioproc.run(main)
