"""Arguments that cannot be: refused at once, by name and value, with the stdlib's types."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from typing import Any

import pytest

import aioproc

NUMBERS = {
    "maxsize": (aioproc.Queue, aioproc.JoinableQueue),
    "value": (aioproc.Semaphore, aioproc.BoundedSemaphore),
    "parties": (aioproc.Barrier,),
    "processes": (aioproc.AsyncPool,),
    "n": (lambda n: aioproc.Semaphore().release(n),),
}
MAKERS = [(name, make) for name, makers in NUMBERS.items() for make in makers]


@pytest.mark.parametrize(("name", "make"), MAKERS)
@pytest.mark.parametrize("value", [1.5, "2", [3]])
def test_not_a_number(name: str, make: Callable[[Any], object], value: Any) -> None:
    """What is no integer is a TypeError that says which argument, and what it was."""
    with pytest.raises(TypeError) as caught:
        make(value)
    assert str(caught.value) == f"{name} must be an integer, not {value!r}"


@pytest.mark.parametrize(("name", "make"), [one for one in MAKERS if one[0] != "maxsize"])
def test_too_small(name: str, make: Callable[[Any], object]) -> None:
    """A number below its least is a ValueError that says the least, and what it was."""
    least = 0 if name == "value" else 1
    with pytest.raises(ValueError, match=f"^{name} must be {least} or more, not -1$"):
        make(-1)


def test_numbers_of_other_kinds() -> None:
    """What can stand for an integer may: a bool, a number of numpy."""
    numpy = pytest.importorskip("numpy")
    queue = aioproc.Queue[int](numpy.int64(2)).sync
    queue.put_many([1, 2])
    with pytest.raises(aioproc.QueueFull):
        queue.put(3, block=False)
    assert aioproc.Barrier(True).parties == 1
    assert queue.get_many(numpy.int8(5)) == [1, 2]


@pytest.mark.parametrize("kind", ["Queue", "JoinableQueue", "SimpleQueue"])
def test_a_twin_has_the_names_of_the_stdlib(kind: str) -> None:
    """Who hands over what he puts, and when to give up, by name, may do so here as well."""
    for queue in (getattr(aioproc, kind)().sync, getattr(multiprocessing, kind)()):
        queue.put(obj=1)
        assert queue.get() == 1
        if kind != "SimpleQueue":
            queue.put(obj=2, block=False, timeout=None)
            queue.put_nowait(obj=3)
            assert [queue.get(block=True, timeout=10) for _ in range(2)] == [2, 3]
            queue.close()
            queue.join_thread()


@pytest.mark.anyio
async def test_get_many_of_none(anyio_backend: Any) -> None:
    """At least one item can be taken, so fewer cannot be asked for; nothing is taken."""
    queue: aioproc.Queue[int] = aioproc.Queue()
    await queue.put(1)
    for most in (0, -1):
        with pytest.raises(ValueError, match=f"most must be 1 or more, not {most}"):
            await queue.get_many(most)
        with pytest.raises(ValueError, match=f"most must be 1 or more, not {most}"):
            queue.sync.get_many(most)
    assert await queue.get_many(1) == [1]


@pytest.mark.anyio
@pytest.mark.parametrize("maxsize", [0, 2])
async def test_a_closed_queue_says_so(anyio_backend: Any, maxsize: int) -> None:
    """Each operation in the same words."""
    queue: aioproc.Queue[int] = aioproc.Queue(maxsize)
    await queue.put(1)
    queue.close()
    for use in (queue.sync.put, queue.sync.get_many, queue.put_nowait):
        with pytest.raises(ValueError, match="the queue is closed in this process"):
            use(2)
    for wait in (queue.put, queue.get_many):
        with pytest.raises(ValueError, match="the queue is closed in this process"):
            await wait(2)


@pytest.mark.parametrize("lock", [5, multiprocessing.Lock()])
def test_condition_of_another_lock(lock: Any) -> None:
    """A Condition needs one of ours, and says so."""
    with pytest.raises(TypeError, match="a Lock or an RLock of aioproc, not"):
        aioproc.Condition(lock)


@pytest.mark.parametrize("timeout", ["1", float("nan"), -1])
def test_seconds(timeout: Any) -> None:
    """A time limit that is none is refused by name and value."""
    pool = aioproc.AsyncPool(1)
    with pytest.raises((TypeError, ValueError), match=f"timeout must be a number of seconds.*{timeout}"):
        pool.options(timeout=timeout)
