"""Know who is who: a child tells its process id and its parent's, through a queue."""

import os

import aioproc


async def tell(queue: aioproc.Queue[tuple[int, int]]) -> None:
    await queue.put((os.getpid(), os.getppid()))


async def main() -> None:
    for method in "fork", "spawn":
        context = aioproc.get_context(method)
        queue = context.Queue()
        p = context.Process(target=tell, args=(queue,))
        await p.start()
        told = await queue.get()
        await p.join()
        agree = told == (p.pid, os.getpid())
        print(f"{method}: child and parent {'agree' if agree else 'do not agree'} on who is who")


if __name__ == "__main__":
    aioproc.run(main)
