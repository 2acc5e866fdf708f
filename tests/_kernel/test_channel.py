"""Packets are whole, in order, and carry buffers and descriptors."""

from __future__ import annotations

import os
import resource

import numpy as np
import pytest

from aioproc._kernel.channel import Channel, Crowded, channel, hold, opened_bytes, raw, seal
from aioproc._kernel.handle import Handle
from aioproc._kernel.parcel import pack
from tests.crash.killing import died, forked
from tests.shared import become_another_user


def test_objects_arrive_equal_and_in_order() -> None:
    """What is sent is received, small and large, and then the end."""
    left, right = channel()
    objects = [None, 1, "x" * 70_000, b"y" * 300_000, {"a": [1, 2]}]
    for obj in objects:
        left.send(pack(obj))
    assert [right.receive() for _ in objects] == objects
    with pytest.raises(BlockingIOError):
        right.receive()
    left.close()
    with pytest.raises(EOFError):
        right.receive()
    with pytest.raises(BrokenPipeError):
        right.send(pack(1))


@pytest.mark.parametrize("length", [32_767, 32_768, 65_536, 130_047, 130_048, 131_072, 131_073])
def test_bytes_of_any_length_arrive_equal(length: int) -> None:
    """Around the lengths from which bytes are not copied, and from which they travel in a file."""
    left, right = channel()
    data = os.urandom(length)
    left.send(pack(data))
    assert right.receive() == data


@pytest.mark.parametrize("bits", [8_191, 8_192, 1_048_000, 1_048_576, 9_000_000])
def test_ints_of_any_length_arrive_equal(bits: int) -> None:
    """An int may be longer than a packet, alone and among others."""
    left, right = channel()
    for obj in (1 << bits, -(1 << bits), (1, 1 << bits)):
        left.send(pack(obj))
        assert right.receive() == obj


def test_more_than_one_call_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is longer than the kernel reads in one call, which is 2 GiB, arrives whole."""
    pread = os.pread
    monkeypatch.setattr(os, "pread", lambda fd, length, at: pread(fd, min(length, 100_000), at))
    left, right = channel()
    left.send(pack("x" * 450_000))
    left.send(raw(b"y" * 450_000))
    assert right.receive() == "x" * 450_000
    assert opened_bytes(right.pull()) == b"y" * 450_000


def test_bytes_that_wait_for_room_are_not_copied() -> None:
    """Bytes of many KB lie in the packet as the object that they are: to keep them takes no memory."""
    data = bytes(40_000)
    packed = pack(data)
    assert not isinstance(packed, bytes)
    assert any(piece is data for piece in seal(packed))


@pytest.mark.parametrize("length", [10_000, 70_000, 100_000, 200_000])
def test_what_was_packed_is_what_it_was_then(length: int) -> None:
    """A bytearray that changes afterwards has been copied, whether it travels in the packet or in a file."""
    left, right = channel()
    data = bytearray(b"a" * length)
    packed = pack(data)
    if not isinstance(packed, bytes):
        seal(packed)
    data[:] = b"b" * length
    left.send(packed)
    assert right.receive() == b"a" * length


def test_large_arrays_arrive_writable() -> None:
    """An array's buffer travels beside the pickle and can be changed on arrival."""
    left, right = channel()
    sent = np.arange(1_000_000)
    left.send(pack({"array": sent}))
    got = right.receive()["array"]
    assert (got == sent).all()
    got[0] = 7
    assert sent[0] == 0


def test_descriptors_travel() -> None:
    """A handle inside an object arrives as a descriptor of its own."""
    left, right = channel()
    r, w = os.pipe()
    writer = Handle(w)
    left.send(pack(["x", writer, writer]))
    writer.close()
    text, first, second = right.receive()
    assert (text, first) == ("x", second)
    os.write(first.fileno(), b"z")
    assert os.read(r, 1) == b"z"
    os.close(r)


@pytest.mark.skipif(os.geteuid() != 0, reason="the limit is not for root, and only root can become another")
def test_many_descriptors_that_fail_half_way() -> None:
    """When no more of them may be in flight, none is left behind, and the next attempt sends each once."""

    def attempt() -> None:
        become_another_user()
        resource.setrlimit(resource.RLIMIT_NOFILE, (800, 800))
        (filler, drain), (left, right) = channel(), channel()
        own = [Handle(os.dup(0)) for _ in range(15)]
        some = pack(own)
        for _ in range(40):
            filler.send(some)
        many = pack([Handle(os.memfd_create("one of many")) for _ in range(300)])
        hold(many)
        for _ in range(2):
            with pytest.raises(Crowded):
                left.send(many)
        for _ in range(40):
            drain.receive()
        left.send(many)
        assert len({os.fstat(handle.fileno()).st_ino for handle in right.receive()}) == 300

    assert not died(forked(attempt))


def test_a_channel_travels_through_a_channel() -> None:
    """A channel's end can be an item of another channel."""
    left, right = channel()
    inner, other = channel()
    left.send(pack(inner))
    received: Channel = right.receive()
    received.send(pack("hello"))
    assert other.receive() == "hello"
