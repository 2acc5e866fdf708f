"""Know who is who: a child's own process id and its parent's, as seen from both sides."""

import os

import aioproc


async def ids() -> tuple[int, int]:
    return os.getpid(), os.getppid()


async def main() -> None:
    for method in "fork", "spawn":
        p = aioproc.get_context(method).Process(target=ids)
        await p.start()
        pid, parent_pid = await p.result()
        print(f"{method}: the child is p.pid: {pid == p.pid}, its parent is us: {parent_pid == os.getpid()}")


if __name__ == "__main__":
    aioproc.run(main)
