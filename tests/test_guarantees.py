"""What docs/guarantees.md says and no other test shows; and that the tests which it names exist."""

from __future__ import annotations

import ast
import os
import re
import signal
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio
import pytest

import aioproc
from aioproc import Connection, Pipe, Process, Queue, RLock, SimpleQueue, wait

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "guarantees.md"


def made() -> dict[str, Any]:
    """One of each primitive."""
    here, there = Pipe()
    return {
        "go": aioproc.Event(),
        "queue": Queue[str](2),
        "unbounded": Queue[str](),
        "tasks": aioproc.JoinableQueue[str](),
        "simple": SimpleQueue[str](),
        "here": here,
        "there": there,
        "locks": [aioproc.Lock(), RLock(), aioproc.Semaphore(), aioproc.BoundedSemaphore()],
        "condition": aioproc.Condition(),
        "barrier": aioproc.Barrier(2),
    }


async def make_and_stay(to: Connection) -> None:
    """Make them all, hand them to the parent and to a child of one's own, and stay."""
    everything = made()
    child = Process(target=use, args=(everything,))
    await child.start()
    await to.send((everything, child.pid))
    await anyio.sleep_forever()


async def use(everything: dict[str, Any]) -> None:
    """The part of the one who lives on."""
    await everything["go"].wait()
    for name in ("queue", "unbounded", "simple", "tasks"):
        await everything[name].put(name)
    await everything["tasks"].join()
    await everything["there"].send("through the pipe")
    for lock in everything["locks"]:
        async with lock:
            pass
    async with everything["condition"] as _:
        everything["condition"].notify()
    await everything["barrier"].wait()


@pytest.mark.anyio
async def test_who_made_it_is_killed() -> None:
    """The process that made the primitives is killed: a child of it, which lives on, and others use them."""
    here, there = Pipe()
    maker = Process(target=make_and_stay, args=(there,))
    await maker.start()
    there.close()
    everything, child = await here.recv()
    watch = os.pidfd_open(child)
    maker.kill()
    await maker.join()
    with anyio.fail_after(20):
        condition = everything["condition"]
        async with condition:
            everything["go"].set()
            for name in ("queue", "unbounded", "simple", "tasks"):
                assert await everything[name].get() == name
            everything["tasks"].task_done()
            assert await everything["here"].recv() == "through the pipe"
            assert await condition.wait(20)
        for lock in everything["locks"]:
            async with lock:
                pass
        await everything["barrier"].wait()
        assert await wait([watch]) == [watch]
    os.close(watch)


def put_until_killed(queue: Any, to: Any) -> None:
    """Put far more than the kernel takes, and say so."""
    for number in range(20_000):
        queue.put(number)
    to.send("kept")
    time.sleep(1000)


@pytest.mark.anyio
async def test_what_a_killed_producer_kept_is_gone() -> None:
    """What the kernel had taken arrives, in order and whole; what the killed process still kept does not."""
    queue: Queue[int] = Queue()
    here, there = Pipe()
    producer = Process(target=put_until_killed, args=(queue.sync, there.sync))
    await producer.start()
    assert await here.recv() == "kept"
    producer.kill()
    await producer.join()
    got = []
    while not queue.empty():
        got.append(await queue.get())
    assert got == list(range(len(got)))
    assert 0 < len(got) < 20_000


def hold(lock: Any, to: Any) -> None:
    """Take a lock twice, say so, and stay."""
    with lock, lock:
        to.send("held")
        time.sleep(1000)


@pytest.mark.anyio
async def test_an_rlock_and_its_waiters() -> None:
    """Cancelled and timed-out waits take nothing; a killed holder's lock goes on, however deep it was."""
    lock = RLock()
    here, there = Pipe()
    holder = Process(target=hold, args=(lock.sync, there.sync))
    await holder.start()
    assert await here.recv() == "held"
    with anyio.move_on_after(0.01) as scope:
        await lock.acquire()
    assert scope.cancelled_caught
    assert not await lock.acquire(timeout=0.01)
    assert not lock.is_mine()
    holder.kill()
    with anyio.fail_after(20):
        async with lock:
            assert lock.abandoned
    await holder.join()
    assert not lock.locked()


@pytest.mark.anyio
async def test_a_simple_queue_loses_nothing() -> None:
    """A cancelled get takes nothing; a consumer killed while it waits leaves the item to others."""
    queue: SimpleQueue[int] = SimpleQueue()
    consumer = Process(target=queue.sync.get)
    await consumer.start()
    with anyio.move_on_after(0.1) as scope:
        await queue.get()
    assert scope.cancelled_caught
    consumer.kill()
    await consumer.join()
    await queue.put(1)
    with anyio.fail_after(20):
        assert await queue.get() == 1


def send_for_ever(to: Any) -> None:
    """Send large and small messages."""
    for number in range(10**9):
        to.send((number, bytes([number % 256]) * (number % 3 * 60_000)))


@pytest.mark.anyio
async def test_a_killed_sender_tears_nothing() -> None:
    """Every message that arrives is whole and in order; then EOFError, and sending is refused."""
    here, there = Pipe()
    sender = Process(target=send_for_ever, args=(there.sync,))
    await sender.start()
    there.close()
    got = [await here.recv() for _ in range(50)]
    sender.kill()
    got += [message async for message in here]
    assert got == [(n, bytes([n % 256]) * (n % 3 * 60_000)) for n in range(len(got))]
    with pytest.raises(EOFError):
        await here.recv()
    with pytest.raises(BrokenPipeError):
        await here.send("nobody is there")
    await sender.join()


@pytest.mark.anyio
async def test_cancelled_receipts_and_waits_take_nothing() -> None:
    """What comes after a cancelled recv, poll or wait is still there."""
    here, there = Pipe()
    queue: Queue[int] = Queue()
    waits: list[Callable[[], Awaitable[object]]] = [
        lambda: here.recv(),
        lambda: here.poll(None),
        lambda: wait([here, queue]),
    ]
    for waiting in waits:
        with anyio.move_on_after(0.01) as scope:
            await waiting()
        assert scope.cancelled_caught
    await there.send(1)
    await queue.put(2)
    assert await wait([here, queue]) == [here, queue]
    assert (await here.recv(), await queue.get()) == (1, 2)


@pytest.mark.anyio
async def test_wait_sees_a_death() -> None:
    """The sentinel of a killed process, and the connection that only it held, are ready."""
    here, there = Pipe()
    peer = Process(target=send_then_stay, args=(there.sync,))
    await peer.start()
    there.close()
    assert await here.recv() == "here"
    assert await wait([here, peer.sentinel], 0.01) == []
    os.kill(peer.pid or 0, signal.SIGKILL)
    await peer.join()
    assert await wait([here, peer.sentinel]) == [here, peer.sentinel]


def send_then_stay(to: Any) -> None:
    """Say that one is here."""
    to.send("here")
    time.sleep(1000)


# The page


def named() -> list[tuple[str, str]]:
    """Each test that the page names: its file and its name; a file without a name stands for all in it."""
    return re.findall(r"\[`(\w+)(?:\.py)?`\]\(\.\./(tests/[\w/]+\.py)\)", PAGE.read_text())


def test_named_tests_exist() -> None:
    """Every test that the page names is in the file that the link leads to."""
    for file in {file for _, file in named()}:
        tree = ast.parse((ROOT / file).read_text())
        functions = (ast.FunctionDef, ast.AsyncFunctionDef)
        there = {node.name for node in ast.walk(tree) if isinstance(node, functions)}
        assert {name for name, where in named() if where == file} <= there | {Path(file).stem}, file


def test_what_other_pages_name_exists() -> None:
    """Every test, and every file of ours, that any page of the documentation names is there."""
    tests = list((ROOT / "tests").rglob("*.py"))
    known = {path.stem for path in tests} | {"test_queue_feeder_donot_stop_onexc"}  # the stdlib's own
    for path in tests:
        known |= set(re.findall(r"^(?:async )?def (test_\w+)", path.read_text(), re.MULTILINE))
    files = {path.relative_to(ROOT).as_posix() for path in ROOT.glob("[abte]*/**/*.py")}
    for page in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]:
        text = re.sub(r"```python\n.*?```", "", page.read_text(), flags=re.DOTALL)
        assert set(re.findall(r"`(test_\w+)`", text)) <= known, page.name
        for path in re.findall(r"`((?:aioproc/|tests/|benchmarks/|examples/|_kernel/)[\w/]+\.py)`", text):
            assert path.replace("_kernel/", "aioproc/_kernel/", path.startswith("_")) in files, page.name
        for program in re.findall(r"python -m ((?:benchmarks|examples)(?:\.[a-z]\w*)+)", text):
            place = program.replace(".", "/")
            assert {f"{place}.py", f"{place}/__init__.py"} & files, f"{page.name}: {program}"


def test_every_row_names_a_test() -> None:
    """No row of the page is without a test, and each primitive has its rows."""
    text = PAGE.read_text()
    rows = [line for line in text.splitlines() if line.startswith("| ") and not line.startswith("| when")]
    assert [row for row in rows if "](../tests/" not in row] == []
    sections = re.findall(r"^## ([^\n]*)\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)[:-1]
    for heading, section in sections:
        for what in ("cancelled", "time", "killed"):
            assert what in section, f"{heading}: {what}"
    headings = " ".join(heading for heading, _ in sections)
    for name in aioproc.__all__:
        kind = getattr(aioproc, name)
        if isinstance(kind, type) and issubclass(kind, BaseException):
            continue
        if name[0].isupper() and name not in ("Context", "PoolStats", "WorkerStats", "Pipe"):
            assert re.search(rf"\b{name}\b", headings), name
