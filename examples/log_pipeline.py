"""A pipeline over log files: a reader for each file, a bounded queue, counters, and shutdown() at the end."""

import re
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import aiofiles

import aioproc

COUNTERS = 2
LINES_AT_ONCE = 500  # one message for many lines: what costs is the message, not its length
REQUEST = re.compile(r'"(?:GET|POST) (?P<path>[^ "]+)[^"]*" (?P<status>\d{3})')


async def read(queue: aioproc.Queue[list[str]], path: Path) -> int:
    """Put a file's lines, some at a time; a full queue holds the reader up."""
    total = 0
    lines: list[str] = []
    async with aiofiles.open(path, errors="replace") as file:
        async for line in file:
            lines.append(line)
            if len(lines) == LINES_AT_ONCE:
                await queue.put(lines)
                total, lines = total + len(lines), []
    await queue.put(lines)
    return total + len(lines)


def count(queue: Any) -> tuple[Counter[str], Counter[str]]:
    """Count requests by status and by path; plain work, so a plain function and the queue's twin."""
    statuses: Counter[str] = Counter()
    paths: Counter[str] = Counter()
    for lines in queue:  # ends after the last, once the queue is shut down
        for request in filter(None, map(REQUEST.search, lines)):
            statuses[request["status"]] += 1
            paths[request["path"]] += 1
    return statuses, paths


async def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        logs = [Path(name) for name in sys.argv[1:]] or made_up_logs(Path(folder))
        queue = aioproc.Queue[list[str]](maxsize=8)
        async with aioproc.ProcessGroup() as group:
            counters = [await group.start(count, queue.sync) for _ in range(COUNTERS)]
            async with aioproc.ProcessGroup() as readers:
                reading = [await readers.start(read, queue, path) for path in logs]
            queue.shutdown()  # all readers are done
    lines = sum([await reader.result() for reader in reading])
    counted = [await counter.result() for counter in counters]
    statuses = sum((by_status for by_status, _ in counted), Counter())
    paths = sum((by_path for _, by_path in counted), Counter())
    print(f"{lines} lines in {len(logs)} files, {statuses.total()} requests")
    print("by status:", *(f"{status}: {statuses[status]}" for status in sorted(statuses)))
    most = sorted(paths, key=lambda path: (-paths[path], path))[:3]
    print("most wanted:", *(f"{path}: {paths[path]}" for path in most))


def made_up_logs(folder: Path) -> list[Path]:
    """Three days of a small web server, so that there is something to count."""
    wanted = ("/", "/", "/", "/tickets", "/tickets", "/about", "/gone")
    for day in range(1, 4):
        with open(folder / f"access-{day}.log", "w") as file:
            print("# a line that is no request", file=file)
            for number in range(7000):
                path = wanted[number % len(wanted)]
                status = 404 if path == "/gone" else 500 if number % 1000 == 0 else 200
                file.write(
                    f'10.0.0.{number % 250} - - [0{day}/May/2026] "GET {path} HTTP/1.1" {status} 512\n'
                )
    return sorted(folder.iterdir())


if __name__ == "__main__":
    aioproc.run(main)
