"""Processes in uncommon surroundings: ignored signals, children left behind, odd classes and programs."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import anyio
import pytest

import aioproc
from aioproc import AsyncPool, Process, ProcessGroup, RemoteError
from aioproc.context import Context
from tests import tasks
from tests.conftest import open_descriptors
from tests.local import process_targets as targets
from tests.local.test_process import Words, ctx, words

__all__ = ["ctx", "words"]

ROOT = str(Path(__file__).parent.parent.parent)
METHODS = pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])


def printed(*command: str, given: bytes = b"", **environment: str) -> str:
    """What a Python program prints, that gets these bytes to read."""
    found = os.environ | {"PYTHONPATH": ROOT} | environment
    done = subprocess.run([sys.executable, *command], input=given, env=found, capture_output=True, timeout=30)
    assert (done.returncode, done.stderr) == (0, b"")
    return done.stdout.decode()


# Signals


@pytest.mark.anyio
@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.parametrize("target", [targets.plain_wait, targets.async_wait])
async def test_an_ignored_interrupt(method: str, target: Any, words: Words) -> None:
    """Where a program ignores SIGINT, as a shell script's in the background does, so do its children."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        process = aioproc.get_context(method).Process(target=target, args=(words.to,))
        await process.start()
    finally:
        signal.signal(signal.SIGINT, before)
    assert await words.next() == "ready"
    process.interrupt()
    process.terminate()
    await process.join()
    assert process.exitcode == -signal.SIGTERM


@pytest.mark.anyio
@pytest.mark.parametrize("target", [targets.leave_a_child, targets.leave_a_child_async])
async def test_a_child_that_is_ended_waits_for_no_child(ctx: Context, target: Any, words: Words) -> None:
    """SIGTERM unwinds it and ends it at once, as in the stdlib; its own child, no daemon, is left behind."""
    process = ctx.Process(target=target, args=(words.to,))
    await process.start()
    left = int(await words.next())
    assert await words.next() == "ready"
    try:
        with anyio.fail_after(30):
            assert await process.stop(grace=60) == -signal.SIGTERM
        os.kill(left, 0)
    finally:
        os.kill(left, signal.SIGKILL)


@pytest.mark.parametrize("times", [2, 3, 6])
def test_a_block_cancelled_again_and_again(times: int) -> None:
    """Its child has ended when it is left, however often the task is cancelled meanwhile."""

    async def main() -> None:
        entered = asyncio.Event()
        process = Process(target=signal.pause)

        async def use() -> None:
            async with process:
                entered.set()
                await asyncio.sleep(60)

        user = asyncio.create_task(use())
        await entered.wait()
        for _ in range(times):
            user.cancel()
            await asyncio.sleep(0)
        with pytest.raises(asyncio.CancelledError):
            await user
        assert not process.is_alive()

    asyncio.run(main())


@pytest.mark.anyio
@pytest.mark.parametrize("target", [targets.run_trio, targets.run_a_nursery])
async def test_a_target_that_runs_trio_itself(ctx: Context, target: Any, words: Words) -> None:
    """SIGTERM and SIGINT unwind its tasks, as with asyncio."""
    for number in (signal.SIGTERM, signal.SIGINT):
        process = ctx.Process(target=target, args=(words.to,))
        await process.start()
        assert await words.next() == "ready"
        process.terminate() if number == signal.SIGTERM else process.interrupt()
        assert await words.next() == "finally"
        await process.join()
        assert process.exitcode == -number


# Results


@pytest.mark.anyio
async def test_an_exception_that_is_unknown_here(ctx: Context) -> None:
    """Of one whose class cannot be imported here the words and the traceback come, not an ImportError."""
    with pytest.raises(RemoteError, match="OnlyHere: the real reason") as caught:
        await ctx.Process(target=targets.raise_what_only_this_process_knows)
    assert "raise_what_only_this_process_knows" in str(caught.value.__cause__)
    async with AsyncPool(1) as pool:
        with pytest.raises(RemoteError, match="OnlyHere: the real reason"):
            await pool.apply(targets.raise_what_only_this_process_knows)


TEXT_WITHOUT_CLOUDPICKLE = """
import sys; sys.modules["cloudpickle"] = None
import os.path
import aioproc
class Here: pass
async def main():
    print(await aioproc.Process(target=os.path.join, args=("package", "__main__.py")))
    queue = aioproc.SimpleQueue()
    for item in (Here, [b"__main__" * 20_000, Here()]):
        try:
            await queue.put(item)
        except Exception as error:
            print(type(error).__name__)
aioproc.run(main)
"""


def test_text_that_names_the_main_module() -> None:
    """Only what is looked up in a main module that no child can import is refused, not its name in a text."""
    assert printed("-c", TEXT_WITHOUT_CLOUDPICKLE) == "package/__main__.py\nPicklingError\nPicklingError\n"


CLASSES_OF_MAIN = """
import aioproc
class Box: pass
class MyError(Exception): pass
def give():
    return Box()
def fail():
    raise MyError("no")
async def main():
    for method in ("fork", "forkserver"):
        context = aioproc.get_context(method)
        print(isinstance(await context.Process(target=give), Box))
        try:
            await context.Process(target=fail)
        except MyError as error:
            print(error)
aioproc.run(main)
"""


def test_classes_of_a_main_module_that_nobody_can_import() -> None:
    """What comes home is of the same class, as between processes that share the main module otherwise."""
    pytest.importorskip("cloudpickle")
    assert printed("-c", CLASSES_OF_MAIN) == "True\nno\n" * 2


# Objects


@pytest.mark.anyio
async def test_a_subclass_with_a_state_of_its_own() -> None:
    """What `__getstate__` leaves out and slots hold, as with the stdlib's."""
    assert await targets.WithGuard(8) == 8


@pytest.mark.anyio
async def test_one_awaits_what_another_had_begun(ctx: Context) -> None:
    """A task whose start is cancelled takes the process from nobody."""
    process = ctx.Process(target=targets.plain_add, args=(1,))
    got: list[int] = []

    async def begin(scope: anyio.CancelScope) -> None:
        with scope:
            await process

    async def follow() -> None:
        got.append(await process)

    first = anyio.CancelScope()
    async with anyio.create_task_group() as group:
        group.start_soon(begin, first)
        while process._starting is None:
            await anyio.lowlevel.checkpoint()
        group.start_soon(follow)
        await anyio.lowlevel.checkpoint()
        first.cancel()
    assert got == [11]


@pytest.mark.anyio
async def test_a_daemon_is_one_from_the_beginning(ctx: Context) -> None:
    """It cannot become one while it is being started, when it has already been told what it is."""
    process = ctx.Process(target=targets.plain_add, args=(1,))
    async with anyio.create_task_group() as group:
        group.start_soon(process.start)
        while process._starting is None:
            await anyio.lowlevel.checkpoint()
        with pytest.raises(AssertionError, match=r"process (is being|has already) started"):
            process.daemon = True
    await process.join()


@pytest.mark.anyio
async def test_a_group_lets_go_of_members_that_have_ended() -> None:
    """A group that lives long holds no descriptor of those who came and went."""
    async with ProcessGroup() as group:
        for _ in range(2):
            await (await group.start(targets.plain_add, 1)).result()
            while group._running:
                await anyio.lowlevel.checkpoint()
            before = open_descriptors()
        assert open_descriptors() == before
        assert repr(group) == "<ProcessGroup 0 of 2 alive>"


@pytest.mark.anyio
async def test_a_fork_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there are too many processes nothing is left behind."""

    def none_more() -> int:
        raise BlockingIOError("Resource temporarily unavailable")

    process = aioproc.get_context("fork").Process(target=targets.plain_add, args=(1,))
    with monkeypatch.context() as patch:
        patch.setattr(os, "fork", none_more)
        with pytest.raises(BlockingIOError):
            await process.start()
    assert await process == 11


def test_an_empty_name() -> None:
    """It gets the usual one, as in the stdlib."""
    assert Process(name="").name.startswith("Process-")


@pytest.mark.anyio
async def test_the_workers_of_a_pool() -> None:
    """They are the pool's; in one of them the stdlib's object tells its name."""
    async with AsyncPool(1) as pool:
        assert (await pool.apply(tasks.own_name)).startswith("Worker-")
        assert aioproc.active_children() == []


# Programs


FINDS_ITS_MODULES = """
import sys; sys.path[:] = {path}
import aioproc
async def main():
    print(await aioproc.get_context({method!r}).Process(target=pow, args=(2, 3)))
if __name__ == "__main__":
    aioproc.run(main)
"""


@METHODS
def test_modules_that_only_the_program_finds(method: str, tmp_path: Path) -> None:
    """A program that says itself where aioproc is, as one in an archive does: its children find it there."""
    path = [ROOT, *sys.path]
    (tmp_path / "program.py").write_text(FINDS_ITS_MODULES.format(path=path, method=method))
    assert printed("-S", "-E", str(tmp_path / "program.py")) == "8\n"


DRAWS = """
import numpy
import aioproc
numpy.random.{first}
def draw():
    return numpy.random.random()
async def main():
    context = aioproc.get_context("forkserver")
    print(len({{await context.Process(target=draw) for _ in range(3)}}))
if __name__ == "__main__":
    aioproc.run(main)
"""


@pytest.mark.parametrize(("first", "different"), [("random()", 3), ("seed(5)", 1)])
def test_random_numbers_of_numpy(first: str, different: int, tmp_path: Path) -> None:
    """Each child draws others, though the fork server has imported numpy; the same where main seeds it."""
    pytest.importorskip("numpy")
    (tmp_path / "program.py").write_text(DRAWS.format(first=first))
    assert printed(str(tmp_path / "program.py")) == f"{different}\n"


READS = """
import sys
import aioproc
def read():
    return ascii(sys.stdin.read())
async def main():
    print(await aioproc.get_context({method!r}).Process(target=read, stdin="inherit"))
if __name__ == "__main__":
    aioproc.run(main)
"""


@METHODS
def test_the_encoding_of_the_input(method: str, tmp_path: Path) -> None:
    """A child reads standard input as its parent would."""
    (tmp_path / "program.py").write_text(READS.format(method=method))
    found = printed(str(tmp_path / "program.py"), given=b"h\xe9", PYTHONIOENCODING="latin-1")
    assert found == "'h\\xe9'\n"


def test_preloading_what_a_generator_names() -> None:
    """Any iterable of names will do."""
    server = aioproc._kernel.forkserver.server
    before = server.extra
    try:
        aioproc.set_forkserver_preload(name for name in ("json", "decimal"))  # type: ignore[arg-type]
        assert server.extra == ["json", "decimal"]
    finally:
        server.extra = before
