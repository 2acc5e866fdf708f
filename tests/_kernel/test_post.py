"""Addressed messages: what may bring descriptors is announced, all else received by the cheaper call."""

from __future__ import annotations

from typing import Any

import pytest

from aioproc import Lock
from aioproc._kernel.channel import channel
from aioproc._kernel.parcel import pack
from aioproc._kernel.post import Post
from aioproc._kernel.wire import Kind, Letter, addressed, signal_of
from tests.system_calls import system_calls


@pytest.fixture
def ends() -> Any:
    """A worker's end of a channel home, and the pool's."""
    worker, pool = (Post(end, announced=True) for end in channel())
    yield worker, pool
    worker.close()
    pool.close()


def test_only_what_is_announced_is_received_with_room_for_descriptors(ends: tuple[Post, Post]) -> None:
    """Results of both kinds arrive whole, in any order."""
    worker, pool = ends
    results = [1, Lock(), "two", 3.0, Lock(), Lock(), None]
    for number, result in enumerate(results):
        worker.send(addressed(pack(result), Kind.DONE, number))
    with system_calls() as found:
        arrived = [pool.receive() for _ in results]
    assert [message.task for message in arrived] == [*range(len(results))]
    assert [type(message.open()) for message in arrived] == [type(result) for result in results]
    announced, plain = ["recv_into", "recvmsg_into"], ["recv_into"]
    first, *others = [call for call in found if call.startswith("recv")]
    assert first == "recvmsg_into"  # which nothing could have announced
    assert others == [*announced, *plain, *plain, *announced, *announced, *plain]


def test_announced_twice(ends: tuple[Post, Post]) -> None:
    """A letter that did not fit at first is announced again, with others in between."""
    worker, pool = ends
    letter = addressed(pack(Lock()), Kind.DONE, 2)
    assert isinstance(letter, Letter)
    worker.send(signal_of(Kind.LETTER_FOLLOWS))
    for mail in (signal_of(Kind.STOPPED, 1), letter, signal_of(Kind.STOPPED, 3)):
        worker.send(mail)
    before, found, after = (pool.receive() for _ in range(3))
    assert (before.task, found.task, after.task) == (1, 2, 3)
    assert isinstance(found.open(), Lock)


def test_first_message_may_bring_descriptors_unannounced() -> None:
    """The last word of a child that could not begin comes from who announces nothing."""
    end, other = channel()
    pool = Post(other, announced=True)
    end.send(pack(Lock()))
    message = pool.receive()
    assert message.kind == Kind.LAST_WORD
    assert isinstance(message.open(), Lock)
    end.close()
    pool.close()


def test_the_end_of_one_who_had_not_read_all(ends: tuple[Post, Post]) -> None:
    """What a worker sent before its death is received, though it left something unread."""
    worker, pool = ends
    for number in (1, 2):
        worker.send(signal_of(Kind.STOPPED, number))
    pool.send(signal_of(Kind.CREDIT, 1))
    worker.close()
    assert [pool.receive().task for _ in range(2)] == [1, 2]
    with pytest.raises(EOFError):
        pool.receive()


def test_sending_to_one_who_had_not_read_all(ends: tuple[Post, Post]) -> None:
    """It is told that nobody can receive."""
    worker, pool = ends
    pool.send(signal_of(Kind.CREDIT, 1))
    worker.close()
    with pytest.raises(BrokenPipeError):
        pool.send(signal_of(Kind.CREDIT, 1))
