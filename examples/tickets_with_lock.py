"""Five visitors, one ticket and a lock: exactly one buys it, and the others are told so."""

import asyncio
import json
import tempfile
from pathlib import Path

import aiofiles

import aioproc


async def tickets_left(office: Path) -> int:
    async with aiofiles.open(office) as file:
        count: int = json.loads(await file.read())["count"]
    return count


async def buy(number: int, office: Path, doors: aioproc.Barrier, lock: aioproc.Lock) -> bool:
    await doors.wait()  # they all come in at the same moment
    async with lock:
        left = await tickets_left(office)
        await asyncio.sleep(0.2)  # and take their time at the counter
        if left < 1:
            print(f"visitor {number}: sold out\n", end="")
            return False
        async with aiofiles.open(office, "w") as file:
            await file.write(json.dumps({"count": left - 1}))
        print(f"visitor {number}: bought a ticket\n", end="")
        return True


async def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        office, doors, lock = Path(folder, "tickets.json"), aioproc.Barrier(5), aioproc.Lock()
        office.write_text('{"count": 1}')
        async with aioproc.ProcessGroup() as group:
            visitors = [await group.start(buy, number, office, doors, lock) for number in range(5)]
        bought = [await visitor.result() for visitor in visitors]
        print(f"{sum(bought)} visitor bought 1 ticket, {await tickets_left(office)} left")


if __name__ == "__main__":
    aioproc.run(main)
