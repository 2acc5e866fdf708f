"""Large payloads: out of band, writable on arrival, freed by the kernel, and never in the loop's way."""

from __future__ import annotations

import asyncio
import gc
import os
import resource
import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import anyio
import anyio.lowlevel
import numpy as np
import pytest

import aioproc
from aioproc import Pipe, Queue
from aioproc._kernel import backlog, bundle
from aioproc._kernel.channel import Channel, opened
from aioproc._kernel.handle import Handle
from aioproc._kernel.intake import _Opening
from tests.conftest import BACKENDS
from tests.crash.killing import died, forked
from tests.local import queue_children as children
from tests.shared import Wire, become_another_user, spare_descriptors

pytestmark = pytest.mark.anyio

MB = 1_000_000
GAP_SECONDS = 0.02


def memory_files() -> int:
    """How many files in memory this process holds, open or mapped."""
    with open("/proc/self/maps") as maps:
        mapped = sum("memfd:aioproc" in line for line in maps)
    links = []
    for fd in os.listdir("/proc/self/fd"):
        try:
            links.append(os.readlink(f"/proc/self/fd/{fd}"))
        except OSError:
            pass
    return mapped + sum("memfd:aioproc" in link for link in links)


async def test_arrays_arrive_writable_and_apart() -> None:
    """An array can be changed on arrival, and the sender's stays as it was."""
    queue: Queue[Any] = Queue()
    sent: Any = {"a": [np.arange(MB), bytearray(200_000)], "b": (bytes(170_000), np.arange(3), "x" * 170_000)}
    await queue.put(sent)
    sent["a"][0][:] = 0  # put has its own copy by now
    got = await queue.get()
    assert (got["a"][0] == np.arange(MB)).all()
    assert (got["b"][0], got["b"][2]) == (bytes(170_000), "x" * 170_000)
    assert got["a"][0].ctypes.data % 64 == 0
    got["a"][0][0] = got["a"][1][0] = 7
    assert memory_files()
    del got
    assert not memory_files()


@pytest.mark.parametrize(("kind", "maxsize"), [("array", 2), ("bytes", 0), ("bytearray", 0), ("nested", 2)])
async def test_the_loop_goes_on(kind: str, maxsize: int) -> None:
    """100 MB there and back hold up another task for less than 20 ms, on both sides."""
    makers: dict[str, Any] = {
        "array": lambda: np.ones(100 * MB // 8),
        "bytes": lambda: bytes(100 * MB),
        "bytearray": lambda: bytearray(100 * MB),
        "nested": lambda: {"a": [bytes(50 * MB), (np.ones(50 * MB // 8), bytearray(100))]},
    }
    item = makers[kind]()
    there, back = Queue[Any](maxsize), Queue[Any](maxsize)
    wire = Wire()
    process = aioproc.Process(target=children.aecho_ticking, args=(there, back, wire))
    await process.start()
    ticks = children.Ticks()
    kept: list[Any] = []
    async with anyio.create_task_group() as group:
        group.start_soon(ticks.run)
        for _ in range(2):
            await there.put(item)
            kept.append(await back.get())  # to free it takes time too, but that is the user's
        group.cancel_scope.cancel()
    there.shutdown()
    theirs = await wire.ahear()
    await process.join()
    assert min(ticks.longest, ticks.second) < GAP_SECONDS
    assert min(theirs) < GAP_SECONDS


async def test_never_fetched_is_freed() -> None:
    """What nobody takes, and what a killed receiver had, takes no memory once the queue is gone."""
    queue: Queue[Any] = Queue()
    for _ in range(5):
        await queue.put(np.ones(MB))
    del queue
    assert not memory_files()


async def test_a_cancelled_get_of_much_loses_nothing() -> None:
    """Cancelled while a thread opens the item: the next get of this process has it."""
    queue: Queue[Any] = Queue()
    for number in range(10):
        await queue.put((number, bytes(5 * MB)))
        got: list[Any] = []
        while not got:
            with anyio.move_on_after(0.0005 * number):
                got.append(await queue.get())
        assert got[0] == (number, bytes(5 * MB))
    assert queue.empty()


class Gate:
    """An item that is unpickled when the gate is opened; it becomes the thread that did."""

    begun, opens = threading.Event(), threading.Event()

    def __reduce__(self) -> tuple[Any, ...]:
        return _pass, ()


def _pass() -> int:
    Gate.begun.set()
    assert Gate.opens.wait(20)
    return threading.get_ident()


async def test_what_cancelled_gets_give_back_is_in_order() -> None:
    """Whichever thread is ready first."""
    queue = Queue[bytes]()
    items = [bytes([number]) * 6_000_000 for number in range(3)]
    await queue.put_many(items)
    openings = [_Opening(queue._store, queue._store.take(), opened) for _ in items]  # type: ignore[arg-type]
    for opening in (openings[2], openings[0], openings[1]):
        opening.run()
        opening.leave()
    assert await queue.get_many(3) == items


@pytest.mark.parametrize("maxsize", [0, 5])
async def test_large_items_among_many(maxsize: int, anyio_backend_name: str) -> None:
    """Who asks for many has them opened in a thread; cancelled meanwhile, it or the next has all."""
    queue: Queue[Any] = Queue(maxsize)
    for item in (1, 2, [Gate(), bytes(5 * MB)], 3):
        await queue.put(item)
    Gate.begun.clear()
    Gate.opens.clear()
    found: list[Any] = []

    async def take() -> None:
        task = None if anyio_backend_name == "trio" else asyncio.current_task()
        cancel.append(group.cancel_scope.cancel if task is None else task.cancel)
        found.extend(await queue.get_many(10))

    cancel: list[Callable[[], object]] = []
    async with anyio.create_task_group() as group:
        group.start_soon(take)
        await anyio.to_thread.run_sync(Gate.begun.wait)
        cancel[0]()
        Gate.opens.set()
    first, second, (thread, data), third = found or await queue.get_many(10)
    assert (first, second, third) == (1, 2, 3)
    assert thread != threading.get_ident()
    assert len(data) == 5 * MB


async def test_hundreds_of_descriptors_in_one_item() -> None:
    """An item may hold more connections than a packet may carry descriptors."""
    queue: Queue[Any] = Queue()
    ends = [Pipe() for _ in range(300)]
    await queue.put([there for _, there in ends])
    arrived = await queue.get()
    for number, connection in enumerate(arrived):
        await connection.send(number)
    assert [await here.recv() for here, _ in ends] == list(range(300))


async def test_never_received_leaks_nothing() -> None:
    """Hundreds of queues inside a queue that nobody reads are gone with it."""
    before = len(os.listdir("/proc/self/fd"))
    queue: Queue[Any] = Queue()
    for _ in range(200):
        await queue.put([Queue[int](), Pipe()[0]])
    for _ in range(100):
        await queue.get()
    queue.close()
    del queue
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("maxsize", [0, 5])
async def test_no_free_descriptor(maxsize: int) -> None:
    """Without a free descriptor put and get raise OSError, and nothing is lost."""
    queue: Queue[Any] = Queue(maxsize)
    large = np.ones(MB)
    many = [Pipe()[0] for _ in range(40)]
    await queue.put(large)
    await queue.put(many)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken: list[int] = []
    gc.collect()
    gc.disable()  # it would free descriptors in between
    resource.setrlimit(resource.RLIMIT_NOFILE, (400, limits[1]))
    try:
        while True:
            taken.append(os.dup(0))
    except OSError:
        pass
    try:
        for _ in range(3):
            with pytest.raises(OSError, match=r"descriptor|open files"):
                await queue.get()
            with pytest.raises(OSError, match=r"descriptor|open files"):
                await queue.put(large)
        for _ in range(25):
            os.close(taken.pop())
        assert (await queue.get()).size == MB
        for _ in range(2):
            with pytest.raises(OSError, match="descriptor"):
                await queue.get()
    finally:
        gc.enable()
        for fd in taken:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert len(await queue.get()) == 40
    assert queue.qsize() == 0


@pytest.mark.parametrize("maxsize", [0, 50])
async def test_no_free_descriptor_for_more(maxsize: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who asks for many items gets those for which there were descriptors; the others stay."""
    queue: Queue[Any] = Queue(maxsize)
    for number in range(30):
        await queue.put((number, Pipe()))
    with spare_descriptors(40):
        monkeypatch.setattr(bundle, "free_until", 0.0)
        found = await queue.get_many(30)
        assert 0 < len(found) < 30
        with pytest.raises(OSError, match="descriptor"):
            await queue.get_many(30)
    found += queue.sync.get_many(30)
    assert [number for number, _ in found] == list(range(30))


@pytest.mark.parametrize("counts", [True, False], ids=["newer", "before Linux 6.2"])
async def test_one_low_descriptor_is_free(counts: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where one is free far below the limit, and all above are taken, two that come along are not lost."""
    if not counts:
        monkeypatch.setattr(bundle, "lstat", lambda path: SimpleNamespace(st_size=0))
    queue: Queue[Any] = Queue()
    await queue.put(Pipe())
    low = os.dup(0)
    others = [os.dup(0) for _ in range(200)]
    with spare_descriptors(0):
        os.close(low)
        monkeypatch.setattr(bundle, "free_until", 0.0)
        with pytest.raises(OSError, match="descriptor"):
            await queue.get()
    bundle.close_all(others)
    here, there = await queue.get()
    await here.send("hello")
    assert await there.recv() == "hello"


async def test_very_many_buffers() -> None:
    """A packet tells how long each large buffer is; beyond that they lie in the pickle."""
    queue: Queue[Any] = Queue()
    arrays = [np.full(8 + number % 2, number % 100, np.uint8) for number in range(20_000)]
    with patch("aioproc._kernel.parcel.OUT_OF_BAND_BYTES", 8):
        await queue.put(arrays)
    arrived = await queue.get()
    assert all((one == other).all() for one, other in zip(arrays, arrived, strict=True))


async def test_what_cannot_be_mapped() -> None:
    """When a large item cannot be mapped, its get fails, and no descriptor that came along stays open."""
    queue: Queue[Any] = Queue()
    await queue.put([np.ones(MB), Pipe()])
    with patch("mmap.mmap", side_effect=MemoryError):
        before = len(os.listdir("/proc/self/fd"))
        with pytest.raises(MemoryError):
            await queue.get()
        assert len(os.listdir("/proc/self/fd")) == before


class Unpicklable:
    def __reduce__(self) -> Any:
        raise TypeError("this one is not for travelling")


class Bomb:
    """Raises when it is unpickled."""

    def __init__(self, error: type[BaseException] = ValueError) -> None:
        self._error = error

    def __reduce__(self) -> Any:
        return _explode, (self._error,)


def _explode(error: type[BaseException]) -> None:
    raise error("unpickled")


@pytest.mark.parametrize("maxsize", [0, 2])
@pytest.mark.parametrize("kind", [aioproc.Queue, aioproc.JoinableQueue])
async def test_what_cannot_be_pickled_is_refused(kind: Any, maxsize: int) -> None:
    """The put names it; the queue works on and has all its places."""
    queue = kind(maxsize)
    for _ in range(3):
        with pytest.raises(Exception, match="Unpicklable"):
            await queue.put(["x", Unpicklable()])
        with pytest.raises(Exception, match="Unpicklable"):
            queue.sync.put_nowait(Unpicklable())
    await queue.put(1)
    assert (await queue.get(), queue.qsize()) == (1, 0)


@pytest.mark.parametrize("maxsize", [0, 8])
@pytest.mark.parametrize("error", [ValueError, BlockingIOError, TimeoutError, EOFError])
async def test_what_cannot_be_unpickled_raises_there_alone(maxsize: int, error: Any) -> None:
    """Whatever unpickling raises comes out of that get, and the next item out of the next."""
    queue: Queue[Any] = Queue(maxsize)
    await queue.put_many([1, Bomb(error), 2, 3, Bomb(error), 4])
    assert await queue.get() == 1
    with pytest.raises(error, match="unpickled"):
        await queue.get(timeout=5)
    assert await queue.get_many(5) == [2, 3]
    with pytest.raises(error, match="unpickled"):
        queue.sync.get()
    assert await queue.get() == 4
    assert queue.empty()


async def test_functions_by_value() -> None:
    """A lambda goes through, by cloudpickle."""
    queue: Queue[Any] = Queue()
    factor = 3
    await queue.put(lambda x: x * factor)
    assert (await queue.get())(2) == 6


@pytest.mark.skipif(os.geteuid() != 0, reason="the limit is not for root, and only root can become another")
@pytest.mark.parametrize("maxsize", [0, 300])
@pytest.mark.parametrize("twin", [False, True], ids=["async", "twin"])
@pytest.mark.parametrize("loop", BACKENDS)
def test_too_many_descriptors_in_flight(
    loop: str, maxsize: int, twin: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is too much for its user is kept by a queue, without polling; where that is no use, an OSError."""
    attempts = 0

    def counted(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            nonlocal attempts
            attempts += 1
            return function(*args)

        return call

    async def main() -> None:
        with pytest.raises(aioproc.QueueEmpty):
            await Queue().get(timeout=0.001)  # all that is imported late is there
        become_another_user()
        resource.setrlimit(resource.RLIMIT_NOFILE, (192, 192))
        queue, another, pipe = Queue[Any](maxsize), Queue[Any](), Pipe()
        for number in range(210):
            if twin:
                queue.sync.put((number, bytes(200_000)))
            else:
                await queue.put((number, bytes(200_000)))
        assert 0 < len(queue._store.backlog.kept) < 50
        with pytest.raises(OSError, match="in flight"):
            await another.put(bytes(200_000))
        with pytest.raises(OSError, match="in flight"):
            await pipe[0].send(bytes(200_000))
        many = [Handle(os.dup(0)) for _ in range(17)]  # which go along as one that holds them
        await queue.put((210, many))
        with pytest.raises(OSError, match="in flight"):
            await another.put(many)
        bundle.close_all(handle.detach() for handle in many)
        await anyio.wait_all_tasks_blocked()
        before = attempts
        await anyio.sleep(0.1)
        assert attempts - before < 5
        assert [(await queue.get())[0] for _ in range(211)] == list(range(211))
        await queue.flush()

    def in_loop() -> None:
        backend, options = BACKENDS[loop]
        anyio.run(main, backend=backend, backend_options=options)

    for place, name in ((Channel, "send"), (backlog, "crowded")):
        monkeypatch.setattr(place, name, counted(getattr(place, name)))
    assert not died(forked(in_loop))
