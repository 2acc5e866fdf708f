"""What the children of test_process.py do; they tell of it through pipes, so that nobody has to sleep."""

from __future__ import annotations

import multiprocessing
import os
import resource
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import AsyncIterator
from itertools import chain
from multiprocessing import util
from types import ModuleType
from typing import Any, NoReturn, cast

import anyio

from aioproc import Process, ProcessGroup, current_process
from aioproc._kernel.handle import Handle
from tests import tasks
from tests.until_signal import UntilSignal


def tell(to: Handle, text: str) -> None:
    """Write a line to the test."""
    os.write(to.fileno(), f"{text}\n".encode())


def plain_add(a: int, b: int = 10) -> int:
    return a + b


async def async_add(a: int, b: int = 10) -> int:
    await anyio.lowlevel.checkpoint()
    return a + b


async def loop_kind() -> str:
    from anyio.lowlevel import current_token

    return type(current_token().native_token).__module__.partition(".")[0]


def plain_raise(error: BaseException) -> NoReturn:
    raise error


async def async_raise(error: BaseException) -> NoReturn:
    raise error


class Stubborn(Exception):
    """Pickles, but does not unpickle."""

    def __init__(self, one: str, two: str) -> None:
        super().__init__(one)


class Fatal(BaseException):
    """Pickles, and is no Exception."""


class Unpicklable(Exception):
    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.lock = threading.Lock()


class OpensAs(Exception):
    """Pickled as the call of a function."""

    def __init__(self, call: tuple[Any, ...]) -> None:
        super().__init__("as something else")
        self._call = call

    def __reduce__(self) -> tuple[Any, ...]:
        return self._call


def raise_what_exits() -> NoReturn:
    raise OpensAs((sys.exit, (3,)))


def raise_what_interrupts() -> NoReturn:
    raise OpensAs((_interrupt, ()))


def _interrupt() -> NoReturn:
    raise KeyboardInterrupt


def raise_what_is_none() -> NoReturn:
    raise OpensAs((int, ("3",)))


def raise_what_is_fatal() -> NoReturn:
    raise OpensAs((Fatal, ()))


def raise_stubborn() -> NoReturn:
    raise Stubborn("only", "here")


def raise_unpicklable() -> NoReturn:
    raise Unpicklable("with a lock inside")


def return_lock() -> Any:
    return threading.Lock()


def return_without_room() -> bytes:
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))  # none is free for what travels beside the packet
    return bytes(1 << 20)


def exit_with(code: Any) -> NoReturn:
    sys.exit(code)


def die(number: int) -> NoReturn:
    os.kill(os.getpid(), number)
    raise AssertionError("still here")


def large(size: int) -> Any:
    import numpy as np  # here, since it takes longer than all else that a child imports

    return np.arange(size // 8)


def plain_wait(to: Handle) -> None:
    signalled = UntilSignal()
    try:
        tell(to, "ready")
        signalled.sleep()
    finally:
        tell(to, "finally")


def signalled_at_every_step_of_the_end(to: Handle) -> None:
    """As `plain_wait`, and whatever sets a signal's handler afterwards is hit by another SIGTERM first."""

    def hit_first(number: int, handler: Any) -> Any:
        os.kill(os.getpid(), signal.SIGTERM)
        return set_handler(number, handler)

    set_handler = signal.signal
    try:
        plain_wait(to)
    finally:
        signal.signal = hit_first  # type: ignore[assignment]


def signalled_at_exit(number: int) -> str:
    """Returns, and is hit by a signal while what was registered for the exit is run."""
    util.Finalize(None, os.kill, (os.getpid(), number), exitpriority=10)
    return "returned"


async def async_wait(to: Handle) -> None:
    try:
        tell(to, "ready")
        await anyio.sleep(60)
    finally:
        tell(to, "finally")


def ignore_sigterm(to: Handle) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    tell(to, "ready")
    time.sleep(60)


async def ignore_cancellation(to: Handle) -> None:
    tell(to, "ready")
    with anyio.CancelScope(shield=True):
        await anyio.sleep(60)


def stuck_in_c(to: Handle) -> None:
    # All of it in C, from the word on: no bytecode runs that could look at a signal.
    word = map(os.write, [to.fileno()], [b"ready\n"])
    deque(chain(word, range(10**13)), maxlen=0)


def read_line() -> str:
    return input()


def read_null() -> bytes:
    return os.read(0, 1)


def describe_self() -> dict[str, Any]:
    me = current_process()
    assert isinstance(me, Process)
    return {
        "name": me.name,
        "pid": me.pid,
        "os_pid": os.getpid(),
        "daemon": me.daemon,
        "authkey": bytes(me.authkey),
        "alive": me.is_alive(),
    }


async def start_another() -> int:
    return await Process(target=plain_add, args=(1, 2))


async def start_grandchild(method: str) -> int:
    from aioproc import get_context

    return int(await get_context(method).Process(target=plain_add, args=(1, 2)))


def run_grandchild(method: str) -> None:
    assert anyio.run(start_grandchild, method) == 3


async def group_of_waiters(to: Handle) -> None:
    async with ProcessGroup() as group:
        child = await group.start(stuck_in_c, to)
        tell(to, f"pid {child.pid}")


def signals_as_they_should_be() -> list[Any]:
    """The wake-up descriptor and the handlers that a forked child finds."""
    wakeup = signal.set_wakeup_fd(-1)
    usr1 = signal.getsignal(signal.SIGUSR1)
    return [wakeup, usr1 is signal.SIG_DFL, signal.pthread_sigmask(signal.SIG_BLOCK, ())]


class PlainSubclass(Process[int]):
    def __init__(self, a: int, b: int) -> None:
        super().__init__()
        self.a, self.b = a, b

    def run(self) -> int:
        return self.a + self.b


class AsyncSubclass(PlainSubclass):
    async def run(self) -> int:  # type: ignore[override]
        await anyio.lowlevel.checkpoint()
        return self.a + self.b


class Forgetful(Process[None]):
    def __init__(self) -> None:
        self.a = 1


async def yields() -> AsyncIterator[int]:
    yield 1


class SlowlyOpened:
    def __reduce__(self) -> tuple[Any, ...]:
        return _slowly_seven, ()


def _slowly_seven() -> int:
    since = time.monotonic()
    while time.monotonic() < since + 0.5:
        pass
    return 7


class AskedWhileUnpickled:
    def __reduce__(self) -> tuple[Any, ...]:
        return _own_name, ()


def _own_name() -> str:
    return current_process().name


def same(value: Any) -> Any:
    return value


class Poison:
    """Pickles, and raises where it is unpickled."""

    def __reduce__(self) -> Any:
        return plain_raise, (ValueError("poison"),)


def plain_with_forks() -> list[Any]:
    """How processes that the stdlib forks here end: one that is asked to, a busy pool's, and by a SIGINT."""
    return [tasks.fork_and_terminate(), tasks.leave_a_busy_pool(), tasks.fork_and_interrupt()]


async def async_with_forks() -> list[Any]:
    ended = plain_with_forks()
    for _ in range(5):  # in which the loop would hear of a signal to one of them
        await anyio.lowlevel.checkpoint()
    return ended


class WithGuard(Process[int]):
    """Cannot be pickled as it is, and says so in the way that Python's documentation shows."""

    __slots__ = ("a",)

    def __init__(self, a: int) -> None:
        super().__init__()
        self.a = a
        self.guard = threading.Lock()

    def __getstate__(self) -> Any:
        state, slots = cast("tuple[dict[str, Any], dict[str, Any]]", super().__getstate__())
        return {name: value for name, value in state.items() if name != "guard"}, slots

    def run(self) -> int:
        return self.a


def raise_what_only_this_process_knows() -> NoReturn:
    module = ModuleType("only_here")
    sys.modules["only_here"] = module
    exec("class OnlyHere(Exception): pass", vars(module))
    raise module.OnlyHere("the real reason")


def leave_a_child(to: Handle) -> None:
    """Waits beside a child of its own, which goes on until it is killed."""
    child = multiprocessing.get_context("fork").Process(target=signal.pause)
    child.start()
    tell(to, str(child.pid))
    plain_wait(to)


async def leave_a_child_async(to: Handle) -> None:
    child = multiprocessing.get_context("fork").Process(target=signal.pause)
    child.start()
    tell(to, str(child.pid))
    await async_wait(to)


def run_trio(to: Handle) -> None:
    """As `async_wait`, in a loop that the target makes itself."""
    import trio

    trio.run(async_wait, to)


def run_a_nursery(to: Handle) -> None:
    import trio

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(async_wait, to)

    trio.run(main)
