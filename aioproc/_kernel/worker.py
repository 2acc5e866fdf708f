"""A pool's worker: what runs in the child.

Plain functions and generators run in the main thread, straight from the inbox, and the worker imports no
event loop. The first coroutine function starts one, which serves everything from then on (see
``worker_loop.py``).

SIGTERM and SIGINT are left to the parent: a terminal or a service manager sends them to the whole process
group. A SIGINT that means a task comes with a message that names it.
"""

from __future__ import annotations

import select
import signal
import time
from collections.abc import Callable, Generator, Iterator
from types import CoroutineType, FrameType
from typing import Any, NoReturn

from aioproc._kernel.channel import Channel, Crowded
from aioproc._kernel.child import Child, listen_to_signals
from aioproc._kernel.chunks import run_chunk
from aioproc._kernel.midst import in_our_midst, tokens_held
from aioproc._kernel.outcome import raised
from aioproc._kernel.parcel import pack
from aioproc._kernel.post import Post
from aioproc._kernel.tasks import keep_between_calls
from aioproc._kernel.unshared import handle_only_here
from aioproc._kernel.waiting import until_blocking
from aioproc._kernel.wire import STREAM_AHEAD, Kind, Mail, Message, addressed, signal_of


class Controls:
    """What the pool has asked of running tasks."""

    def __init__(self, home: Post) -> None:
        self._home = home
        self.running = 0  # the task in the main thread that an interrupt may mean
        self.credits: dict[int, int] = {}
        self.hit: bool | None = None  # whether it hit the running task in the midst of our own code
        self.cancel: Callable[[int], object] = lambda task: None

    def take(self) -> None:
        """Take one message; BlockingIOError when there is none."""
        message = self._home.receive()
        if message.kind == Kind.CREDIT and message.task in self.credits:
            self.credits[message.task] += int(message.number)
        elif message.kind == Kind.CANCEL:
            self.credits.pop(message.task, None)
            self.cancel(message.task)
        elif message.kind == Kind.INTERRUPT and message.task == self.running:
            self.running = 0
            raise KeyboardInterrupt

    def take_all(self) -> None:
        """Take what is there."""
        try:
            while True:
                self.take()
        except (BlockingIOError, EOFError):
            pass

    def interrupted(self, number: int, frame: FrameType | None) -> None:
        """The handler of SIGINT; without a message it was not for us."""
        try:
            self.take_all()
        except KeyboardInterrupt:
            self.hit = in_our_midst(frame)
            raise


class Worker:
    """The owner of a worker's child.

    Args:
        inbox: Where tasks come from; the pool takes back from it what this worker has not taken.
        initializer: Called first, with ``initargs``.
        tasks_at_once: How many coroutines may run at a time.
        loop: The event loop for coroutines, as ``anyio.run`` takes it.
    """

    home: Post
    controls: Controls

    def __init__(
        self,
        inbox: Channel,
        initializer: Callable[..., object] | None,
        initargs: tuple[Any, ...],
        tasks_at_once: int,
        loop: tuple[str, dict[str, Any]],
    ) -> None:
        self.inbox = Post(inbox)
        self.initializer = initializer
        self.initargs = initargs
        self.tasks_at_once = tasks_at_once
        self.loop = loop
        self.leaving = False  # it ends, because of what an interrupt may have left half done
        self._kept = 0  # tokens that the initializer took for good

    def born(self, child: Child) -> None:
        """Take the signals, and the channel home."""
        assert child.home is not None
        self.home = Post(child.home, announced=True)
        self.controls = Controls(self.home)
        handle_only_here(signal.SIGTERM, _left_to_the_parent)
        handle_only_here(signal.SIGINT, self.controls.interrupted)
        listen_to_signals()
        keep_between_calls()

    def perform(self) -> None:
        """Work until the pool has nothing more."""
        if self.initialized():
            try:
                self._serve()
            except (EOFError, BrokenPipeError):  # closed, or the pool has gone
                pass

    def initialized(self) -> bool:
        """Run the initializer and tell home how that went."""
        try:
            if self.initializer is not None:
                self.initializer(*self.initargs)
        except SystemExit:
            raise
        except BaseException as error:
            self.send(addressed(raised(error), Kind.INITIALIZER_FAILED, 0))
            return False
        self._kept = tokens_held()
        self.send(signal_of(Kind.READY))
        return True

    def send(self, mail: Mail) -> None:
        """Send home, asleep in the thread while the channel is full."""
        try:
            self.home.send(mail)
        except BlockingIOError:
            until_blocking(lambda: self.home.send(mail), self.home.handle, "write")

    def _serve(self) -> None:
        poll = select.poll()
        poll.register(self.inbox.handle.fileno(), select.POLLIN)
        while not self.leaving:
            # A receipt that sleeps would save this call, but one that is killed in its sleep may take a task
            # with it; and an attempt that finds nothing costs more.
            poll.poll()
            try:
                call = Call(self.inbox.receive())
            except BlockingIOError:  # the pool has taken it back
                continue
            if call.needs_a_loop:
                from aioproc._kernel.worker_loop import serve_in_a_loop

                serve_in_a_loop(self, call)
                return
            self.run_here(call)

    def run_here(self, call: Call) -> None:
        """Run a plain function or generator in this thread, and send home what comes of it."""
        controls = self.controls
        controls.running = call.task
        try:
            try:
                if call.error is not None:
                    raise call.error
                value = call.func(*call.args, **call.kwargs)
                if call.kind == Kind.STREAM:
                    self._streamed(call, value)
                    value = None
            finally:
                controls.running = 0
            outcome = call.ended(value)
        except SystemExit:
            raise
        except BaseException as error:
            outcome = call.failed(error)
        if controls.hit is not None:
            self._leave_if_hit(call)
        try:
            self.send(outcome)
        except Crowded as error:
            self.send(call.failed(error))

    def _leave_if_hit(self, call: Call) -> None:
        """End after this call if the interrupt may have left something taken; our end gives it back."""
        hit, self.controls.hit = self.controls.hit, None
        if hit or tokens_held() > self._kept:
            self.leaving = True
            self.send(signal_of(Kind.LEAVING, call.task))

    def _streamed(self, call: Call, generator: Any) -> None:
        items = call.items(generator)
        self.controls.credits[call.task] = STREAM_AHEAD
        try:
            for item in items:
                if not self._may_send(call.task):
                    break
                self.send(addressed(pack(item), Kind.ITEM, call.task))
        finally:
            self.controls.credits.pop(call.task, None)
            close = getattr(generator, "close", None)
            if close is not None:
                close()

    def _may_send(self, task: int) -> bool:
        """Wait until the consumer wants an item; False when it wants no more."""
        credits = self.controls.credits
        self.controls.take_all()
        while credits.get(task) == 0:
            until_blocking(self.controls.take, self.home.handle)
        if task not in credits:
            return False
        credits[task] -= 1
        return True


class Call:
    """A task in a worker's hands."""

    __slots__ = ("_since", "args", "error", "func", "kind", "kwargs", "task")

    def __init__(self, message: Message) -> None:
        self.kind = message.kind
        self.task = message.task
        self.error: BaseException | None = None
        self._since = time.perf_counter()
        try:
            self.func, self.args, self.kwargs = message.open_call()
        except BaseException as error:
            self.error = error

    @property
    def needs_a_loop(self) -> bool:
        """Whether it is a coroutine function or an async generator function."""
        return self.kind in (Kind.CALL_IN_LOOP, Kind.STREAM_IN_LOOP)

    @property
    def is_stream(self) -> bool:
        """Whether it yields."""
        return self.kind in (Kind.STREAM, Kind.STREAM_IN_LOOP)

    def begin(self) -> Any:
        """Call the function."""
        return self.func(*self.args, **self.kwargs)

    def items(self, value: Any) -> Iterator[Any]:
        """What a stream's function returned, which is mostly a generator, item by item."""
        try:
            return iter(value)
        except TypeError:
            raise TypeError(
                f"{self.func!r} returned {value!r}, and stream() takes one that yields; apply() takes this"
            ) from None

    def ended(self, value: Any) -> Mail:
        """The message that it has ended with this value."""
        if type(value) is CoroutineType:
            _refuse(self.func, [value])
        if self.func is run_chunk and (coroutines := [one for one in value if type(one) is CoroutineType]):
            _refuse(self.args[0], coroutines)
        if isinstance(value, Generator):
            raise TypeError(f"{self.func!r} is a generator: AsyncPool.stream() hands out what it yields")
        return addressed(pack(value), Kind.DONE, self.task, time.perf_counter() - self._since)

    def failed(self, error: BaseException) -> Mail:
        """The message that it has raised this."""
        return addressed(raised(error), Kind.FAILED, self.task, time.perf_counter() - self._since)

    def stopped(self) -> Mail:
        """The message that it was cancelled, as the pool wished."""
        return signal_of(Kind.STOPPED, self.task, time.perf_counter() - self._since)


def _refuse(func: Any, coroutines: list[CoroutineType[Any, Any, Any]]) -> NoReturn:
    for coroutine in coroutines:
        coroutine.close()
    raise TypeError(f"{func!r} returned a coroutine; give the pool the `async def` itself")


def _left_to_the_parent(number: int, frame: FrameType | None) -> None:
    """As SIG_IGN, but not inherited by programs that a task starts, nor by what it forks."""
