"""A task of asyncio goes on in the callback that woke it: in its context, whatever another one does."""

from __future__ import annotations

import asyncio
import time
from asyncio.futures import _PyFuture  # type: ignore[attr-defined]
from contextvars import ContextVar

import pytest
import uvloop

import aioproc
from aioproc._kernel.resuming import resume

WORD: ContextVar[str] = ContextVar("WORD", default="nobody's")
LOOPS = pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop])


@pytest.mark.parametrize("kind", [asyncio.Future, _PyFuture])
@LOOPS
def test_it_goes_on_at_once_in_its_context(
    new_loop: type[asyncio.AbstractEventLoop], kind: type[asyncio.Future[None]]
) -> None:
    """Before the call returns, as the current task, with its own context variables."""
    seen: list[object] = []

    async def wait(future: asyncio.Future[None]) -> None:
        WORD.set("its own")
        await future
        seen.extend((WORD.get(), asyncio.current_task() is task))

    def wake_up() -> None:
        resume(lambda: [future])
        seen.append(WORD.get())

    with asyncio.Runner(loop_factory=new_loop) as runner:
        loop = runner.get_loop()
        future = kind(loop=loop)
        task = loop.create_task(wait(future))
        loop.call_soon(wake_up)
        loop.run_until_complete(task)
    assert seen == ["its own", True, "nobody's"]


@LOOPS
def test_a_callback_that_raises_beside_the_task(new_loop: type[asyncio.AbstractEventLoop]) -> None:
    """The loop reports it, and the task goes on."""
    said: list[str] = []

    def broken(future: asyncio.Future[None]) -> None:
        raise ValueError("broken")

    async def wait(future: asyncio.Future[None]) -> None:
        future.add_done_callback(broken)
        await future

    with asyncio.Runner(loop_factory=new_loop) as runner:
        loop = runner.get_loop()
        loop.set_exception_handler(lambda _, context: said.append(repr(context["exception"])))
        future = loop.create_future()
        task = loop.create_task(wait(future))
        loop.call_soon(resume, lambda: [future])
        loop.run_until_complete(asyncio.wait_for(task, 10))
    assert said == ["ValueError('broken')"]


class Nested(asyncio.SelectorEventLoop):
    """A loop as nest_asyncio leaves it, with futures that are not written in C."""

    _nest_patched = True

    def create_future(self) -> asyncio.Future[object]:
        future: asyncio.Future[object] = _PyFuture(loop=self)
        return future


def test_in_a_loop_within_a_loop_all_are_woken_before_one_goes_on() -> None:
    """The first may run the loop until the second is done."""

    async def main() -> None:
        here, there = aioproc.Pipe()

        async def first() -> bool:
            await aioproc.wait([here])
            return bool(other.done() or other._fut_waiter.done())  # type: ignore[attr-defined]

        one = asyncio.create_task(first())
        other = asyncio.create_task(aioproc.wait([here]))
        await asyncio.sleep(0)
        await there.send(1)
        assert await asyncio.wait_for(one, 10)
        assert await asyncio.wait_for(other, 10) == [here]

    with asyncio.Runner(loop_factory=Nested) as runner:
        runner.run(main())


@LOOPS
def test_who_ends_the_program_keeps_nobody_asleep(new_loop: type[asyncio.AbstractEventLoop]) -> None:
    """A Ctrl-C that the first of several raises ends the loop's run; the others go on in its next one."""

    async def wait(future: asyncio.Future[None], end: BaseException | None) -> str:
        await future
        if end is not None:
            raise end
        return "went on"

    loop = new_loop()
    try:
        futures = [loop.create_future() for _ in range(3)]
        ends = [None, KeyboardInterrupt(), None]
        tasks = [loop.create_task(wait(*each)) for each in zip(futures, ends, strict=True)]
        loop.call_soon(lambda: loop.call_soon(resume, lambda: futures))
        with pytest.raises(KeyboardInterrupt):
            loop.run_forever()
        assert loop.run_until_complete(tasks[2]) == "went on"
        assert tasks[0].result() == "went on"
        assert isinstance(tasks[1].exception(), KeyboardInterrupt)
    finally:
        loop.close()


def test_asyncios_debug_mode_names_the_task(caplog: pytest.LogCaptureFixture) -> None:
    """A task that holds up the loop after a wait, or after a pool's call, is told of by its name."""

    async def hold_up(queue: aioproc.Queue[int], pool: aioproc.AsyncPool) -> None:
        for waits in (queue.get(), pool.apply(abs, (1,))):
            await waits
            time.sleep(0.05)

    async def main() -> None:
        asyncio.get_running_loop().slow_callback_duration = 0.04
        queue = aioproc.Queue[int]()
        async with aioproc.AsyncPool(1) as pool:
            await pool.apply(abs, (1,))
            caplog.clear()
            task = asyncio.create_task(hold_up(queue, pool), name="culprit")
            await asyncio.sleep(0)
            await queue.put(1)
            await task
        queue.close()

    asyncio.run(main(), debug=True)
    assert sum("name='culprit'" in record.getMessage() for record in caplog.records) == 2


@LOOPS
def test_a_cancellation_in_the_same_turn_loses_nothing(new_loop: type[asyncio.AbstractEventLoop]) -> None:
    """Who is cancelled when the item has come and has not been looked for leaves it to the next."""

    async def main() -> list[int | BaseException]:
        queue = aioproc.Queue[int]()
        waiting = [asyncio.ensure_future(queue.get()) for _ in range(2)]
        await asyncio.sleep(0)
        await queue.put(1)
        waiting[0].cancel()
        await queue.put(2)
        found = await asyncio.gather(*waiting, return_exceptions=True)
        assert isinstance(found[0], asyncio.CancelledError)
        rest = [found[1], await queue.get()]
        queue.close()
        return rest

    with asyncio.Runner(loop_factory=new_loop) as runner:
        assert runner.run(main()) == [1, 2]
