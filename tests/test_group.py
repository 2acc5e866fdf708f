"""ProcessGroup: joined together, stopped together."""

from __future__ import annotations

import asyncio
import signal
from typing import Any

import anyio
import pytest

import aioproc
from aioproc import Process, ProcessDied, ProcessGroup, RemoteError
from tests.local import process_targets as targets
from tests.local.test_process import Words, words

pytestmark = pytest.mark.anyio
__all__ = ["words"]


async def test_leaving_joins_all(start_method: str) -> None:
    """After the block every member has ended, and its result is there."""
    kind = aioproc.get_context(start_method).Process
    async with ProcessGroup() as group:
        processes = [
            await group.start(targets.plain_add, 1, b=2),
            await group.start(targets.async_add, 3),
            await group.start(kind(target=targets.plain_add, args=(5,), name="named")),
        ]
        assert "ProcessGroup" in repr(group)
    assert [p.exitcode for p in processes] == [0, 0, 0]
    assert [await p.result() for p in processes] == [3, 13, 15]
    assert processes[2].name == "named"


async def test_the_group_of_a_context(start_method: str) -> None:
    """A context's group starts its members in the context's way."""
    context = aioproc.get_context(start_method)
    async with context.ProcessGroup() as group:
        process = await group.start(targets.plain_add, 1)
    assert isinstance(group, ProcessGroup)
    assert type(process) is context.Process


async def test_first_failure_stops_the_rest(words: Words) -> None:
    """A member's exception stops the others, whose `finally` runs, and comes out in an ExceptionGroup."""
    waiting: Process[None] | None = None
    with pytest.raises(ExceptionGroup) as caught:
        async with ProcessGroup() as group:
            waiting = await group.start(targets.async_wait, words.to)
            assert await words.next() == "ready"
            await group.start(targets.plain_raise, KeyError("first"))
            await anyio.sleep(60)
    assert caught.group_contains(KeyError, match="first")
    assert waiting is not None
    assert waiting.exitcode == -signal.SIGTERM
    assert await words.next() == "finally"


async def test_a_member_that_cancels_itself_has_failed() -> None:
    """A CancelledError in a child is a failure there, and cancels nobody here."""
    with pytest.raises(ExceptionGroup) as caught:
        async with ProcessGroup() as group:
            p: Process[Any] = await group.start(targets.plain_raise, asyncio.CancelledError("in the child"))
    assert caught.group_contains(RemoteError, match="CancelledError: in the child")
    with pytest.raises(RemoteError, match="CancelledError: in the child"):
        await p.result()


async def test_failure_of_the_body_stops_all(words: Words) -> None:
    """The body's exception stops the members before it comes out."""
    with pytest.raises(ExceptionGroup) as caught:
        async with ProcessGroup() as group:
            p = await group.start(targets.plain_wait, words.to)
            assert await words.next() == "ready"
            raise ValueError("body")
    assert caught.group_contains(ValueError, match="body")
    assert p.exitcode == -signal.SIGTERM


async def test_cancellation_stops_all(words: Words) -> None:
    """A cancelled block leaves no member behind; one that ignores it is killed after the group's grace."""
    with anyio.CancelScope() as scope:
        async with ProcessGroup(grace=0.1) as group:
            polite = await group.start(targets.async_wait, words.to)
            assert await words.next() == "ready"
            rude = await group.start(targets.stuck_in_c, words.to)
            assert await words.next() == "ready"
            scope.cancel()
    assert (polite.exitcode, rude.exitcode) == (-signal.SIGTERM, -signal.SIGKILL)


async def test_a_killed_member_is_a_failure(words: Words) -> None:
    """A member that is killed by others is ProcessDied; one that was ended through its object is not."""
    async with ProcessGroup() as group:
        for end in (Process.terminate, Process.kill, Process.interrupt):
            p: Process[Any] = await group.start(targets.async_wait, words.to)
            assert await words.next() == "ready"
            end(p)
            await p.join()
            if end is not Process.kill:
                assert await words.next() == "finally"
    with pytest.raises(ExceptionGroup) as caught:
        async with ProcessGroup() as group:
            await group.start(targets.die, signal.SIGKILL)
    assert caught.group_contains(ProcessDied, match="SIGKILL")


async def test_block_that_ends_while_another_task_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A start that is done only after the block leaves no child that nobody looks after."""
    started, left = anyio.Event(), anyio.Event()
    start = Process._start

    async def slow(self: Process[Any], quiet: bool, bound: bool) -> Any:
        ending = await start(self, quiet, bound)
        started.set()
        await left.wait()
        return ending

    async def late() -> None:
        with pytest.raises(RuntimeError, match="ended while"):
            await group.start(signal.pause)

    monkeypatch.setattr(Process, "_start", slow)
    async with anyio.create_task_group() as tasks:
        async with ProcessGroup() as group:
            tasks.start_soon(late)
            await started.wait()
        left.set()
    assert aioproc.active_children() == []


@pytest.mark.parametrize("by", ["join", "result"])
async def test_members_may_be_closed_inside(by: str) -> None:
    """A member that has ended can be closed before the block ends."""
    async with ProcessGroup() as group:
        p = await group.start(targets.plain_add, 1)
        await getattr(p, by)()
        p.close()
        assert "0 of 1 alive" in repr(group)
        other = await group.start(targets.plain_add, 2)
    assert await other.result() == 12


async def test_a_closed_member_may_have_failed() -> None:
    """Its failure still stops the rest, though its object was closed as soon as it had ended."""
    with pytest.raises(ExceptionGroup) as caught:
        async with ProcessGroup() as group:
            p: Process[Any] = await group.start(targets.plain_raise, KeyError("gone"))
            await p.join()
            p.close()
            await group.start(signal.pause)
    assert caught.group_contains(KeyError)


async def test_wrong_uses_are_refused() -> None:
    """Outside of the block, after it, twice at once, with arguments beside a Process, bad target or grace."""
    group = ProcessGroup()
    with pytest.raises(RuntimeError, match="inside"):
        await group.start(targets.plain_add, 1)
    async with group:
        with pytest.raises(TypeError, match="arguments already"):
            await group.start(Process(target=targets.plain_add), 1)  # type: ignore[call-overload]
        with pytest.raises(TypeError, match="callable, not 3"):
            await group.start(3)  # type: ignore[call-overload]
        with pytest.raises(RuntimeError, match="entered already"):
            await group.__aenter__()
        assert await (await group.start(targets.plain_add, 1)).result() == 11
    with pytest.raises(RuntimeError, match="inside"):
        await group.start(targets.plain_add, 1)
    with pytest.raises(ValueError, match="-1"):
        ProcessGroup(grace=-1)
    with pytest.raises(ValueError, match="nan"):
        ProcessGroup(grace=float("nan"))
