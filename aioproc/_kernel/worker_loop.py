"""A pool's worker with an event loop: coroutines, several at a time, and plain functions between them.

The pool sends no plain function to a worker in which coroutines run, so what runs in the main thread holds
up nobody.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import contextmanager
from contextvars import Context, copy_context
from typing import TYPE_CHECKING, Any

import anyio
from anyio.lowlevel import checkpoint

from aioproc._kernel.channel import Crowded
from aioproc._kernel.parcel import pack
from aioproc._kernel.waiting import asyncio_loop, until
from aioproc._kernel.wire import STREAM_AHEAD, Kind, Mail, addressed
from aioproc._kernel.worker import Call

if TYPE_CHECKING:
    from anyio.abc import TaskGroup

    from aioproc._kernel.worker import Worker


def serve_in_a_loop(worker: Worker, first: Call) -> None:
    """Serve the pool until it has nothing more, beginning with a call that has been taken."""
    backend, options = worker.loop
    desk = _Desk(worker, copy_context())
    anyio.run(desk.serve, first, backend=backend, backend_options=options)
    if desk.exit is not None:
        raise desk.exit


class _Desk:
    exit: SystemExit | None = None  # a task's, carried past the task groups and the loop

    def __init__(self, worker: Worker, context: Context) -> None:
        self._worker = worker
        self._scopes: dict[int, anyio.CancelScope] = {}
        self._free = anyio.Semaphore(worker.tasks_at_once)
        self._credit_came = anyio.Event()
        self._context = context
        worker.controls.cancel = self._cancel

    async def serve(self, first: Call) -> None:
        async with anyio.create_task_group() as helpers:
            async with anyio.create_task_group() as calls:
                self._calls = calls.cancel_scope
                await self._start(first, calls)
                helpers.start_soon(self._obey)  # not before a cancellation would find the first call
                try:
                    while not self._worker.leaving:
                        await self._serve_one(calls)
                except (EOFError, BrokenPipeError):
                    pass
            helpers.cancel_scope.cancel()

    async def _serve_one(self, calls: TaskGroup) -> None:
        await self._free.acquire()
        self._free.release()
        worker = self._worker
        await self._start(Call(await until(worker.inbox.receive, worker.inbox.handle)), calls)

    async def _start(self, call: Call, calls: TaskGroup) -> None:
        if call.error is None and (call.needs_a_loop or call.is_stream):
            self._scopes[call.task] = anyio.CancelScope()
            await self._free.acquire()
            calls.start_soon(self._run, call)
        else:
            try:
                with _out_of_the_loop():
                    self._context.run(self._worker.run_here, call)
            except SystemExit as error:
                self._leave(error)

    async def _run(self, call: Call) -> None:
        outcome: Mail | None = None
        with self._scopes[call.task] as scope:
            try:
                outcome = call.ended(await self._performed(call))
            except SystemExit as error:
                self._leave(error)
                return
            except BaseException as error:
                stopped = scope.cancel_called or self.exit is not None
                if stopped and isinstance(error, anyio.get_cancelled_exc_class()):
                    raise
                outcome = call.failed(error)
        del self._scopes[call.task]
        with anyio.CancelScope(shield=True):
            try:
                await self._send(outcome or call.stopped())
            except Crowded as error:
                await self._send(call.failed(error))
        self._free.release()  # only now, so that the next task cannot take this one's outcome with it

    def _leave(self, error: SystemExit) -> None:
        """This worker ends, and says nothing of the calls that it still has: they are lost."""
        self.exit = self.exit or error
        self._calls.cancel()

    async def _performed(self, call: Call) -> Any:
        if not call.is_stream:
            begun = call.begin()
            if isinstance(begun, AsyncGenerator):
                raise TypeError(f"{call.func!r} is a generator: AsyncPool.stream() hands out what it yields")
            return await begun
        items = call.begin()
        self._worker.controls.credits[call.task] = STREAM_AHEAD
        try:
            async for item in _async_items(items):
                await self._credit(call.task)
                await self._send(addressed(pack(item), Kind.ITEM, call.task))
        finally:
            self._worker.controls.credits.pop(call.task, None)
            if hasattr(items, "aclose"):
                with anyio.CancelScope(shield=True):
                    await items.aclose()
        return None

    async def _credit(self, task: int) -> None:
        credits = self._worker.controls.credits
        while credits.get(task) == 0:
            await self._credit_came.wait()
        await checkpoint()  # where a consumer that left is noticed
        credits[task] -= 1

    async def _send(self, mail: Mail) -> None:
        worker = self._worker
        try:
            worker.home.send(mail)
        except BlockingIOError:
            await until(lambda: worker.home.send(mail), worker.home.handle, "write")

    async def _obey(self) -> None:
        worker = self._worker
        try:
            while True:
                await until(worker.controls.take, worker.home.handle)
                came, self._credit_came = self._credit_came, anyio.Event()
                came.set()
        except EOFError:  # the pool has gone
            pass

    def _cancel(self, task: int) -> None:
        if task in self._scopes:
            self._scopes[task].cancel()


@contextmanager
def _out_of_the_loop() -> Iterator[None]:
    """A plain function may run a loop of its own, or refuse one, whatever this worker did before.

    Source: the asyncio documentation, "Extending" (_leave_task, _enter_task).
    """
    loop = asyncio_loop()
    if loop is None:  # trio has no way
        yield
        return
    import asyncio

    task = asyncio.current_task(loop)
    assert task is not None
    asyncio._leave_task(loop, task)
    asyncio._set_running_loop(None)
    try:
        yield
    finally:
        asyncio._set_running_loop(loop)
        asyncio._enter_task(loop, task)


async def _async_items(items: Any) -> AsyncIterator[Any]:
    if hasattr(items, "__aiter__"):
        async for item in items:
            yield item
    else:
        for item in items:
            yield item
