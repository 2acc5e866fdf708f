"""Who reads the files of ``examples/digest_tree.py``: ``python -m benchmarks.digest_tree [rounds]``.

A plain read in the worker, aiofiles in the worker (eight files at a time), or aiofiles in the parent, which
sends the bytes. Many small files and a few large ones, all in the page cache.
"""

from __future__ import annotations

import asyncio
import hashlib
import sys
import tempfile
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import aiofiles

import aioproc
from benchmarks.measuring import Contender, alternate, table
from examples.digest_tree import digest

PIECE = 1 << 18
AT_ONCE = 8
SMALL = (2000, 4096)
LARGE = (16, 16 << 20)


async def digest_with_aiofiles(root: Path, name: str) -> str:
    """The same as `digest`, in the worker's event loop."""
    summed = hashlib.sha256()
    async with aiofiles.open(root / name, "rb") as file:
        while piece := await file.read(PIECE):
            summed.update(piece)
    return summed.hexdigest()


def digest_of_bytes(content: bytes) -> str:
    """For what the parent has read."""
    return hashlib.sha256(content).hexdigest()


async def contents(root: Path, names: list[str]) -> AsyncIterator[bytes]:
    """Each file, read in the parent."""
    for name in names:
        async with aiofiles.open(root / name, "rb") as file:
            yield await file.read()


async def drained(results: AsyncIterator[object]) -> int:
    """How many results there are."""
    return len([result async for result in results])


def contenders(plain: aioproc.AsyncPool, many: aioproc.AsyncPool, root: Path) -> dict[str, Contender]:
    """The three ways; each hashes the whole tree."""
    names = sorted(path.name for path in root.iterdir())

    async def plain_in_worker() -> None:
        assert await drained(plain.imap_unordered(partial(digest, root), names)) == len(names)

    async def aiofiles_in_worker() -> None:
        assert await drained(many.imap_unordered(partial(digest_with_aiofiles, root), names)) == len(names)

    async def aiofiles_in_parent() -> None:
        assert await drained(plain.imap_unordered(digest_of_bytes, contents(root, names))) == len(names)

    return {
        "plain, in the worker": plain_in_worker,
        "aiofiles, in the worker": aiofiles_in_worker,
        "aiofiles, in the parent": aiofiles_in_parent,
    }


async def main(rounds: int) -> None:
    """Both trees."""
    for count, size in SMALL, LARGE:
        with tempfile.TemporaryDirectory() as folder:
            root = Path(folder)
            for number in range(count):
                (root / f"{number:05}").write_bytes(number.to_bytes(4, "big") * (size // 4))
            async with aioproc.AsyncPool() as plain, aioproc.AsyncPool(tasks_per_worker=AT_ONCE) as many:
                times = await alternate(contenders(plain, many, root), rounds)
        print(f"{count} files of {size >> 10} KiB\n{table(times, reference='plain, in the worker')}\n")


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]) if sys.argv[1:] else 7))
