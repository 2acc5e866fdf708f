"""What travels to a pool's workers and back: connections, large arrays, and what finds no descriptor."""

from __future__ import annotations

import errno
import os
import resource
import signal
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any

import anyio
import numpy as np
import pytest

import aioproc
from aioproc import AsyncPool
from tests import tasks

pytestmark = pytest.mark.anyio


@pytest.fixture
async def pool() -> AsyncIterator[AsyncPool]:
    """A pool of two workers, which run."""
    async with AsyncPool(2) as pool:
        await pool.apply(tasks.square, (1,))
        await all_idle(pool, 2)
        yield pool


async def all_idle(pool: AsyncPool, count: int) -> None:
    """Until so many workers run and have nothing to do."""
    with anyio.fail_after(20):
        while [worker.state for worker in pool.stats().workers] != ["idle"] * count:
            await anyio.sleep(0.005)


async def test_connections_travel(pool: AsyncPool) -> None:
    """The end of a Pipe may be an argument, for either kind of function, and a result."""
    here, there = aioproc.Pipe()
    async with here, there:
        await pool.apply(tasks.tell, (there, "hello"))
        await pool.apply(tasks.tell_later, (there, "again"))
        assert [await here.recv(), await here.recv()] == ["hello", "again"]
    async with await pool.apply(tasks.pipe_that_holds, ("from a worker",)) as theirs:
        assert await theirs.recv() == "from a worker"


@contextmanager
def no_free_descriptor() -> Iterator[None]:
    """While inside, this process can open nothing."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.dup(0)
    os.close(lowest)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


async def test_no_free_descriptor(pool: AsyncPool) -> None:
    """What comes with a descriptor fails by itself, and says why; every other call is answered."""
    array = np.ones(100_000)
    with no_free_descriptor():
        good = [pool.submit(tasks.square, number) for number in range(20)]
        bad: list[aioproc.AsyncResult[Any]] = [
            pool.submit(tasks.pipe_that_holds, "lost"),
            pool.submit(np.ones, 100_000),
            pool.submit(tasks.total, array),
        ]
        for result in bad:
            with anyio.fail_after(10), pytest.raises(OSError) as caught:
                await result
            assert caught.value.errno == errno.EMFILE
        assert [await result for result in good] == [number**2 for number in range(20)]
    async with await pool.apply(tasks.pipe_that_holds, ("found",)) as theirs:
        assert await theirs.recv() == "found"
    assert await pool.apply(tasks.total, (array,)) == 100_001
    assert pool.stats().restarts == 0


async def test_no_free_descriptor_for_a_new_worker(pool: AsyncPool) -> None:
    """A worker that cannot be replaced for now is missed by nobody; a later call starts it again."""
    with no_free_descriptor():
        os.kill(pool.stats().workers[0].pid or 0, signal.SIGKILL)
        await all_idle(pool, 1)
        assert await pool.map(tasks.square, range(20), 1) == [number**2 for number in range(20)]
    assert await pool.apply(tasks.square, (3,)) == 9
    await all_idle(pool, 2)


async def test_large_messages_hold_up_no_loop(pool: AsyncPool) -> None:
    """Tens of MB are copied in a thread, on their way out and back: the loop's own has little to do."""
    array, data = np.ones(6_000_000), os.urandom(1 << 20) * 48
    await pool.apply(tasks.total, (array,))
    before = time.thread_time()
    back, data_back = await pool.apply(tasks.give, (array,)), await pool.apply(tasks.give, (data,))
    assert time.thread_time() - before < 0.02
    assert (back.sum(), data_back == data) == (6_000_000, True)


async def test_cancelled_while_it_is_copied() -> None:
    """A call with a large argument that is cancelled at once never starts, and the pool can end."""
    async with AsyncPool(1) as pool:
        result = pool.submit(len, bytes(40 << 20))
        assert result.cancel()
        assert await pool.apply(tasks.square, (3,)) == 9
    pool = AsyncPool(1)
    result = pool.submit(len, bytes(40 << 20))
    pool.terminate()
    await pool.join()
    assert result.cancelled()


async def test_each_call_of_a_broken_pool_raises_its_own() -> None:
    """A traceback does not grow with each call that meets the same failure."""
    async with AsyncPool(2, initializer=tasks.fail, initargs=("no",)) as pool:
        failures = []
        for _ in range(3):
            with pytest.raises(aioproc.WorkerDied, match="initializer raised LookupError: no") as caught:
                await pool.apply(tasks.square, (1,))
            assert isinstance(caught.value.__cause__, LookupError)
            failures.append(caught.value)
        assert len({id(failure) for failure in failures}) == 3
