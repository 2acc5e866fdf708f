"""What an unbounded queue keeps is written, whatever ends meanwhile: the loop, the feeder, the program."""

from __future__ import annotations

import asyncio
import gc
import select
import subprocess
import sys
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any

import anyio
import pytest

from aioproc import JoinableQueue, Pipe, Queue
from aioproc._kernel.backlog import Backlog
from aioproc._kernel.channel import Channel
from tests.conftest import BACKENDS
from tests.local.test_process_programs import LIMIT_SECONDS, ROOT, program
from tests.shared import spare_descriptors

ITEM = bytes(30_000)
QUEUES: list[Any] = [
    pytest.param(Queue, id="unbounded"),
    pytest.param(lambda: Queue(1000), id="bounded"),
    pytest.param(lambda: JoinableQueue(1000), id="joinable"),
]


def put_until_kept(queue: Any) -> int:
    """Put until the kernel takes no more; how many."""
    count = 0
    while not queue._store.backlog.kept:
        queue.put_nowait(ITEM)
        count += 1
    return count


async def aput_until_kept(queue: Queue[bytes]) -> int:
    """The same in a loop, which ends at once."""
    return put_until_kept(queue)


def received(queue: Any, count: int) -> bool:
    """Whether so many items arrive, for one who looks at the channel only, and so writes nothing itself."""
    reader = queue._store.reader
    for _ in range(count):
        if not select.select([reader.handle], [], [], 20)[0]:
            return False
        reader.pull()
    return True


@pytest.mark.parametrize("loop", list(BACKENDS))
def test_written_after_the_loop(loop: str) -> None:
    """A loop that ends leaves it to a thread: a program may go on without one."""
    queue = Queue[bytes]()
    name, options = BACKENDS[loop]
    count = anyio.run(aput_until_kept, queue, backend=name, backend_options=options)
    assert received(queue, count)


def test_let_go_of_when_nobody_can_read() -> None:
    """A queue that is closed by the only process that has it: what was kept is dropped, without a word."""
    queue = Queue[bytes]().sync
    put_until_kept(queue)
    queue.close()
    queue.join_thread()
    for thread in threading.enumerate():
        if thread.name == "aioproc feeder":
            thread.join(20)
    assert not queue._store.backlog.kept


@pytest.mark.leaks_allowed
def test_written_in_the_next_loop() -> None:
    """A loop that is closed with tasks that were not cancelled does not hold up the next."""
    queue = Queue[bytes]()
    loop = asyncio.new_event_loop()
    count = loop.run_until_complete(aput_until_kept(queue))
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()
    asyncio.run(queue.put(ITEM))
    assert received(queue, count + 1)


@pytest.mark.parametrize("make", QUEUES)
def test_forgotten_when_nobody_can_read(make: Callable[[], Any]) -> None:
    """What a forgotten queue kept is let go of once no other process can read it."""
    queue = make().sync
    put_until_kept(queue)
    (feeder,) = [thread for thread in threading.enumerate() if thread.name == "aioproc feeder"]
    del queue
    gc.collect()
    feeder.join(20)
    assert not feeder.is_alive()


@pytest.mark.parametrize("make", QUEUES)
def test_what_is_kept_may_be_closed(make: Callable[[], Any]) -> None:
    """Descriptors of an item that waits for room arrive, though whoever put it has closed or forgotten it."""
    queue = make()
    count = put_until_kept(queue)
    here, there = Pipe()
    many = [Pipe()[0] for _ in range(20)]
    queue.put_nowait(there)
    there.close()
    queue.put_nowait(many)
    del many
    for _ in range(count):
        queue.get_nowait()
    queue.get_nowait().sync.send("hello")
    assert here.sync.recv() == "hello"
    assert len(queue.get_nowait()) == 20
    queue._store.backlog.flush_blocking(10)


@pytest.mark.parametrize("make", QUEUES)
def test_kept_without_a_free_descriptor(make: Callable[[], Any]) -> None:
    """An item that waits for room needs descriptors of its own; without one the put fails, and only that."""
    queue = make()
    count = put_until_kept(queue)
    many = [Pipe()[0] for _ in range(20)]
    with spare_descriptors(4):
        with pytest.raises(OSError, match="open files"):
            queue.put_nowait(many)
        queue.put_nowait("last")
    items = [queue.get_nowait() for _ in range(count + 1)]
    assert items[-1] == "last"
    assert queue.qsize() == 0


@pytest.mark.parametrize("look", [Queue.qsize, Queue.empty])
def test_counted_once_while_it_is_written(
    look: Callable[[Any], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a thread has just written, and not yet struck off what is kept, counts once."""
    queue, written, looked = Queue[bytes](), threading.Event(), threading.Event()
    real = Channel.send

    def send(channel: Channel, *packed: Any) -> None:
        real(channel, *packed)
        if threading.current_thread() is not threading.main_thread():
            written.set()
            looked.wait(0.3)  # which it is only where nothing holds it up

    monkeypatch.setattr(Channel, "send", send)
    count = put_until_kept(queue)
    found = [queue._store.reader.receive() for _ in range(count - 1)]
    assert written.wait(20)
    found.append(queue._store.reader.receive())
    assert look(queue) == (0 if look is Queue.qsize else True)
    looked.set()
    assert found == [ITEM] * count


def test_counted_while_some_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """The size of an unbounded joinable queue can be asked for while something waits for room."""
    monkeypatch.setattr(Backlog, "_start_thread", lambda self: None)  # a get writes
    queue = JoinableQueue[bytes]()
    count = put_until_kept(queue)
    assert queue.qsize() == count
    for left in reversed(range(count)):
        queue.get_nowait()
        assert queue.qsize() == left


@pytest.mark.parametrize("make", QUEUES)
def test_kept_without_a_thread(make: Callable[[], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nobody could write what must wait, the put fails, and the item is not put."""

    def no_thread(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    queue, count = make(), 0
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", no_thread)
        with pytest.raises(RuntimeError, match="can't start new thread"):
            while True:
                queue.sync.put(ITEM)
                count += 1
    assert queue.qsize() == count
    for _ in range(count):
        queue.get_nowait()
    queue.sync.put("next")
    assert queue.get_nowait() == "next"
    assert queue.qsize() == 0


@pytest.mark.parametrize("make", QUEUES)
def test_many_are_kept_without_a_free_descriptor(
    make: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many items wait for room, they take no descriptor each; nor does it take any to write them."""
    monkeypatch.setattr(Backlog, "_start_thread", lambda self: None)  # this test writes
    queue = make()
    many = [Pipe()[0] for _ in range(20)]
    with spare_descriptors(200):
        count = put_until_kept(queue)
        queue.put_nowait(many)
        for number in range(500):
            queue.put_nowait(number)
        for _ in range(count):
            assert queue.get_nowait() == ITEM
        with spare_descriptors(0):
            queue._store.pump()
            assert len(queue._store.backlog.kept) < 500
    assert len(queue.get_nowait()) == 20
    assert [queue.get_nowait() for _ in range(500)] == list(range(500))
    assert queue.qsize() == 0


class Releases:
    """A lock that does something when it was released by the feeder with nothing left to write."""

    def __init__(self, queue: Any, at: int) -> None:
        self._lock = threading.Lock()
        self._queue = queue
        self._left = at
        self.put = 0

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self._lock.release()
        if threading.current_thread().name == "aioproc feeder" and not self._queue._store.backlog.kept:
            self._left -= 1
            if self._left == 0:
                self.put += put_until_kept(self._queue)


@pytest.mark.parametrize("at", [1, 2])
def test_kept_while_the_feeder_ends(at: int) -> None:
    """A thread that puts just when the feeder has found nothing left: the item is not left lying."""
    queue = Queue[bytes]().sync
    releases: Any = Releases(queue, at)
    queue._store.backlog._lock = releases
    count = put_until_kept(queue)
    assert received(queue, count)
    feeders = [thread for thread in threading.enumerate() if thread.name == "aioproc feeder"]
    for feeder in feeders:
        feeder.join(1)
    assert releases.put
    assert received(queue, releases.put)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_written_at_the_end_of_a_program(backend: str) -> None:
    """A program puts more than the kernel takes and ends; a child that it waits for gets all of it."""
    with program("leaver", backend, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as leaver:
        assert leaver.communicate(timeout=LIMIT_SECONDS) == ("20000 items\n", "")


@pytest.mark.parametrize("start", ["", "threading.Thread.start = refuse"], ids=["thread", "no thread"])
@pytest.mark.parametrize(
    "last", ["", "queue.cancel_join_thread(); readable = os.dup(reader)"], ids=["all", "lost"]
)
def test_a_program_that_nobody_reads_from_ends(start: str, last: str) -> None:
    """What is kept holds up the end of a program only while somebody may read it, unless it may be lost."""
    code = f"""
import os, threading, aioproc
def refuse(thread):
    raise RuntimeError("can't create new thread at interpreter shutdown")
queue = aioproc.Queue().sync
reader = queue._store.reader.handle.fileno()
while not queue._store.backlog.kept:
    queue.put(bytes(30_000))
{start}
{last}
"""
    command = [sys.executable, "-c", code]
    assert not subprocess.run(command, cwd=ROOT, timeout=LIMIT_SECONDS, stderr=subprocess.DEVNULL).returncode
