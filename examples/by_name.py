"""Meet by name: programs that are no relatives sell tickets under one lock, and none twice."""

import asyncio
import sys
import tempfile
from pathlib import Path

import aioproc


async def sell(folder: Path) -> None:
    async with aioproc.meet(folder / "shop") as hub:
        lock, sold = hub.Lock("tickets"), hub.Queue("sold")
        while True:
            async with lock:
                left = int((folder / "left").read_text())
                (folder / "left").write_text(str(max(left - 1, 0)))
            if not left:
                break
            await sold.put(left)


async def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "left").write_text("30")
        async with aioproc.meet(folder / "shop") as hub:
            command = [sys.executable, __file__, name]
            programs = [await asyncio.create_subprocess_exec(*command) for _ in range(3)]
            for program in programs:
                await program.wait()
            sold = hub.Queue("sold")
            sold.shutdown()  # nobody sells any more
            tickets = [ticket async for ticket in sold]
        print(f"{len(tickets)} tickets sold by three programs, {len(set(tickets))} of them different")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        aioproc.run(sell, Path(sys.argv[1]))
    else:
        aioproc.run(main)
