"""A real job: the SHA-256 of every file below a folder, by a pool, with a manifest to check against."""

import argparse
import hashlib
import json
import os
import sys
from functools import partial
from pathlib import Path

import aiofiles
import aiofiles.os

import aioproc

HERE = Path(__file__).parent
BAR_WIDTH = 30
INTERRUPTED = 130  # what a shell reports of a program that Ctrl-C ended

Pairs = list[tuple[str, str]]  # the name of a file, and what is to be said of it


def files_below(root: Path) -> tuple[list[str], Pairs]:
    """The regular files below a folder, by their path from there, and the folders that cannot be read."""
    files: list[str] = []
    unreadable: Pairs = []

    def complain(error: OSError) -> None:
        unreadable.append((os.path.relpath(error.filename, root), str(error.strerror)))

    for folder, _, names in os.walk(root, onerror=complain):
        paths = (Path(folder, name) for name in names)
        files += (str(path.relative_to(root)) for path in paths if path.is_file() and not path.is_symlink())
    return sorted(files), unreadable


def digest(root: Path, name: str) -> tuple[str, str, str]:
    """A file's name with its digest, or with the reason why it has none."""
    try:
        # A plain read: aiofiles would take four times as long for 2,000 files of 4 KiB, and a fifth
        # longer for large ones, as there is nothing else to do meanwhile (`benchmarks.digest_tree`).
        with open(root / name, "rb") as file:
            return name, hashlib.file_digest(file, "sha256").hexdigest(), ""
    except OSError as error:
        return name, "", error.strerror or str(error)


async def digests(root: Path, leave_out: Path | None) -> tuple[dict[str, str], Pairs]:
    """The digest of each file, and what could not be read."""
    found: dict[str, str] = {}
    async with aioproc.AsyncPool() as pool:  # on Ctrl-C it ends its workers
        files, unreadable = await pool.apply(files_below, (root,))
        files = [name for name in files if not leave_out or (root / name).resolve() != leave_out]
        done = 0
        async for name, value, reason in pool.imap_unordered(partial(digest, root), files):
            done += 1
            show_progress(done, len(files))
            if reason:
                unreadable.append((name, reason))
            else:
                found[name] = value
    return dict(sorted(found.items())), unreadable


def show_progress(done: int, total: int) -> None:
    if sys.stderr.isatty():
        bar = "#" * (BAR_WIDTH * done // total)
        end = "\n" if done == total else ""
        print(f"\r[{bar:.<{BAR_WIDTH}}] {done}/{total} files", end=end, file=sys.stderr, flush=True)


async def write_manifest(path: Path, found: dict[str, str]) -> None:
    """Write it beside its place and then move it there, so that nobody ever sees half of it."""
    beside = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        beside.touch()
        async with aiofiles.open(beside, "r+") as file:  # makes no file: after Ctrl-C there shall be none
            await file.write(json.dumps({"algorithm": "sha256", "files": found}, indent=1) + "\n")
        await aiofiles.os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


async def differences(path: Path, found: dict[str, str], unreadable: Pairs) -> Pairs:
    """What is not as the manifest has it."""
    async with aiofiles.open(path) as file:
        expected: dict[str, str] = json.loads(await file.read())["files"]
    skipped = {name for name, _ in unreadable}
    changed = [(name, "changed") for name in found if expected.get(name, found[name]) != found[name]]
    missing = [(name, "missing") for name in expected if name not in found and name not in skipped]
    return changed + missing + [(name, "new") for name in found if name not in expected]


def as_sha256sum(name: str, value: str) -> bytes:
    """The line that sha256sum prints: odd characters are escaped, and a backslash before the line says so."""
    plain = name.replace("\\", "\\\\").replace("\n", "\\n").replace("\r", "\\r")
    mark = "" if plain == name else "\\"
    return os.fsencode(f"{mark}{value}  {plain}\n")


async def main(words: argparse.Namespace) -> int:
    found, unreadable = await digests(words.folder, words.manifest or words.verify)
    problems = list(unreadable)
    if words.verify:
        problems += await differences(words.verify, found, unreadable)
    elif words.manifest:
        await write_manifest(words.manifest, found)
    else:
        sys.stdout.buffer.writelines(as_sha256sum(name, value) for name, value in found.items())
    for name, trouble in problems:
        print(f"{name}: {trouble}", file=sys.stderr)
    return 1 if problems else 0


def command_line() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?", default=HERE, help="default: that of this program")
    either = parser.add_mutually_exclusive_group()
    either.add_argument(
        "--manifest", type=lambda name: Path(name).resolve(), help="write the digests as JSON"
    )
    either.add_argument("--verify", type=lambda name: Path(name).resolve(), help="compare with such a file")
    words = parser.parse_args()
    if not words.folder.is_dir():
        parser.error(f"{words.folder} is no folder")
    if words.verify and not words.verify.is_file():
        parser.error(f"there is no manifest {words.verify}")
    if words.manifest and not words.manifest.parent.is_dir():
        parser.error(f"there is no folder for {words.manifest}")
    return words


if __name__ == "__main__":
    try:
        sys.exit(aioproc.run(main, command_line()))
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
