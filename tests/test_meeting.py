"""Meeting by name: one table for all who come, whoever is killed, and nothing left when all have gone."""

from __future__ import annotations

import errno
import os
import random
import re
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from zipfile import ZipFile

import anyio
import psutil
import pytest
from blockbuster import BlockBuster

import aioproc
from aioproc._kernel import door, names
from aioproc._kernel import hub as hubs
from aioproc._kernel.member import Member
from aioproc._kernel.rights import rights
from tests.crash.killing import forked, forks_after
from tests.hubs import ended, hubs_at, kill_hub, meeting_place

path = pytest.fixture(meeting_place, name="path")

ROOT = Path(__file__).parent.parent
ONE_LOOP = pytest.mark.parametrize("anyio_backend", [("asyncio", {"use_uvloop": False})], ids=["asyncio"])


def program(*words: str) -> subprocess.Popen[str]:
    """Start one of meeting_programs.py; it ends at the end of its input."""
    command = [sys.executable, "-m", "tests.meeting_programs", *words]
    return subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def line_of(process: subprocess.Popen[str]) -> str:
    assert process.stdout
    return process.stdout.readline().strip()


def nudge(process: subprocess.Popen[str]) -> None:
    assert process.stdin
    process.stdin.write("\n")
    process.stdin.flush()


@contextmanager
def programs(*lines: tuple[str, ...]) -> Iterator[list[subprocess.Popen[str]]]:
    """Several programs; at the end they hear the end of their input and end."""
    with ExitStack() as stack:
        yield [stack.enter_context(program(*words)) for words in lines]


# What is met


@pytest.mark.anyio
async def test_same_objects(path: str) -> None:
    """The same name gives the same object to each member, of every kind."""
    async with aioproc.meet(path) as one, aioproc.meet(path) as other:
        async with one.Lock("lock"):
            assert other.Lock("lock").locked()
        await one.Queue("queue", maxsize=2).put("item")
        assert await other.Queue("queue", maxsize=2).get() == "item"
        await one.JoinableQueue("tasks").put("task")
        assert await other.JoinableQueue("tasks").get() == "task"
        other.JoinableQueue("tasks").task_done()
        await one.JoinableQueue("tasks").join()
        await one.JoinableQueue("few tasks", 3).put("task")
        assert await other.JoinableQueue("few tasks", 3).get() == "task"
        one.Event("event").set()
        assert await other.Event("event").wait()
        assert await one.Semaphore("semaphore", 1).acquire()
        assert other.Semaphore("semaphore", 1).get_value() == 0
        assert await one.BoundedSemaphore("limit", 2).acquire()
        assert other.BoundedSemaphore("limit", 2).get_value() == 1
        one.BoundedSemaphore("limit", 2).release()
        async with anyio.create_task_group() as group:
            group.start_soon(one.Barrier("gate", 2).wait)
            group.start_soon(other.Barrier("gate", 2).wait)


def test_same_objects_sync(path: str) -> None:
    """The twins meet each other too, and need no loop."""
    with aioproc.meet_sync(path) as one, aioproc.meet_sync(path) as other:
        with one.Lock("lock"):
            assert not other.Lock("lock").acquire(block=False)
        one.Queue("queue", 2).put("item")
        assert other.Queue("queue", 2).get() == "item"
        one.Event("event").set()
        assert other.Event("event").is_set()
        one.Semaphore("semaphore", 0).release()
        assert other.Semaphore("semaphore", 0).acquire(block=False)
        assert one.BoundedSemaphore("limit", 3).acquire()
        one.JoinableQueue("tasks").put("task")
        assert other.JoinableQueue("tasks").get() == "task"
        assert one.Barrier("gate", 1).wait() == 0


@ONE_LOOP
@pytest.mark.anyio
async def test_one_object_a_member(path: str) -> None:
    """A member that asks again gets the very object that it has; one that it closed is made anew."""
    async with aioproc.meet(path) as hub:
        queue = hub.Queue("queue")
        assert hub.Queue("queue") is queue
        await queue.put(1)
        queue.close()
        assert await hub.Queue("queue").get() == 1


@ONE_LOOP
@pytest.mark.anyio
async def test_another_kind_or_size(path: str) -> None:
    """Another kind or size under a name is a ValueError that says what is there, here and elsewhere."""
    async with aioproc.meet(path) as one, aioproc.meet(path) as other:
        one.Queue("jobs", maxsize=100)
        for hub in one, other:
            with pytest.raises(ValueError, match=r"'jobs' is Queue\(maxsize=100\) there, not Lock$"):
                hub.Lock("jobs")
            with pytest.raises(ValueError, match=r"Queue\(maxsize=100\) there, not Queue\(maxsize=5\)"):
                hub.Queue("jobs", 5)
            with pytest.raises(ValueError, match=r"not JoinableQueue\(maxsize=100\)"):
                hub.JoinableQueue("jobs", 100)
        assert other.Queue("jobs", 100).empty()


@ONE_LOOP
@pytest.mark.anyio
async def test_names(path: str) -> None:
    """A name is a str of one byte to a kilobyte, any characters; odd ones are told apart."""
    async with aioproc.meet(path) as hub, aioproc.meet(path) as other:
        odd = ["a", "a\0", "ä", "\udc80", '"', "x" * 1024, "\1" * 1024]
        for name in odd:
            hub.Event(name)
        hub.Event('"').set()
        assert [name for name in odd if other.Event(name).is_set()] == ['"']
        for wrong in "", "x" * 1025:
            with pytest.raises(ValueError, match="a name has 1 to 1024 bytes"):
                hub.Lock(wrong)
        with pytest.raises(TypeError, match="a name is a str"):
            hub.Lock(b"bytes")  # type: ignore[arg-type]


@ONE_LOOP
@pytest.mark.anyio
async def test_outside(path: str) -> None:
    """Before and after, no name can be asked for; what was got works on; a meeting is entered once."""
    hub = aioproc.meet(path)
    with pytest.raises(ValueError, match="not in a meeting"):
        hub.Lock("lock")
    async with hub:
        lock, queue = hub.Lock("lock"), hub.Queue("queue")
        assert "2 names known" in repr(hub)
    assert "not in it" in repr(hub)
    with pytest.raises(ValueError, match="not in a meeting"):
        hub.Lock("lock")
    with pytest.raises(RuntimeError, match="entered once"):
        async with hub:
            pass
    async with lock:
        await queue.put(1)
        assert await queue.get() == 1


@ONE_LOOP
@pytest.mark.anyio
async def test_error_in_the_body(path: str) -> None:
    """An error in the body comes out as itself."""
    with pytest.raises(KeyError, match="mine"):
        async with aioproc.meet(path):
            raise KeyError("mine")


@pytest.mark.anyio
async def test_cancelled(path: str) -> None:
    """A wait of a member that is cancelled leaves the meeting in order; so does cancelling at the door."""
    with anyio.move_on_after(0.02):
        async with aioproc.meet(path) as hub:
            await hub.Event("never").wait()
    with anyio.CancelScope() as scope:
        scope.cancel()
        async with aioproc.meet(path):
            pass
    assert scope.cancelled_caught


def test_forked(path: str) -> None:
    """A forked child is no member: it is told so, and its copies do not keep the hub."""
    with aioproc.meet_sync(path) as hub:
        event = hub.Event("event")
        child = os.fork()
        if not child:
            try:
                hub.Lock("lock")
            except ValueError:
                event.set()
            finally:
                os._exit(0)
        os.waitpid(child, 0)
        assert event.is_set()


def test_a_fork_while_a_hub_is_started(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A child that another thread forks meanwhile does not keep the next hub from being started."""
    with forks_after(monkeypatch, subprocess, "Popen") as forked_meanwhile:
        with aioproc.meet_sync(path):
            forked_meanwhile()
            kill_hub(path)
        with aioproc.meet_sync(path) as hub:
            hub.Lock("lock")


# Those who come together


def test_twenty_at_once(path: str) -> None:
    """Twenty that arrive at the same moment end up at one hub, with one table and one of each object."""
    with programs(*[("arrive", path)] * 20) as all_:
        assert {line_of(each) for each in all_} == {"ready"}
        for each in all_:
            nudge(each)
        assert len({line_of(each) for each in all_}) == 1
        assert len(hubs_at(path)) == 1
        with aioproc.meet_sync(path) as hub:
            pids = {hub.Queue("turns").get() for _ in all_}
            assert pids == {each.pid for each in all_}
            assert hub.Semaphore("count", 0).aio.get_value() == 20


@pytest.mark.parametrize("kill", [signal.SIGKILL, None], ids=["killed", "left"])
def test_last_one_leaves(path: str, kill: signal.Signals | None) -> None:
    """The hub ends after the last member has left or was killed, and leaves no file (the fixture looks)."""
    with program("stay", path, "sync") as one:
        assert line_of(one) == "in"
        assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
        (hub,) = hubs_at(path)
        assert os.getsid(hub.pid) not in (os.getsid(0), os.getsid(one.pid))
        if kill:
            one.send_signal(kill)
    assert ended(hub)
    assert not os.path.exists(path)


def test_killed_holder(path: str) -> None:
    """A member killed while it holds a lock disturbs nobody: the next finds it abandoned."""
    with program("stay", path, "sync") as one, aioproc.meet_sync(path) as hub:
        assert line_of(one) == "in"
        lock = hub.Lock("held")
        assert not lock.acquire(block=False)
        one.kill()
        assert lock.acquire(timeout=10)
        assert lock.abandoned


@pytest.mark.parametrize("number", [1, 2, 3])
def test_without_standard_streams(path: str, number: int) -> None:
    """A program that has closed its standard streams, as an old daemon does, starts a hub as well."""

    def meet() -> None:
        for fd in range(number):
            os.close(fd)
        with aioproc.meet_sync(path) as hub, hub.Lock("lock"):
            pass

    assert os.waitstatus_to_exitcode(os.waitpid(forked(meet), 0)[1]) == 0


# When the hub is killed


@pytest.mark.parametrize("way", ["sync", "asyncio", "trio"])
def test_hub_killed(path: str, way: str) -> None:
    """After the hub's death a newcomer meets the objects of those who are still there, idle as they are."""
    with program("stay", path, way) as one:
        assert line_of(one) == "in"
        for times in range(3):
            kill_hub(path)
            with aioproc.meet_sync(path) as hub:
                assert len(hubs_at(path)) == 1
                queue = hub.Queue("jobs", 5)
                assert (queue.get(), queue.empty()) == ("old" if not times else times - 1, True)
                queue.put(times)
                assert hub.Lock("held").locked()


def test_summoned_in_an_election(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who hears of his hub's death while his thread starts a hub for another member waits for that."""
    opened = door._opened

    def hear_and_open(*args: Any) -> Any:
        signal.raise_signal(signal.SIGURG)
        return opened(*args)

    monkeypatch.setattr(door, "_opened", hear_and_open)
    with aioproc.meet_sync(path) as one:
        one.Queue("jobs").put("old")
        handler = signal.signal(signal.SIGURG, signal.SIG_IGN)
        kill_hub(path)
        signal.signal(signal.SIGURG, handler)
        with aioproc.meet_sync(path) as other:
            assert other.Queue("jobs").get(timeout=10) == "old"
            assert len(hubs_at(path)) == 1


def test_hub_killed_and_nobody_left(path: str) -> None:
    """Members that die with their hub leave a stale socket, which is taken over, with a new table."""
    with program("stay", path, "sync") as one:
        assert line_of(one) == "in"
        (hub,) = hubs_at(path)
        hub.suspend()  # so that it does not see the member's end
        one.kill()
        one.wait()
        hub.kill()
    assert ended(hub)
    assert os.path.exists(path)
    with aioproc.meet_sync(path) as newcomer:
        assert newcomer.Queue("jobs", 5).empty()


def test_outside_the_main_thread(path: str) -> None:
    """A member in another thread brings the names when it next asks; who came before has new ones, and it
    is told so."""
    with ThreadPoolExecutor(1) as thread:
        hub = thread.submit(aioproc.meet_sync(path).__enter__).result()
        thread.submit(lambda: hub.Queue("jobs").put("old")).result()
        kill_hub(path)
        thread.submit(lambda: hub.Event("event")).result()
        with aioproc.meet_sync(path) as newcomer:
            assert newcomer.Queue("jobs").get() == "old"
        kill_hub(path)
        with aioproc.meet_sync(path) as newcomer:
            assert newcomer.Queue("jobs").empty()
            newcomer.Queue("jobs").put("new")
            with pytest.raises(RuntimeError, match="given anew without this member"):
                thread.submit(lambda: hub.Lock("lock")).result()
        thread.submit(hub.__exit__, None, None, None).result()


def no_descriptor(path: str) -> Any:
    raise OSError(errno.EMFILE, os.strerror(errno.EMFILE), path)


@pytest.mark.anyio
async def test_member_that_finds_no_hub(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits for a member that has no descriptor to spare when its hub dies; it is told so."""
    async with aioproc.meet(path) as hub:
        hub.Queue("jobs")
        with monkeypatch.context() as patch, anyio.fail_after(10):
            patch.setattr(door, "entered", no_descriptor)
            await anyio.to_thread.run_sync(kill_hub, path)
            await hub._watch_ended.wait()
        with anyio.fail_after(10):
            async with aioproc.meet(path) as newcomer:
                newcomer.Queue("jobs")
        with pytest.raises(RuntimeError, match="Too many open files"):
            hub.Queue("jobs")


def test_member_that_finds_no_hub_at_once(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same for one without a loop; it tries again when it next asks."""
    with aioproc.meet_sync(path) as hub:
        hub.Queue("jobs").put("old")
        with monkeypatch.context() as patch:
            patch.setattr(door, "entered", no_descriptor)
            kill_hub(path)
            with pytest.raises(RuntimeError, match="Too many open files"):
                hub.Queue("jobs")
        assert hub.Queue("jobs").get() == "old"
        with monkeypatch.context() as patch:
            patch.setattr(door, "entered", no_descriptor)
            kill_hub(path)
        with programs(("stay", path, "sync")) as (newcomer,):
            assert line_of(newcomer) == "in"
            with pytest.raises(RuntimeError, match="given anew without this member"):
                hub.Queue("jobs")


def no_process(*args: object) -> Any:
    raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))


@pytest.mark.anyio
async def test_no_process_can_be_started(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the hub cannot be started for want of processes, who enters is told at once."""
    monkeypatch.setattr(door, "_start", no_process)
    for _ in range(2):
        with anyio.fail_after(10), pytest.raises(BlockingIOError):
            async with aioproc.meet(path):
                pass
    with pytest.raises(BlockingIOError):
        await anyio.to_thread.run_sync(aioproc.meet_sync(path).__enter__)
    assert os.listdir(os.path.dirname(path)) == []


def test_threads_that_ask_at_once(path: str) -> None:
    """Threads that ask for a name at the same moment get the same object."""
    with aioproc.meet_sync(path) as hub, ThreadPoolExecutor(8) as threads:
        for number in range(30):
            together = threading.Barrier(8)

            def ask(name: str = str(number), together: threading.Barrier = together) -> Any:
                together.wait()
                return hub._table.get(aioproc.Lock, name)

            locks = [threads.submit(ask) for _ in range(8)]
            assert len({id(lock.result()) for lock in locks}) == 1


@pytest.mark.anyio
async def test_inside_the_loop_of_a_member_that_finds_no_hub(
    path: str, monkeypatch: pytest.MonkeyPatch, blocked_loop_guard: BlockBuster
) -> None:
    """`meet_sync` in the loop of a member of another meeting, which finds no hub: only that one fails."""
    entered, welcomed, asked = door.entered, Member.welcomed, list[Member]()

    def late(self: Member) -> None:
        asked.append(self)
        if len(asked) == 1:  # so that it waits, and hears what the other's hub has to say
            raise BlockingIOError
        welcomed(self)

    async with aioproc.meet(path + "-lost") as lost:
        blocked_loop_guard.deactivate()
        kill_hub(path + "-lost")
        monkeypatch.setattr(door, "entered", lambda at: no_descriptor(at) if at != path else entered(at))
        monkeypatch.setattr(Member, "welcomed", late)
        with aioproc.meet_sync(path) as other:
            other.Queue("jobs").put("new")
            assert other.Queue("jobs").get() == "new"
        with pytest.raises(RuntimeError, match="Too many open files"):
            lost.Queue("jobs")
        monkeypatch.setattr(door, "entered", entered)
        monkeypatch.setattr(Member, "welcomed", welcomed)
    async with aioproc.meet(path + "-lost"):
        pass
    assert all(map(ended, hubs_at(path + "-lost")))


@pytest.mark.anyio
async def test_inside_the_loop_of_a_member(path: str, blocked_loop_guard: BlockBuster) -> None:
    """`meet_sync` in the thread of a member's loop, just after a hub's death, is no deadlock."""
    async with aioproc.meet(path) as hub:
        await hub.Queue("jobs").put("old")
        for times in range(2):
            blocked_loop_guard.deactivate()
            kill_hub(path)
            with aioproc.meet_sync(path) as other:
                assert other.Queue("jobs").get(timeout=10) == "old"
                other.Queue("jobs").put("old")
            blocked_loop_guard.activate()
            await anyio.sleep(0.01 * times)
        kill_hub(path)
        async with aioproc.meet(path) as newcomer:
            assert await newcomer.Queue("jobs").get(timeout=10) == "old"


@ONE_LOOP
@pytest.mark.anyio
async def test_work_without_a_hub(path: str) -> None:
    """While no hub answers, members use their objects and meet each other's new names."""
    async with aioproc.meet(path) as one, aioproc.meet(path) as other:
        (hub,) = hubs_at(path)
        hub.suspend()
        async with one.Lock("new"):
            assert other.Lock("new").locked()
        hub.resume()


def test_hub_killed_at_random(path: str) -> None:
    """The hub is killed twenty times while programs come and go: one table through it all."""
    seed = random.randrange(1 << 30)
    dice = random.Random(seed)
    with aioproc.meet_sync(path) as hub:
        assert hub._member.names
        mine = " ".join(map(str, hub._member.names.identity))
        for _ in range(10):
            with programs(*[("arrive", path)] * 2) as two:
                for each in two:
                    assert line_of(each) == "ready"
                    nudge(each)
                for _ in range(2):
                    time.sleep(dice.random() * 0.02)
                    for found in hubs_at(path):
                        with suppress(psutil.NoSuchProcess):  # who starts a hub ends at once
                            found.kill()
                assert [line_of(each) for each in two] == [mine, mine], seed
        assert hub.Semaphore("count", 0).aio.get_value() == 20
        assert len(hubs_at(path)) <= 1


@pytest.mark.parametrize("first", [True, False], ids=["first", "later"])
@pytest.mark.parametrize("stride", [6, pytest.param(1, marks=[pytest.mark.slow, pytest.mark.timeout(300)])])
def test_member_killed_at_each_step(path: str, first: bool, stride: int) -> None:
    """A member killed before each of its visible steps, alone or beside others, disturbs nobody."""
    with ExitStack() as stack:
        if not first:
            stack.enter_context(aioproc.meet_sync(path))
        step = 1
        while True:
            with program("killed", path, str(step)) as victim:
                said = line_of(victim)
            if said == "survived":
                break
            assert victim.returncode == -signal.SIGKILL
            with aioproc.meet_sync(path) as hub:
                assert hub.Lock("lock").acquire(timeout=10)
                assert hub.Queue("turns").qsize() <= step
            step += stride
        assert step > 20


# Who is refused


@contextmanager
def own_hub(path: str, uid_of: Callable[[socket.socket], int] = hubs.peer_uid) -> Iterator[hubs.Hub]:
    """A hub inside this process, for looking at."""
    with door._elected(path) as roll:
        listener = door._listening(path)
    own = os.open(path + hubs.ROLL, os.O_RDONLY | os.O_NONBLOCK)
    hub = hubs.Hub(path, socket.socket(fileno=listener.detach()), own, uid_of)
    try:
        yield hub
    finally:
        assert hub._ended()
        hub.close()
        os.close(own)
    del roll


def turn(hub: hubs.Hub) -> None:
    """Let it do what is to be done now."""
    for fd, _ in hub._epoll.poll(0):
        if fd in hub._peers:
            hub._hear(hub._peers[fd])
    hub._accept()
    hub._settle()


def stranger(path: str) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    sock.settimeout(10)
    sock.connect(path)
    return sock


def test_another_user(path: str) -> None:
    """The hub refuses a peer that belongs to another user, and says why."""
    with own_hub(path, lambda sock: os.geteuid() + 1) as hub:
        with stranger(path) as sock:
            sock.send(hubs.HELLO)
            turn(hub)
            assert sock.recv(100) == b"!another user's meeting"
            assert sock.recv(100) == b""
        assert not hub._peers


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_another_users_hub(path: str) -> None:
    """A member refuses a hub of another user; that user cannot even connect here."""
    with aioproc.meet_sync(path):
        os.chmod(os.path.dirname(path), 0o755)
        child = os.fork()
        if not child:
            try:
                os.setuid(65534)
                aioproc.meet_sync(path).__enter__()
            except PermissionError as error:
                os._exit(42 if "another user's meeting" in str(error) else 1)
            finally:
                os._exit(2)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 42


def rubbish(dice: random.Random) -> bytes:
    """What no member would say: noise, half a word, a word and more."""
    word = dice.choice([hubs.HELLO, hubs.BRING, hubs.WELCOME, hubs.REFUSED])
    some = word[: dice.randrange(len(word) + 1)] + dice.randbytes(dice.randrange(40))
    return some if some != hubs.HELLO else b"\x80" + some


def test_parser() -> None:
    """Of 10,000 packets of rubbish none is taken for a word, whatever descriptors come with it."""
    dice = random.Random(8)
    with open(os.devnull) as file:
        for _ in range(10_000):
            packet, descriptors = rubbish(dice), [file.fileno()] * dice.choice([0, 0, 1, names.DESCRIPTORS])
            assert hubs.understood(packet, descriptors) == "rubbish"
    assert hubs.understood(hubs.HELLO, []) == "hello"


def open_in(hub: psutil.Process, path: str) -> int:
    """How many descriptors a hub has, when all who left before have been seen off."""
    with stranger(path) as last:
        last.send(hubs.HELLO)
        assert last.recv(100) == hubs.WELCOME
        last.send(b"rubbish")
        assert last.recv(100) == b""
        return int(hub.num_fds())


def test_rubbish(path: str) -> None:
    """Peers that send rubbish, half a request, descriptors or nothing are dropped, and the hub lives."""
    dice = random.Random(9)
    with aioproc.meet_sync(path) as hub, open(os.devnull) as file:
        (before,) = hubs_at(path)
        open_before = open_in(before, path)
        for _ in range(300):
            with stranger(path) as sock:
                along = rights(*[file.fileno()] * dice.randrange(1, 30)) if dice.random() < 0.3 else []
                if dice.random() < 0.9:
                    sock.sendmsg([rubbish(dice) or b"x"], along)
                    try:
                        assert sock.recv(100) == b""
                    except ConnectionResetError:
                        pass
        with stranger(path) as sock:
            sock.send(hubs.HELLO)
            assert sock.recv(100) == hubs.WELCOME
            sock.send(hubs.HELLO)  # a member has no more to say
            assert sock.recv(100) == b""
        with aioproc.meet_sync(path) as other:
            other.Event("event").set()
        assert hub.Event("event").is_set()
        assert hubs_at(path) == [before]
        assert open_in(before, path) == open_before


def test_silent(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A peer that connects and says nothing is dropped when its time is over."""
    monkeypatch.setattr(hubs, "SILENT_SECONDS", 0.0)
    with own_hub(path) as hub, stranger(path) as sock:
        turn(hub)
        assert sock.recv(100) == b""


def test_not_a_table(path: str) -> None:
    """Who brings something that is no table of names is dropped, and a newcomer gets a new one."""
    with own_hub(path) as hub, open(os.devnull) as file:
        with stranger(path) as sock:
            sock.sendmsg([hubs.BRING], rights(*[file.fileno()] * names.DESCRIPTORS))
            turn(hub)
            assert sock.recv(100) == b""
        with stranger(path) as sock:
            sock.send(hubs.HELLO)
            turn(hub)
            assert sock.recv(100) == hubs.WELCOME
        turn(hub)


def test_no_hub_of_ours(path: str) -> None:
    """A server at the path that is no hub is an error that says so."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as server:
        server.bind(path)
        server.listen()
        with pytest.raises(FileExistsError, match="another program's socket"):
            aioproc.meet_sync(path).__enter__()
    os.unlink(path)


@pytest.mark.parametrize("meet", ["async", "sync"])
def test_impossible_paths(path: str, meet: str) -> None:
    """Too long, no folder, already a file: errors that say so, and nothing is left behind."""
    Path(path).write_text("precious")
    cases: list[tuple[str, type[OSError], str]] = [
        (path + "x" * 100, OSError, "at most 107 bytes"),
        (path + ".no/hub", FileNotFoundError, "there is no such folder"),
        (path, FileExistsError, "there is something that is no socket"),
    ]
    for where, kind, message in cases:
        with pytest.raises(kind, match=message):
            if meet == "sync":
                aioproc.meet_sync(where).__enter__()
            else:
                anyio.run(aioproc.meet(where).__aenter__)
    assert Path(path).read_text() == "precious"
    os.unlink(path)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_unwritable(path: str) -> None:
    """A folder that one may not write to is a PermissionError."""
    os.chmod(os.path.dirname(path), 0o755)
    child = os.fork()
    if not child:
        try:
            os.setuid(65534)
            aioproc.meet_sync(path).__enter__()
        except PermissionError as error:
            os._exit(42 if "no meeting can be held here" in str(error) else 1)
        finally:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 42


def test_full() -> None:
    """A table that is full says so, and what is in it stays."""
    table = names.Names()
    with table.alone():
        for view in table._views:
            view.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
        with pytest.raises(OSError, match="no more names fit"):
            for number in range(1000):
                table.add(str(number), "Event", 0, table.handles[:1])
        found = table.find("0")
        assert found is not None
        os.close(found.descriptors[0])
        assert table.find("999") is None
    table.close()


# Programs of all sorts


@pytest.mark.parametrize("count", [6, pytest.param(200, marks=[pytest.mark.slow, pytest.mark.timeout(300)])])
def test_many(path: str, count: int) -> None:
    """All come, each with ten objects, leave, and come again: no descriptor is left in hub or any member."""
    with aioproc.meet_sync(path):
        (hub,) = hubs_at(path)
        before, own = open_in(hub, path), len(os.listdir("/proc/self/fd"))
        with programs(*[("many", path, f"{number}") for number in range(count)]) as all_:
            theirs = [line_of(each) for each in all_]
            for _ in range(2):
                assert {line_of(each) for each in all_} == {"in"}
                assert hubs_at(path) == [hub]
                for each in all_:
                    nudge(each)
                assert [line_of(each) for each in all_] == theirs
                assert open_in(hub, path) == before
                for each in all_:
                    nudge(each)
        assert open_in(hub, path) == before
        assert len(os.listdir("/proc/self/fd")) == own


def sold(outputs: list[str]) -> list[int]:
    return sorted(int(word) for output in outputs for word in output.split())


def environment(*folders: Path) -> dict[str, str]:
    """Programs find the repository's aioproc, wherever they are, and what was installed here."""
    there = [*map(str, folders), str(ROOT), os.environ.get("PYTHONPATH")]
    return os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, there))}


WHEEL = {
    "sellers.py": "from tests.meeting_programs import main\n",
    "sellers-1.dist-info/METADATA": "Metadata-Version: 2.1\nName: sellers\nVersion: 1\n",
    "sellers-1.dist-info/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    "sellers-1.dist-info/entry_points.txt": "[console_scripts]\nsell = sellers:main\n",
    "sellers-1.dist-info/RECORD": "",
}


def installed(folder: Path) -> str:
    """Install a package with a console script, by pip; the script's path."""
    if find_spec("pip") is None:
        pytest.skip("pip is not installed")
    wheel = folder / "sellers-1-py3-none-any.whl"
    with ZipFile(wheel, "w") as file:
        for name, text in WHEEL.items():
            file.writestr(name, text)
    options = ["-q", "--no-deps", "--no-index", "--disable-pip-version-check", "--root-user-action=ignore"]
    command = [sys.executable, "-m", "pip", "install", *options, "--target", str(folder), str(wheel)]
    subprocess.run(command, check=True, timeout=50)
    return str(folder / "bin" / "sell")


def command_of(way: str, folder: Path) -> list[str]:
    """How people start programs."""
    if way == "subprocess":
        return [sys.executable, str(ROOT / "tests" / "meeting_programs.py")]
    if way == "python -m":
        return [sys.executable, "-m", "tests.meeting_programs"]
    return [installed(folder)]


@pytest.mark.parametrize("way", ["subprocess", "python -m", "console script"])
def test_tickets(path: str, way: str, tmp_path: Path) -> None:
    """Programs started this way sell tickets together under one lock, and none twice."""
    (tmp_path / "left").write_text("200")
    command = [*command_of(way, tmp_path), "sell", path, str(tmp_path), "4"]
    with ExitStack() as stack:
        sellers = [
            stack.enter_context(
                subprocess.Popen(
                    command, cwd=ROOT, env=environment(tmp_path), stdout=subprocess.PIPE, text=True
                )
            )
            for _ in range(4)
        ]
        outputs = [seller.communicate(timeout=50)[0] for seller in sellers]
    assert sold(outputs) == list(range(1, 201))
    assert sum(map(bool, outputs)) > 1


def server(kind: str) -> list[str]:
    """The command of a web server with two workers that listens on descriptor 0."""
    pytest.importorskip(kind, reason=f"{kind} is not installed")
    if kind == "uvicorn":
        where = ["--fd", "0", "tests.meeting_apps:asgi"]
    else:
        where = ["-b", "fd://0", "-c", "python:tests.meeting_apps", "tests.meeting_apps:wsgi"]
    return ["-m", kind, "--workers", "2", "--log-level", "warning", *where]


def get(port: int) -> list[int]:
    """What a worker answers: its process id and a ticket's number, 0 when all are sold."""
    with socket.create_connection(("127.0.0.1", port), timeout=30) as sock, sock.makefile("rb") as file:
        sock.sendall(b"GET / HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n")
        return [int(word) for word in file.read().partition(b"\r\n\r\n")[2].split()]


@pytest.mark.parametrize("kind", ["uvicorn", "gunicorn"])
def test_web_servers(path: str, kind: str, tmp_path: Path) -> None:
    """The two workers of a web server sell tickets under one lock, and none twice."""
    (tmp_path / "left").write_text("60")
    variables = {"MEETING_PATH": path, "MEETING_FOLDER": str(tmp_path)}
    command = [sys.executable, *server(kind)]
    with socket.create_server(("127.0.0.1", 0)) as listener, aioproc.meet_sync(path) as hub:
        with subprocess.Popen(
            command, cwd=ROOT, env=environment() | variables, stdin=listener.fileno()
        ) as running:
            try:
                for _ in range(2):
                    assert hub.Semaphore("workers", 0).acquire(timeout=30)
                answers: list[list[int]] = []
                with ThreadPoolExecutor(8) as visitors:
                    while len(answers) < 80 or len({pid for pid, _ in answers}) < 2:
                        answers += visitors.map(get, [listener.getsockname()[1]] * 40)
            finally:
                running.terminate()
    assert sorted(number for _, number in answers if number) == list(range(1, 61))


def test_the_how_to(path: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The page's two programs, a server's lifespan and a script beside the server, do what it says."""
    page = (ROOT / "docs" / "howto" / "share_between_workers.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    server, script = (block.replace("/run/user/1000/shop.sock", path) for block in blocks)
    shown: dict[str, Any] = {}
    exec(server, shown)

    async def serve() -> None:
        app = SimpleNamespace(state=SimpleNamespace())
        async with shown["lifespan"](app):
            for order in "tea", "milk":
                await shown["buy"](app, order)
            assert app.state.limit.get_value() == 5
            assert not app.state.tickets.locked()
            app.state.jobs.shutdown()
            await anyio.to_thread.run_sync(exec, script, {})

    anyio.run(serve)
    assert capsys.readouterr().out == "tea\nmilk\n"
