"""A daemon does not outlive its parent: nobody joins this one, so its line never appears."""

import asyncio

import aioproc


async def work() -> None:
    await asyncio.sleep(1)
    print("daemon: done")


async def main() -> None:
    p = aioproc.Process(target=work, daemon=True)
    await p.start()
    print(f"parent: ends now, and with it the daemon (pid {p.pid})")


if __name__ == "__main__":
    aioproc.run(main)
