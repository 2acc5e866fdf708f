"""Primitives go where items go, and the contract that any queue must keep."""

from __future__ import annotations

import multiprocessing
import os
import socket
from typing import Any

import anyio
import pytest

import aioproc
from aioproc import BoundedSemaphore, JoinableQueue, Lock, Queue, Semaphore
from aioproc.testing import check_queue
from tests.crash.killing import died, forked
from tests.local import queue_children as children
from tests.shared import Wire, become_another_user, spare_descriptors

pytestmark = pytest.mark.anyio

ITEMS = 2000  # of a KB each: more than the kernel takes


@pytest.mark.parametrize("kind", [Queue, JoinableQueue])
async def test_contract(kind: Any) -> None:
    """Both kinds keep the contract that `check_queue` offers to other implementations."""
    await check_queue(kind)


async def test_a_queue_and_a_lock_through_a_queue(start_method: str) -> None:
    """A child gets another queue and a lock as items of a queue, and uses them."""
    mail: Queue[Any] = Queue(2)
    lock, answers = Lock(), JoinableQueue[Any](3)
    process = aioproc.get_context(start_method).Process(target=children.open_mail, args=(mail.sync,))
    await process.start()
    await lock.acquire()
    await mail.put((answers, lock))
    assert await answers.get() == "got it"
    with pytest.raises(aioproc.QueueEmpty):
        await answers.get(timeout=0.05)
    lock.release()
    assert await answers.get() == "locked"
    for _ in range(2):
        answers.task_done()
    with anyio.fail_after(10):
        await answers.join()
    await process.join()
    assert process.exitcode == 0


async def come_again(queue: Any) -> Any:
    """The same queue, which has come to this process in a message."""
    way: Queue[Any] = Queue()
    await way.put(queue)
    return await way.get()


@pytest.mark.parametrize("kind", [Queue, JoinableQueue])
async def test_what_comes_twice_is_one_producer(kind: Any) -> None:
    """A process's items stay in order, through whichever object of a queue it puts them; all are written."""
    queue = kind()
    other = await come_again(queue)
    for number in range(ITEMS):
        await (queue, other)[number % 2].put((number, bytes(1000)))
    assert queue._store.backlog.kept
    assert queue.qsize() == other.qsize() == ITEMS
    del queue
    other.shutdown()
    arrived = []
    async for number, _ in other:
        arrived.append(number)
        if kind is JoinableQueue:
            other.task_done()
    assert arrived == list(range(ITEMS))


async def test_one_of_two_is_closed() -> None:
    """What was put through it is written all the same, and before what is put through the other."""
    queue: Queue[Any] = Queue()
    other = await come_again(queue)
    for number in range(ITEMS):
        await other.put((number, bytes(1000)))
    other.close()
    await queue.put((ITEMS, b""))
    assert [(await queue.get())[0] for _ in range(ITEMS + 1)] == list(range(ITEMS + 1))
    await queue.put("last")
    assert await queue.get() == "last"
    with pytest.raises(ValueError, match="closed"):
        await other.put(1)


async def test_what_came_back_is_there_when_the_queue_comes_again() -> None:
    """An item that a cancelled get gave back is not forgotten with the object through which it was taken."""
    queue, way = Queue[str](), Queue[Any]()
    other = await come_again(queue)
    other._store.give_back("first")
    del other
    assert await queue.get() == "first"
    queue._store.give_back("second")
    await way.put(queue)
    del queue
    queue = await way.get()
    assert await queue.get() == "second"


@pytest.mark.parametrize("end", ["return", "close"])
async def test_what_came_back_and_its_process_ends(end: str) -> None:
    """An item that a cancelled get gave back goes to the end of the queue then; it is nobody's loss."""
    queue = Queue[Any]()
    await queue.put_many([b"x" * 200_000, "second"])
    await aioproc.Process(target=children.take_and_give_back, args=(queue.sync, end == "close"))
    assert await queue.get_many(3) == ["second", b"x" * 200_000]


@pytest.mark.parametrize("end", ["return", "close"])
async def test_what_came_back_and_the_queue_is_full(end: str) -> None:
    """A process that has only taken waits for nobody at its end."""
    queue, way = Queue[Any](), Queue[None]()
    await queue.put(b"x" * 200_000)
    args = (queue.sync, end == "close", way.sync)
    async with aioproc.Process(target=children.take_and_give_back, args=args) as process:
        while queue.qsize():
            await anyio.sleep(0.001)
        while not queue._store.backlog.kept:
            await queue.put(b"x" * 10_000)
        await way.put(None)
        with anyio.fail_after(30):
            await process.join()
        assert process.exitcode == 0
        for _ in range(queue.qsize()):
            await queue.get()


async def test_what_came_back_and_the_object_is_closed() -> None:
    """Another object for the queue has it first, in this process."""
    queue = Queue[str]()
    other = await come_again(queue)
    await queue.put("second")
    queue._store.give_back("first")
    queue.close()
    assert [await other.get(), await other.get()] == ["first", "second"]


async def test_closed_and_come_again() -> None:
    """A process that keeps a queue which it has closed gets a new one when that comes again."""
    queue, way = Queue[int](), Queue[Any]()
    async with aioproc.AsyncPool(1) as pool:
        for number in range(3):
            await pool.apply(children.send_on_and_close, (queue.sync, way.sync))
            with anyio.fail_after(30):
                sent_on = await way.get()
            sent_on.put(number)
    assert await queue.get_many(3) == [0, 1, 2]


async def test_tasks_are_in_the_hands_of_a_process() -> None:
    """A task may be done in a later call than it was taken in: nothing of the queue is left in between."""
    queue: JoinableQueue[str] = JoinableQueue()
    await queue.put("task")
    async with aioproc.AsyncPool(1) as pool:
        assert await pool.apply(children.take, (queue.sync,)) == "task"
        with anyio.move_on_after(0.05):
            await queue.join()
            pytest.fail("nobody has said that it is done")
        await pool.apply(children.say_done, (queue.sync,))
        with anyio.fail_after(10):
            await queue.join()
        with pytest.raises(ValueError, match="too many times"):
            await pool.apply(children.say_done, (queue.sync,))


async def test_done_after_close() -> None:
    """As in the stdlib, a task may be done when the queue is closed in this process; then it is closed."""
    queue: JoinableQueue[str] = JoinableQueue()
    other = await come_again(queue)
    await queue.put("task")
    await queue.get()
    queue.close()
    closed = [queue._store.ledger.gate.closed]
    queue.task_done()
    assert [*closed, queue._store.ledger.gate.closed] == [False, True]
    with anyio.fail_after(10):
        await other.join()
    with pytest.raises(ValueError, match="closed"):
        queue.task_done()


async def test_the_stdlibs_connection_beside_a_lambda() -> None:
    """What needs cloudpickle takes descriptors of sockets and of the stdlib's connections along."""
    queue: Queue[Any] = Queue()
    here, there = multiprocessing.Pipe()
    left, right = socket.socketpair()
    factor = 3
    await queue.put((lambda x: x * factor, there, right))
    there.close()
    right.close()
    function, connection, sock = await queue.get()
    with here, left, connection, sock:
        connection.send(function(2))
        assert here.recv() == 6
        sock.send(b"x")
        assert left.recv(1) == b"x"


async def test_a_consumer_that_dies_loses_its_tasks() -> None:
    """join() waits while somebody is at work, and raises TasksLost when nobody is any more."""
    queue: JoinableQueue[int] = JoinableQueue()
    await queue.put_many([1, 2, 3])
    process = aioproc.Process(target=children.take_two, args=(queue.sync,))
    await process.start()
    with anyio.fail_after(10):
        await process.join()
    with anyio.move_on_after(0.1) as scope:
        await queue.join()  # the third is still there
    assert scope.cancelled_caught
    assert await queue.get() == 3
    with anyio.move_on_after(0.1) as scope:
        await queue.join()  # and now in our hands
    assert scope.cancelled_caught
    queue.task_done()
    with pytest.raises(aioproc.TasksLost) as caught:
        await queue.join()
    assert caught.value.count == 2
    await queue.join()


async def test_a_task_is_not_a_forked_childs() -> None:
    """A forked child has none of its parent's tasks to finish, so none that is lost later goes uncounted."""
    queue: JoinableQueue[int] = JoinableQueue()
    await queue.put_many([1, 2])
    assert await queue.get() == 1

    def finish() -> None:
        with pytest.raises(ValueError, match="too many times"):
            queue.task_done()
        queue.get_nowait()

    assert not died(forked(finish))
    queue.task_done()
    with anyio.fail_after(10), pytest.raises(aioproc.TasksLost) as caught:
        await queue.join()
    assert caught.value.count == 1


@pytest.mark.parametrize("maxsize", [0, 2])
async def test_many_tasks_in_hand(maxsize: int) -> None:
    """However many a consumer has in hand, they take one descriptor."""
    queue: JoinableQueue[int] = JoinableQueue(maxsize)
    with spare_descriptors(40):
        for number in range(100):
            await queue.put(number)
            assert await queue.get() == number
    for left in range(100, 0, -1):
        with anyio.move_on_after(0 if left < 100 else 0.1) as scope:
            await queue.join()
        assert scope.cancelled_caught
        queue.task_done()
    await queue.join()
    with pytest.raises(ValueError, match="too many times"):
        queue.task_done()


async def test_all_who_join_hear_of_lost_tasks() -> None:
    """Two processes and two tasks wait in join(): each is told how many were lost; who comes later is not."""
    queue: JoinableQueue[int] = JoinableQueue(5)
    told = Wire()
    await queue.put_many([1, 2, 3])
    joiners = [
        aioproc.Process(target=children.tell_lost, args=(queue.sync, told)),
        aioproc.Process(target=children.atell_lost, args=(queue, told)),
    ]
    for process in joiners:
        await process.start()
        assert await told.ahear() == "waiting"
    counts: list[int] = []

    async def join() -> None:
        try:
            await queue.join()
        except aioproc.TasksLost as error:
            counts.append(error.count)

    async with anyio.create_task_group() as group:
        group.start_soon(join)
        group.start_soon(join)
        await anyio.wait_all_tasks_blocked()
        async with aioproc.Process(target=children.take_two, args=(queue.sync,)) as consumer:
            await consumer.join()
        assert await queue.get() == 3
        queue.task_done()
    assert counts == [2, 2]
    assert [await told.ahear() for _ in joiners] == [2, 2]
    for process in joiners:
        await process.join()
    await queue.join()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_a_process_that_changes_its_user() -> None:
    """What root has made, a child uses as another user, as the workers of a server do; also after a death."""
    lock, limit, semaphore = Lock(), BoundedSemaphore(2), Semaphore()
    bounded, tasks = Queue[int](2).sync, JoinableQueue[int](2).sync
    users = (lock.sync, limit.sync, semaphore.sync)
    put_and_take(bounded)
    put_and_take(tasks)
    for each in users:
        with each:
            pass
    with lock.sync:
        assert not lock.sync.acquire(timeout=0.001)  # all that is imported late is there

    def as_another() -> None:
        become_another_user()
        for each in users:
            with each:
                pass
        assert not died(forked(lock.sync.acquire))
        assert lock.sync.acquire(timeout=20)
        assert lock.abandoned
        assert not lock.sync.acquire(timeout=0.001)
        for queue in bounded, tasks:
            put_and_take(queue)
        tasks.task_done()
        tasks.join()

    tasks.task_done()
    assert not died(forked(as_another))


def put_and_take(queue: Any) -> None:
    queue.put(1)
    assert (queue.qsize(), queue.get()) == (1, 1)
