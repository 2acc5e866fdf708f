"""Event: one call sets it for everybody."""

from __future__ import annotations

import threading
from typing import Any

import anyio
import pytest

import aioproc
from aioproc import Event, Process
from tests.local import sync_children as children
from tests.local.lock_children import voluntary_switches
from tests.shared import Wire

pytestmark = pytest.mark.anyio


async def test_set_wakes_everybody(anyio_backend: Any, start_method: str) -> None:
    """Tasks, threads, async and plain children all go on, and who comes later does not wait."""
    event, wire = Event(), Wire()
    context = aioproc.get_context(start_method)
    waiting = [context.Process(target=children.wait_for_event, args=(event.sync, wire)) for _ in range(2)]
    waiting.append(context.Process(target=children.wait_for_event_async, args=(event, wire)))
    for process in waiting:
        await process.start()
    thread = threading.Thread(target=children.wait_for_event, args=(event.sync, wire))
    thread.start()
    async with anyio.create_task_group() as group:
        for _ in range(20):
            group.start_soon(children.wait_for_event_async, event, wire)
        await anyio.wait_all_tasks_blocked()
        event.set()
    for process in waiting:
        await process.result()
    await anyio.to_thread.run_sync(thread.join)
    assert [await wire.ahear() for _ in range(24)] == [True] * 24
    assert await event.wait(0) is True
    event.set()
    event.clear()
    event.clear()
    assert not event.is_set()
    assert not await event.wait(0.01)
    assert not event.sync.wait(-1)
    assert not await event.wait(-1)


async def test_a_setter_that_dies_has_set_it(anyio_backend: Any) -> None:
    """It is set or not, never half: what a killed process set stays set, and can be cleared."""
    event = Event()
    setter = Process(target=children.set_and_die, args=(event.sync,))
    await setter.start()
    assert await event.wait(20)
    await setter.join()
    assert event.is_set()
    event.clear()
    assert not event.is_set()


async def test_a_killed_or_cancelled_waiter_changes_nothing(anyio_backend: Any) -> None:
    """Others still see it set."""
    event, wire = Event(), Wire()
    waiter = Process(target=children.wait_for_event, args=(event.sync, wire))
    await waiter.start()
    with anyio.move_on_after(0.05):
        await event.wait()
    waiter.kill()
    await waiter.join()
    event.set()
    assert await event.wait()


async def test_idle_waiting_makes_no_system_call(anyio_backend: Any) -> None:
    """Who waits sleeps."""
    event, wire = Event(), Wire()
    waiter = Process(target=children.say_and_wait, args=(event, wire))
    await waiter.start()
    assert await wire.ahear() == "here"
    await anyio.sleep(0.1)
    assert waiter.pid
    before = voluntary_switches(waiter.pid)
    await anyio.sleep(0.3)
    assert voluntary_switches(waiter.pid) == before
    event.set()
    await waiter.result()
