"""The hub of a meeting dies before each of its own system calls: members carry on, newcomers find them."""

from __future__ import annotations

import os
from collections.abc import Callable
from unittest.mock import patch

import anyio
import pytest

import aioproc
from aioproc._kernel import door
from aioproc._kernel.handle import Handle
from tests.hubs import ended, hubs_at, kill_hub, meeting_place

path = pytest.fixture(meeting_place, name="path")

SECONDS = 10  # by then a meeting has come to a standstill
CODE = (
    "import sys; sys.path.append(sys.argv[1]); from aioproc._kernel.hub import main; "
    "from tests.crash.killing import HUB_CALLS, kill_before_call; "
    "kill_before_call({point}, HUB_CALLS, {note!r}); main(*sys.argv[2:])"
)


def let_next_hub_die(point: int, note: str) -> None:
    """The next hub that is started here dies before its so-many-th call; those after it live."""

    def start_victim(path: str, listener: Handle, roll: int) -> None:
        replaced.stop()
        with patch.object(door, "_CODE", CODE.format(point=point, note=note)):
            door._start(path, listener, roll)

    replaced = patch.object(door, "_start", start_victim)
    replaced.start()


def use_sync(path: str, between: Callable[[], object]) -> None:
    """Two come after the first, one after the other, and meet what was there."""
    with aioproc.meet_sync(path) as one:
        one.Queue("jobs").put("old")
        assert one.Lock("held").acquire(block=False)
        between()
        with aioproc.meet_sync(path) as other:
            assert other.Queue("jobs").get(timeout=SECONDS) == "old"
            assert not other.Lock("held").acquire(block=False)
            other.Event("given").set()
        with aioproc.meet_sync(path) as newcomer:
            assert len(hubs_at(path)) <= 1
            assert newcomer.Event("given").is_set()
            one.Lock("held").release()
            assert newcomer.Lock("held").acquire(timeout=SECONDS)


async def use(path: str, between: Callable[[], object]) -> None:
    """The same in a loop."""
    async with aioproc.meet(path) as one:
        await one.Queue("jobs").put("old")
        assert await one.Lock("held").acquire(block=False)
        await anyio.to_thread.run_sync(between)
        async with aioproc.meet(path) as other:
            assert await other.Queue("jobs").get(timeout=SECONDS) == "old"
            assert not await other.Lock("held").acquire(block=False)
            other.Event("given").set()
        async with aioproc.meet(path) as newcomer:
            assert newcomer.Event("given").is_set()
            one.Lock("held").release()
            assert await newcomer.Lock("held").acquire(timeout=SECONDS)


def dies(path: str, way: str, later: bool, point: int) -> bool:
    """A meeting whose hub (the first, or one after a killed one) dies at a point; False when it did not."""
    note = path + ".died"

    def kill_the_first() -> None:
        let_next_hub_die(point, note)
        kill_hub(path)

    if not later:
        let_next_hub_die(point, note)
    between = kill_the_first if later else lambda: None
    if way == "sync":
        use_sync(path, between)
    else:
        anyio.run(use, path, between, backend=way)
    assert all(map(ended, hubs_at(path)))
    with aioproc.meet_sync(path) as stranger:
        assert not stranger.Event("given").is_set()  # all were gone, and so is what they had
    assert all(map(ended, hubs_at(path)))
    dead = os.path.exists(note)
    if dead:
        os.unlink(note)
    return dead


@pytest.mark.parametrize("later", [False, True], ids=["first", "later"])
@pytest.mark.parametrize(
    ("way", "stride"),
    [
        ("sync", 6),
        ("asyncio", 12),
        *(
            pytest.param(way, 1, marks=[pytest.mark.slow, pytest.mark.timeout(300)])
            for way in ("sync", "asyncio", "trio")
        ),
    ],
)
def test_hub_dies_at_each_step(path: str, way: str, stride: int, later: bool) -> None:
    """Starting, welcoming, letting go, ending: wherever it dies, the names stay as long as a member does."""
    point = 1
    while dies(path, way, later, point):
        point += stride
    assert point > 60
