"""What the children of the queue tests do."""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
import time
from typing import Any

from aioproc import TasksLost
from tests.shared import Wire

HEAVY = ("asyncio", "anyio", "trio", "uvloop")


def put_all(queue: Any, items: list[Any]) -> None:
    """Put each item, by the twin."""
    for item in items:
        queue.put(item)


async def aput_all(queue: Any, items: list[Any]) -> None:
    """Put each item, in a loop."""
    for item in items:
        await queue.put(item)


def put_numbers(queue: Any, count: int) -> None:
    """Put 0, 1, ... and end at once."""
    for number in range(count):
        queue.put((os.getpid(), number))


async def aput_numbers(queue: Any, count: int) -> None:
    """The same in a loop."""
    for number in range(count):
        await queue.put((os.getpid(), number))


def echo(inbox: Any, outbox: Any) -> None:
    """Send everything back until the end."""
    for item in inbox:
        outbox.put(item)


async def aecho(inbox: Any, outbox: Any) -> None:
    """The same in a loop."""
    async for item in inbox:
        await outbox.put(item)


def loaded(queue: Any) -> None:
    """Use the twin, then tell which heavy modules that took."""
    queue.put(1)
    queue.get()
    try:
        queue.get(timeout=0)
    except Exception as error:
        queue.put(type(error).__module__)
    queue.get()
    queue.put([name for name in HEAVY if name in sys.modules])


def tell_end(queue: Any, wire: Wire) -> None:
    """Say when waiting begins, and what ended it."""
    wire.say("waiting")
    try:
        wire.say(queue.get())
    except Exception as error:
        wire.say(type(error).__name__)


def tell_refusal(queue: Any, wire: Wire) -> None:
    """The same for a put."""
    wire.say("waiting")
    try:
        wire.say(queue.put("too much"))
    except Exception as error:
        wire.say(type(error).__name__)


def reply(connection: Any) -> None:
    """Send one message back, reversed."""
    connection.send(connection.recv()[::-1])


def until_told(connection: Any) -> None:
    """End when a message comes."""
    connection.recv()


_waited: dict[str, int] = {}  # nanoseconds by thread; those that have ended count as well


def _waited_for_a_cpu() -> float:
    """Seconds that threads of this process were ready to run and the machine was busy or not ours.

    Source: proc_pid_schedstat(5), proc_stat(5) (steal).
    """
    for thread in os.listdir("/proc/self/task"):
        with contextlib.suppress(OSError), open(f"/proc/self/task/{thread}/schedstat") as stat:
            _waited[thread] = int(stat.read().split()[1])
    with open("/proc/stat") as stat:
        stolen = int(stat.readline().split()[8]) / os.sysconf("SC_CLK_TCK")
    return stolen + sum(_waited.values()) / 1e9


class Ticks:
    """The longest two gaps of a task that ticks every millisecond, but for what a busy machine adds."""

    def __init__(self) -> None:
        self.longest = self.second = 0.0

    async def run(self) -> None:
        """Tick for ever."""
        import anyio

        while True:
            before = time.perf_counter() - _waited_for_a_cpu()
            await anyio.sleep(0.001)
            gap = time.perf_counter() - _waited_for_a_cpu() - before
            self.second, self.longest = sorted((self.second, self.longest, gap))[1:]


async def aecho_ticking(inbox: Any, outbox: Any, wire: Wire) -> None:
    """Send everything back while another task ticks; tell its longest gaps."""
    import anyio

    importlib.import_module("numpy")  # else the first array's unpickling does that
    ticks = Ticks()
    async with anyio.create_task_group() as group:
        group.start_soon(ticks.run)
        kept = []
        async for item in inbox:
            kept.append(item)
            await outbox.put(item)
        group.cancel_scope.cancel()
    wire.say((ticks.longest, ticks.second))


def collect(queue: Any, told: Wire) -> None:
    """Tell each item that was taken, and who took it, until None comes."""
    told.say("ready")
    while (item := queue.sync.get()) is not None:
        told.say((item, os.getpid()))


async def acollect(queue: Any, told: Wire) -> None:
    """The same in a loop."""
    told.say("ready")
    while (item := await queue.get()) is not None:
        told.say((item, os.getpid()))


def keep_putting(queue: Any, told: Wire) -> None:
    """Put one's number again and again, until the queue is shut down."""
    told.say("ready")
    with contextlib.suppress(Exception):
        while True:
            queue.sync.put(os.getpid())


async def akeep_putting(queue: Any, told: Wire) -> None:
    """The same in a loop."""
    told.say("ready")
    with contextlib.suppress(Exception):
        while True:
            await queue.put(os.getpid())


def put_when_told(queue: Any, told: Wire) -> None:
    """Wait in a put."""
    told.say("ready")
    queue.sync.put("two")


async def aput_when_told(queue: Any, told: Wire) -> None:
    """The same in a loop."""
    told.say("ready")
    await queue.put("two")


def open_mail(mail: Any) -> None:
    """Use what comes in an item."""
    answers, lock = mail.get()
    answers.sync.put("got it")
    with lock.sync:
        answers.sync.put("locked")


def tell_first(queue: Any, told: Wire) -> None:
    """Have the queue say that its join has begun."""
    lost = queue._store.tasks.lost

    def telling() -> int:
        count: int = lost()
        told.say("waiting")
        return count

    queue._store.tasks.lost = telling


def tell_lost(queue: Any, told: Wire) -> None:
    """Say when the wait for all tasks begins, and how many were lost."""
    tell_first(queue, told)
    try:
        queue.join()
    except TasksLost as error:
        told.say(error.count)


async def atell_lost(queue: Any, told: Wire) -> None:
    """The same in a loop."""
    tell_first(queue, told)
    try:
        await queue.join()
    except TasksLost as error:
        told.say(error.count)


def leave_behind(queue: Any, told: Wire, cancel: bool) -> None:
    """Put more than the kernel takes, and end."""
    queue.put("first")
    for _ in range(100):
        queue.put(bytes(60_000))
    if cancel:
        queue.cancel_join_thread()
    told.say(len(queue._store.backlog.kept))


async def aleave_behind(queue: Any, told: Wire, cancel: bool) -> None:
    """The same in a loop."""
    await queue.put("first")
    for _ in range(100):
        await queue.put(bytes(60_000))
    if cancel:
        queue.cancel_join_thread()
    told.say(len(queue._store.backlog.kept))


def take_two(queue: Any) -> None:
    """Take two tasks and die with them."""
    queue.get()
    queue.get()


async def abusy(queue: Any, told: Wire) -> None:
    """Wait for an item while the loop is busy with something else for a second."""
    import anyio

    async def take() -> None:
        while await queue.get() is not None:
            pass

    async with anyio.create_task_group() as group:
        group.start_soon(take)
        await anyio.wait_all_tasks_blocked()
        told.say("busy")
        time.sleep(1)
        told.say("idle")


def take(queue: Any) -> Any:
    """An item, taken by a call that then forgets the queue."""
    return queue.get()


def say_done(queue: Any) -> None:
    """That one is done which this process took."""
    queue.task_done()


def take_and_give_back(queue: Any, close: bool, way: Any = None) -> None:
    """As a get does that is cancelled while a thread opens what it took; then end, or close it first."""
    queue._store.give_back(queue.get())
    if way is not None:
        way.get()
    if close:
        queue.close()


_closed: list[Any] = []


def send_on_and_close(queue: Any, way: Any) -> None:
    """Send a queue on; keep it when it is closed."""
    way.put(queue)
    way.flush()
    queue.close()
    _closed.append(queue)
