"""The life of a process: before its start, running, asked to end, ended by force, and closed."""

import time
from typing import Any

import aioproc


def work(begun: Any, stubborn: bool) -> None:
    try:
        begun.set()
        time.sleep(3600)
    finally:
        print("child: cleans up")
        if stubborn:
            time.sleep(3600)


def show(what: str, p: aioproc.Process[None]) -> None:
    print(f"{what}: alive {p.is_alive()}, exit code {p.exitcode}")


async def main() -> None:
    for stubborn in False, True:
        begun = aioproc.Event()
        p = aioproc.Process(target=work, args=(begun.sync, stubborn))
        show("new", p)
        await p.start()
        await begun.wait()
        show("running", p)
        await p.stop(grace=0.5)  # asks; waits; insists
        show("stubborn, so killed" if stubborn else "asked to end", p)
    p.close()
    try:
        p.is_alive()
    except ValueError as error:
        print(f"closed: {error}")


if __name__ == "__main__":
    aioproc.run(main)
