"""Pipe, Connection and wait: whole messages, ends that are seen, and everything that can travel."""

from __future__ import annotations

import os
import socket
from multiprocessing import BufferTooShort
from multiprocessing import Pipe as StdlibPipe
from pathlib import Path
from typing import Any

import anyio
import pytest

import aioproc
from aioproc import Pipe, Queue, wait
from tests.crash.killing import forked
from tests.local import queue_children as children

pytestmark = pytest.mark.anyio


async def test_both_ways() -> None:
    """Each end sends and receives, by either face."""
    here, there = Pipe()
    await here.send({"a": 1})
    there.sync.send("b")
    assert await there.recv() == {"a": 1}
    assert here.sync.recv() == "b"
    assert (here.readable, here.writable, here.closed) == (True, True, False)
    assert here.sync.aio.fileno() == here.fileno()
    for end in (here, there):
        end.close()
        end.close()
    assert here.closed
    assert repr(here) == "<Connection closed>"
    with pytest.raises(OSError, match="closed"):
        await here.recv()


async def test_one_way() -> None:
    """Without duplex the first end only receives and the second only sends."""
    receiving, sending = Pipe(duplex=False)
    await sending.send(1)
    assert await receiving.recv() == 1
    for refused in (receiving.send(1), sending.recv(), sending.poll()):
        with pytest.raises(OSError, match="only"):
            await refused
    with pytest.raises(OSError, match="only"):
        sending.sync.recv()


async def test_the_end() -> None:
    """When the other end is gone, what was sent is received; then EOFError, and sending fails."""
    here, there = Pipe()
    await there.send(1)
    there.close()
    assert await here.poll()
    assert [item async for item in here] == [1]
    with pytest.raises(EOFError):
        here.sync.recv()
    with pytest.raises(BrokenPipeError):
        await here.send(2)


def no_more() -> None:
    """What a packet of `Unreadable` is opened by."""
    raise EOFError("the object is cut short")


class Unreadable:
    """Its unpickling raises EOFError."""

    def __reduce__(self) -> tuple[Any, ...]:
        return no_more, ()


@pytest.mark.parametrize(("unreadable", "message"), [(True, "cut short"), (False, "Ran out of input")])
async def test_an_end_of_file_within_an_object(unreadable: bool, message: str) -> None:
    """Iteration ends with the other end alone: EOFError of an object, or of no bytes at all, comes out."""
    here, there = Pipe()
    for _ in range(2):
        await (there.send(Unreadable()) if unreadable else there.send_bytes(b""))
        await there.send("after")
    there.close()
    with pytest.raises(EOFError, match=message):
        await anext(aiter(here))
    assert await here.recv() == "after"
    with pytest.raises(EOFError, match=message):
        next(iter(here.sync))
    assert [*here.sync] == ["after"]
    assert [item async for item in here] == []


@pytest.mark.parametrize("duplex", [True, False])
async def test_the_end_of_one_who_had_not_read_all(duplex: bool) -> None:
    """It is the same end whether or not the other one had received all that was sent to it."""
    for sync in (True, False):
        there, here = Pipe(duplex)
        await here.send("unread")
        if duplex:
            await there.send("the last word")
        there.close()
        if duplex:
            assert [*here.sync] if sync else [item async for item in here] == ["the last word"]
        with pytest.raises(BrokenPipeError):
            if sync:
                here.sync.send(1)
            else:
                await here.send(1)


async def test_poll() -> None:
    """poll says whether there is something, and waits as long as it is told."""
    here, there = Pipe()
    assert not await here.poll()
    assert not await here.poll(0.01)
    assert not here.sync.poll()
    async with anyio.create_task_group() as group:
        group.start_soon(there.send, 1)
        assert await here.poll(None)
    assert here.sync.poll()
    assert await here.recv() == 1


@pytest.mark.parametrize("size", [0, 1, 60_000, 131_072, 131_073, 6_000_000])
async def test_bytes(size: int) -> None:
    """Bytes of any size arrive as one message; too long a one stays."""
    here, there = Pipe()
    data = bytes(range(256)) * (size // 256) + bytes(size % 256)
    for _ in range(3):
        async with anyio.create_task_group() as group:
            group.start_soon(here.send_bytes, data)
            assert await there.recv_bytes() == data
    await here.send_bytes(b"x" + data + b"y", 1, size)
    if size:
        with pytest.raises(OSError, match="length"):
            await there.recv_bytes(size - 1)
        with pytest.raises(BufferTooShort) as short:
            there.sync.recv_bytes_into(bytearray(size - 1))
        assert short.value.args == (data,)
        await here.send_bytes(data)
    buffer = bytearray(size + 3)
    assert there.sync.recv_bytes_into(buffer, 3) == size
    assert buffer == bytes(3) + data


async def test_wrong_arguments_take_nothing() -> None:
    """What a receive refuses beforehand it refuses at once, and the message stays."""
    here, there = Pipe()
    for _ in range(2):  # with no message, and with one
        with pytest.raises(ValueError, match="negative maxlength"), anyio.fail_after(10):
            await there.recv_bytes(-1)
        with pytest.raises(ValueError, match="negative maxlength"):
            there.sync.recv_bytes(-1)
        for offset in (-1, 6):
            with pytest.raises(ValueError, match="offset"):
                there.sync.recv_bytes_into(bytearray(5), offset)
        with pytest.raises(TypeError, match="written"):
            there.sync.recv_bytes_into(b"12345")
        await here.send_bytes(b"hello")
    assert there.sync.recv_bytes() == b"hello"


async def test_a_message_that_came_back_is_measured() -> None:
    """Bytes that a cancelled receive gave back are not handed to who asked for fewer."""
    _here, there = Pipe()
    there._intake.give_back(b"hello")
    with pytest.raises(OSError, match="length"):
        await there.recv_bytes(4)
    assert await there.recv_bytes(5) == b"hello"


async def test_a_message_that_came_back_is_received() -> None:
    """What a cancelled receive gave back is the next one's, though nothing more comes."""
    _here, there = Pipe()
    for face in (there, there.sync):
        there._intake.give_back("hello")
        with anyio.fail_after(10):
            assert await there.poll()
            assert (await there.recv() if face is there else there.sync.recv()) == "hello"


def test_what_came_back_is_not_a_forked_childs() -> None:
    """A message that this process has taken and put back is not received by a forked child as well."""
    here, there = Pipe()
    queue = aioproc.Queue[str]()
    here.sync.send_bytes(b"hello")
    with pytest.raises(OSError, match="length"):
        there.sync.recv_bytes(1)
    queue._store.give_back("item")

    def look() -> None:
        assert not there.sync.poll()
        assert queue.empty()

    assert os.waitpid(forked(look), 0)[1] == 0
    assert (there.sync.recv_bytes(), queue.get_nowait()) == (b"hello", "item")


async def test_a_full_pipe_waits() -> None:
    """A send waits while the pipe is full, and a cancelled one was not sent."""
    here, there = Pipe()
    sent = 0
    with anyio.move_on_after(0.2) as scope:
        while True:
            await here.send(bytes(60_000))
            sent += 1
    assert scope.cancelled_caught
    here.close()
    assert len([item async for item in there]) == sent


async def test_what_travels_through_a_pipe() -> None:
    """Connections, queues, the stdlib's connections and sockets go through a pipe and work on."""
    here, there = Pipe()
    inner, outer = Pipe()
    queue: Queue[int] = Queue()
    left, right = StdlibPipe()
    one, two = socket.socketpair()
    await here.send([inner, inner.sync, queue, queue.sync, right, two])
    connection, twin, arrived, arrived_twin, theirs, sock = await there.recv()
    await connection.send(1)
    twin.send(2)
    assert [await outer.recv(), await outer.recv()] == [1, 2]
    await arrived.put(3)
    arrived_twin.put(4)
    assert [await queue.get(), await queue.get()] == [3, 4]
    theirs.send(5)
    sock.sendall(b"six")
    assert (left.recv(), one.recv(3)) == (5, b"six")
    for end in (left, right, theirs, one, two, sock):
        end.close()


async def test_in_a_child(start_method: str) -> None:
    """A connection is an argument like any other; when the child has ended, its end is gone."""
    here, there = Pipe()
    process = aioproc.get_context(start_method).Process(target=children.reply, args=(there.sync,))
    await process.start()
    there.close()
    await here.send("hello")
    assert await here.recv() == "olleh"
    with pytest.raises(EOFError):
        await here.recv()
    await process.join()


async def test_wait() -> None:
    """wait returns those that are ready: connections, queues, sentinels."""
    here, there = Pipe()
    queue: Queue[int] = Queue()
    process = aioproc.Process(target=children.until_told, args=(there.sync,))
    await process.start()
    everything: list[Any] = [here, queue, process.sentinel, queue.sync]
    assert await wait(everything, 0) == []
    assert wait.sync(everything, 0.01) == []
    await queue.put(1)
    assert await wait(everything) == [queue, everything[3]]
    assert wait.sync(everything) == [queue, everything[3]]
    await queue.get()
    await here.send("go")
    there.close()
    await process.join()
    assert await wait([here, process.sentinel]) == [here, process.sentinel]
    assert await wait([], 0) == []


async def test_many_wait_for_the_same() -> None:
    """More than the kernel would let wait through an epoll descriptor each, after which libuv aborts."""
    here, there = Pipe()
    queue: Queue[int] = Queue()
    found: list[list[Any]] = []

    async def one() -> None:
        found.append(await wait([there, queue]))

    async with anyio.create_task_group() as group:
        for _ in range(600):
            group.start_soon(one)
        await anyio.wait_all_tasks_blocked()
        await here.send(1)
    assert found == [[there]] * 600


@pytest.mark.parametrize("what", ["queue", "connection"])
@pytest.mark.parametrize("elsewhere", [False, True])
async def test_what_is_waited_for_is_closed(what: str, elsewhere: bool) -> None:
    """Who waits is told, as whoever begins to wait then, whichever thread closes it."""
    queue, (_here, there) = Queue[int](), Pipe()
    closed: Any = queue if what == "queue" else there
    closes = closed.close

    async def close() -> None:
        await anyio.wait_all_tasks_blocked()
        if elsewhere:
            await anyio.to_thread.run_sync(closes)
        else:
            closes()

    async with anyio.create_task_group() as group:
        group.start_soon(close)
        for _ in range(2):
            with pytest.raises((OSError, ValueError), match="closed"):
                await wait([queue, there])


@pytest.mark.parametrize("use", ["recv", "recv_bytes", "poll", "send"])
async def test_an_end_is_closed_that_is_in_use(use: str) -> None:
    """Who waits there has the error of a closed one, as whoever uses it later."""
    _here, there = Pipe()
    if use == "send":
        fill(there)
    arguments: dict[str, tuple[Any, ...]] = {"poll": (None,), "send": (bytes(60_000),)}

    async def wait_in_vain() -> None:
        with pytest.raises(OSError, match="handle is closed"):
            await getattr(there, use)(*arguments.get(use, ()))

    async with anyio.create_task_group() as group:
        group.start_soon(wait_in_vain)
        await anyio.wait_all_tasks_blocked()
        there.close()
    await wait_in_vain()


def fill(end: Any) -> None:
    """Send until nothing more fits."""
    with pytest.raises(BlockingIOError):
        while True:
            end._channel.send(bytes(60_000))


async def test_wait_for_what_came_back() -> None:
    """Somebody waits for what a cancelled get gives back to this process."""
    queue: Queue[int] = Queue()
    async with anyio.create_task_group() as group:

        async def give_back() -> None:
            await anyio.wait_all_tasks_blocked()
            queue._store.give_back_all([1])

        group.start_soon(give_back)
        assert await wait([queue]) == [queue]
    assert await queue.get() == 1


async def test_wait_for_what_cannot_be_waited_for() -> None:
    """The error names it and says what can."""
    for waits in (wait, wait.sync):
        with pytest.raises(ValueError, match="cannot wait for <object"):
            found: Any = waits([object()])
            await found


async def test_wait_for_a_file(tmp_path: Path) -> None:
    """A regular file and /dev/null are always ready, as for the stdlib, though epoll does not take them."""
    here, there = Pipe()
    await there.send(1)
    with open(tmp_path / "file", "w") as file, open(os.devnull) as null:
        assert await wait([file, here, null]) == [file, here, null]
        await here.recv()
        assert wait.sync([file, here, null]) == [file, null]
