"""What the pool's tests run in workers."""

from __future__ import annotations

import multiprocessing
import os
import signal
import struct
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio

import aioproc
from aioproc._kernel.ledger import Ledger


def square(number: int) -> int:
    return number * number


async def square_later(number: int) -> int:
    await anyio.sleep(0.001)
    return number * number


def add(a: int, b: int = 0) -> int:
    return a + b


def pid_of(_: object = None) -> int:
    return os.getpid()


def fail(message: str) -> None:
    raise LookupError(message)


async def fail_later(message: str) -> None:
    raise LookupError(message)


def die(_: object = None) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def leave(code: int) -> None:
    sys.exit(code)


async def leave_async(code: int) -> None:
    sys.exit(code)


async def leave_beside(code: int, begun: Any) -> None:
    await begun.wait()
    sys.exit(code)


async def begin_and_wait(begun: Any) -> str:
    """Wait for ever, the first time."""
    if begun.is_set():
        return "again"
    begun.set()
    await anyio.sleep_forever()
    return "never"


def die_if_tenth(number: int) -> int:
    if number % 10 == 0:
        die()
    return number


def die_the_first_time(mark: str) -> str:
    if not Path(mark).exists():
        Path(mark).touch()
        die()
    return "done"


def sleep(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


def announce_and_wait(started: str, mark: str, seconds: float = 30.0) -> None:
    """Tell by a file (or a pipe) that it runs; a file that comes later says that nobody stopped it."""
    Path(started).write_bytes(b"x")
    time.sleep(seconds)
    Path(mark).touch()


def tell_and_wait(telling: int, waiting: int, mark: str) -> None:
    """Tell through a pipe of this process that it runs, wait for a byte through another, leave a file."""
    os.write(telling, b"x")
    os.read(waiting, 1)
    Path(mark).touch()


async def announce_and_wait_async(started: str, mark: str, ended: str) -> None:
    try:
        Path(started).write_bytes(b"x")
        await anyio.sleep(30)
        Path(mark).touch()
    finally:
        Path(ended).touch()


def announce_and_clean_up(started: str, cleaned: str) -> None:
    try:
        Path(started).write_bytes(b"x")
        time.sleep(30)
    finally:
        Path(cleaned).touch()


class _StopsAfter:
    """A socket's view: tells that something was received, and waits before it gives that out."""

    def __init__(self, view: Any, started: str) -> None:
        self._view, self._started = view, started

    def recvmsg(self, *limits: int) -> Any:
        received = self._view.recvmsg(*limits)
        announce_and_wait(self._started, os.devnull)
        return received


def wait_amid_acquire(shared: tuple[Any, Any], started: str) -> None:
    """Wait when the token of a lock has been received and is not yet noted."""
    lock, _ = shared
    lock._tokens._back_view = _StopsAfter(lock._tokens._back_view, started)
    lock.acquire()


def wait_amid_put(shared: tuple[Any, Any], started: str) -> None:
    """Wait when a place of a queue has been taken and nothing is in it."""
    take_place = Ledger.take_place

    def take_and_wait(ledger: Ledger) -> None:
        take_place(ledger)
        announce_and_wait(started, os.devnull)

    vars(sys.modules[Ledger.__module__])["Ledger"].take_place = take_and_wait
    shared[1].put(1)


def acquire_and_wait(shared: tuple[Any, Any], started: str) -> None:
    shared[0].acquire()
    announce_and_wait(started, os.devnull)


def wait_with_lock(shared: tuple[Any, Any], started: str) -> None:
    with shared[0]:
        announce_and_wait(started, os.devnull)


def wait_for_item(shared: tuple[Any, Any], started: str) -> None:
    Path(started).write_bytes(b"x")
    shared[1].get()


def touch(path: str) -> None:
    Path(path).touch()


def count_to(most: int) -> Iterator[int]:
    yield from range(most)


async def count_to_async(most: int) -> AsyncIterator[int]:
    for number in range(most):
        yield number


def count_and_note(notes: str, ended: str) -> Iterator[int]:
    """Without end; how far it came and that it was closed are written down."""
    number = 0
    try:
        while True:
            Path(notes + ".new").write_text(str(number))
            Path(notes + ".new").replace(notes)
            yield number
            number += 1
    finally:
        Path(ended).touch()


async def count_and_note_async(notes: str, ended: str) -> AsyncIterator[int]:
    for number in count_and_note(notes, ended):
        yield number


def count_then_fail(most: int) -> Iterator[int]:
    yield from range(most)
    raise LookupError("after the last one")


def count_then_die(most: int) -> Iterator[int]:
    yield from range(most)
    die()


def lambda_back(_: object = None) -> Any:
    return iter_of_nothing()


def iter_of_nothing() -> Iterator[int]:
    yield from ()


class CannotBeOpened:
    """Can be pickled, cannot be unpickled."""

    def __reduce__(self) -> Any:
        return _raise, ("cannot be opened",)


def _raise(message: str) -> None:
    raise LookupError(message)


def give(what: Any) -> Any:
    return what


def tell(connection: aioproc.Connection, what: str) -> None:
    connection.sync.send(what)


async def tell_later(connection: aioproc.Connection, what: str) -> None:
    await connection.send(what)


def pipe_that_holds(what: str) -> aioproc.Connection:
    here, there = aioproc.Pipe()
    here.sync.send(what)
    return there


async def hold_on(started: str) -> None:
    """Does not let go when it is cancelled."""
    with anyio.CancelScope(shield=True):
        Path(started).write_bytes(b"x")
        await anyio.sleep(60)


def give_unopenable(_: object = None) -> Any:
    return CannotBeOpened()


def total(array: Any) -> int:
    array[0] += 1
    return int(array.sum())


def initialize(value: int) -> None:
    os.environ["TESTS_INITIALIZED"] = str(value)


def initialize_unless(mark: str) -> None:
    """An initializer that raises once there is a file."""
    if os.path.exists(mark):
        raise LookupError("no more")


def initialized(_: object = None) -> str | None:
    return os.environ.get("TESTS_INITIALIZED")


def loaded(name: str) -> bool:
    return name in sys.modules


def wait_for(path: str) -> str:
    """Until somebody writes into a named pipe."""
    return Path(path).read_text()


def wait_and_yield(path: str) -> Iterator[str]:
    yield wait_for(path)


async def meet_others(path: str) -> int:
    """Wait in the loop until somebody has made a file; how many tasks of this process wait with it."""
    global _waiting
    _waiting += 1
    most = _waiting
    while not Path(path).exists():
        await anyio.sleep(0.005)
        most = max(most, _waiting)
    _waiting -= 1
    return most


_waiting = 0


def die_inside_a_result() -> None:
    """In a worker of an executor: send the first bytes of a message, and die."""
    frame = sys._getframe()
    while "result_queue" not in frame.f_locals:
        assert frame.f_back is not None
        frame = frame.f_back
    os.write(frame.f_locals["result_queue"]._writer.fileno(), struct.pack("!i", 1000) + b"torn")
    die()


class LastPart:
    """Pickled last, it kills its process a moment later: while what came before is being sent."""

    def __init__(self, delay: float) -> None:
        self.delay = delay

    def __reduce__(self) -> Any:
        threading.Timer(self.delay, die).start()
        return int, ()


def die_while_sending(delay: float) -> Any:
    """A large result, and a death somewhere on its way."""
    return bytes(400_000_000), LastPart(delay)


class StopsAfterwards:
    """A result whose worker stops (SIGSTOP) when it has been sent home, and before the next task."""

    def __reduce__(self) -> tuple[Any, ...]:
        return int, (1,)

    def __del__(self) -> None:
        os.kill(os.getpid(), signal.SIGSTOP)


def stops_afterwards() -> Any:
    """Return one of those; a number comes home."""
    return StopsAfterwards()


def slow_pid() -> int:
    """The worker's process id, after long enough for another worker to begin."""
    time.sleep(0.3)
    return os.getpid()


def interpreter() -> tuple[int, int]:
    """The number of the interpreter that it runs in, and of the process."""
    import _interpreters  # type: ignore[import-not-found, unused-ignore]

    return int(_interpreters.get_current()[0]), os.getpid()


async def interpreter_of_a_task() -> tuple[int, int]:
    """The same of an async def."""
    await anyio.sleep(0)
    return interpreter()


async def kind_of_loop() -> str:
    """The module of the event loop that it runs in."""
    import asyncio

    return type(asyncio.get_running_loop()).__module__


_remembered: list[Any] = []


def remember(what: Any) -> None:
    """An initializer that leaves something in its module."""
    _remembered[:] = [what]


def remembered(_: object = None) -> Any:
    """What that left."""
    return _remembered[0]


async def first_item(items: list[int]) -> int:
    """The first of the items; StopAsyncIteration when there is none."""

    async def each() -> AsyncIterator[int]:
        for item in items:
            yield item

    return await anext(each())


def stop_midway() -> Iterator[int]:
    """Yield one item, and raise StopAsyncIteration."""
    yield 1
    raise StopAsyncIteration


@dataclass(frozen=True)
class FrozenError(Exception):
    """No attribute of it can be assigned to."""


def fail_frozen() -> None:
    raise FrozenError


class WordlessError(BaseException):
    """It is no Exception, and has no text."""

    def __str__(self) -> str:
        raise LookupError("no text")


def fail_without_words() -> None:
    raise WordlessError


async def wait_for_file(path: str, started: str) -> int:
    """Write to a file that it has begun, and wait until another one is there."""
    Path(started).touch()
    while not Path(path).exists():
        await anyio.sleep(0.005)
    return os.getpid()


def yield_and_die(count: int, mark: str) -> Iterator[int]:
    """Die before the first item the first time, else after so many."""
    if not os.path.exists(mark):
        Path(mark).touch()
        die()
    yield from range(count)
    die()


def run_a_loop(number: int) -> int:
    """A plain function with an event loop of its own."""
    return anyio.run(square_later, number)


def fork_and_terminate() -> int | None:
    """The exit code of a process of the stdlib, forked here and asked to end."""
    process = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
    process.start()
    process.terminate()
    process.join()
    return process.exitcode


def leave_a_busy_pool() -> str:
    """Leave a pool of the stdlib, forked here, while its workers have something to do."""
    context = multiprocessing.get_context("fork")
    begun = context.Semaphore(0)
    with context.Pool(2, _begin_with, (begun,)) as pool:
        pool.map_async(time.sleep, [60, 60], 1)
        begun.acquire()
        begun.acquire()
    return "left"


def _begin_with(begun: Any) -> None:
    begun.release()


def fork_and_interrupt() -> int:
    """How a forked child ends by a SIGINT; 0 when it did not hear it."""
    child = os.fork()
    if child == 0:
        try:
            signal.raise_signal(signal.SIGINT)
            os._exit(0)
        except KeyboardInterrupt:
            os._exit(3)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def own_name() -> str:
    """What this process is called."""
    return aioproc.current_process().name


def begin_to_square(number: int) -> Any:
    """A plain function that returns a coroutine."""
    return square_later(number)


class OpensAsSomethingElse(Exception):
    def __reduce__(self) -> Any:
        return KeyboardInterrupt, ("odd",)


def raise_what_opens_as_something_else() -> None:
    raise OpensAsSomethingElse("odd")


class Interrupts:
    def __reduce__(self) -> Any:
        raise KeyboardInterrupt("while it is pickled")


def return_what_interrupts() -> Interrupts:
    return Interrupts()
