"""Every test runs where users run: each event loop, each start method, and nothing left behind."""

from __future__ import annotations

import gc
import importlib
import os
import resource
import signal
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import anyio
import psutil
import pytest
from blockbuster import BlockBuster, blockbuster_ctx

from aioproc._kernel.forkserver import PRELOADED_IF_IMPORTED, server
from aioproc._kernel.start import START_THREAD

BACKENDS = {
    "asyncio": ("asyncio", {"use_uvloop": False}),
    "uvloop": ("asyncio", {"use_uvloop": True}),
    "trio": ("trio", {}),
}
# where only children work, and those have no loop
ONE_LOOP = pytest.mark.parametrize("anyio_backend", [BACKENDS["asyncio"]], ids=["asyncio"])
NEVER_BLOCKING = {  # every socket call there has MSG_DONTWAIT, which blockbuster cannot see
    "_kernel/channel.py": {"send", "post", "pull", "count"},
    "_kernel/bundle.py": {"filled", "unbundled"},
    "_kernel/post.py": {"send", "receive"},
    "_kernel/rights.py": {"receive"},
    "_kernel/token.py": {"take", "_hand_over"},
    "_kernel/names.py": {"_peeked", "add"},
    "_kernel/member.py": {"_greet", "_received"},
    "_kernel/door.py": {"connected"},  # a connection is made at once, or refused
    "_kernel/place.py": {"_send_ticket"},
    "_kernel/quiet.py": {"_show"},
    "_kernel/ticket.py": {"redeem", "put"},
    "_kernel/round.py": {"_packet", "verdict", "give", "arrive", "break_"},
}

CROSSED = {"test_process.py", "test_process_edges.py", "test_launch.py"}
DESCRIPTORS = 20_000  # what the tests of many need; a shell's limit is often 1024, which it may raise

_soft, _hard = resource.getrlimit(resource.RLIMIT_NOFILE)
if 0 <= _soft < DESCRIPTORS:
    resource.setrlimit(resource.RLIMIT_NOFILE, (DESCRIPTORS if _hard < 0 else min(_hard, DESCRIPTORS), _hard))

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as behind nohup or a shell's `&`: children inherit it
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(params=list(BACKENDS))
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    """The event loop that an async test runs in."""
    return BACKENDS[request.param]


@pytest.fixture(params=["fork", "forkserver", "spawn"])
def start_method(request: pytest.FixtureRequest) -> str:
    """How a test's children are started."""
    return str(request.param)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Processes: each loop with the fork server, each start method with asyncio; the rest is slow."""
    for item in items:
        params = getattr(item, "callspec", SimpleNamespace(params={})).params
        loop, method = params.get("anyio_backend"), params.get("start_method")
        if item.path.name in CROSSED and loop in ("uvloop", "trio") and method in ("fork", "spawn"):
            item.add_marker("slow")


@pytest.fixture
def pipe(tmp_path: Path) -> Callable[[str], Path]:
    """Makes named pipes."""

    def make(name: str) -> Path:
        os.mkfifo(tmp_path / name)
        return tmp_path / name

    return make


def open_descriptors() -> dict[int, str]:
    """Each descriptor of this process and what it is."""
    found = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            found[int(name)] = os.readlink(f"/proc/self/fd/{name}")
        except OSError:  # the one that listed the folder
            pass
    return found


def child_pids() -> set[int]:
    """The children of this process, zombies included."""
    parents = {pid: _parent(pid) for pid in map(int, filter(str.isdigit, os.listdir("/proc")))}
    return {pid for pid, parent in parents.items() if parent == os.getpid()}


def _parent(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except (FileNotFoundError, ProcessLookupError):  # it has ended meanwhile
        return 0


def _more_than(descriptors: dict[int, str]) -> dict[int, str]:
    return {fd: what for fd, what in open_descriptors().items() if descriptors.get(fd) != what}


def _let_threads_end() -> None:
    """A thread of a loop that has ended holds what it ran last until the kernel has seen its own end."""
    going_on = [thread for thread in threading.enumerate() if not thread.name.startswith("AnyIO worker")]
    known = {thread.native_id for thread in going_on}  # of one that ends Python may know no more
    deadline = time.monotonic() + 10
    for ending in [task for task in os.listdir("/proc/self/task") if int(task) not in known]:
        while os.path.exists(f"/proc/self/task/{ending}") and time.monotonic() < deadline:
            time.sleep(0.001)


def _helper_threads() -> set[threading.Thread]:
    """Idle threads that a loop keeps for later are not leaks."""
    return {t for t in threading.enumerate() if t.name.startswith(("Trio thread", "AnyIO worker"))}


@pytest.fixture(scope="session", autouse=True)
def _servers_run() -> Iterator[None]:
    """What multiprocessing starts once and keeps is there before anything is counted."""
    from multiprocessing import resource_tracker

    for module in PRELOADED_IF_IMPORTED:
        importlib.import_module(module)
    resource_tracker.ensure_running()
    server.ensure_running()
    anyio.run(anyio.sleep, 0, backend_options={"use_uvloop": True})  # libuv's one pipe for all its signals
    gc.collect()
    gc.freeze()  # what is there before any test is no test's garbage; a look through it took 45 ms
    yield
    gc.unfreeze()


@pytest.fixture(autouse=True)
def leak_guard(request: pytest.FixtureRequest) -> Iterator[None]:
    """After each test: the same descriptors, no child, no zombie, no thread more than before."""
    if request.node.get_closest_marker("leaks_allowed"):
        yield
        return
    children, descriptors = child_pids(), open_descriptors()
    threads = set(threading.enumerate())
    yield
    gc.collect()
    left = [
        child
        for child in map(psutil.Process, child_pids() - children)
        if not {"resource_tracker", "forkserver"} & set(str(child.cmdline()).replace(".", " ").split())
    ]
    assert not left, f"children left behind: {left}"
    descriptors[server._forkserver_alive_fd or -1] = open_descriptors().get(server._forkserver_alive_fd, "")
    if _more_than(descriptors):
        _let_threads_end()
        gc.collect()
    more = _more_than(descriptors)
    assert not more, f"descriptors left open: {more}"
    for thread in set(threading.enumerate()) - threads:
        if thread.name == START_THREAD:  # it has told that it is done, and ends
            thread.join(10)
    grown = set(threading.enumerate()) - threads - _helper_threads()
    assert not grown, f"threads left: {grown}"


@pytest.fixture
async def task_guard() -> AsyncIterator[None]:
    """After an async test: no task more than before."""
    before = _tasks()
    yield
    if _tasks() - before:
        await anyio.wait_all_tasks_blocked()  # what was cancelled has yet to take its last step
    left = _tasks() - before
    assert not left, f"tasks left: {left}"


def _tasks() -> set[str]:
    """The tasks of this loop, but for those of the test runner itself."""
    found = {(str(task.name), getattr(task.coro, "__qualname__", "")) for task in anyio.get_running_tasks()}
    return {f"{name}: {what}" for name, what in found if "TestRunner" not in what}


@pytest.fixture(autouse=True)
def _guards_of_async_tests(request: pytest.FixtureRequest) -> None:
    if "anyio_backend" in request.fixturenames:
        request.getfixturevalue("task_guard")


@pytest.fixture(autouse=True)
def blocked_loop_guard() -> Iterator[BlockBuster]:
    """A blocking call that aioproc makes inside a running asyncio loop fails the test."""
    with blockbuster_ctx("aioproc", excluded_modules=["aioproc._kernel.resuming"]) as guard:
        for name, function in guard.functions.items():
            function.can_block_in(
                "_kernel/start.py", {"start"}
            )  # a fork holds up the loop, nothing else does
            function.can_block_in("_kernel/launch.py", {"poll"})  # reads what was found readable
            if name.startswith("socket."):
                for file, callers in NEVER_BLOCKING.items():
                    function.can_block_in(file, callers)
        # A forked child has the guard as well, and its target is called by aioproc.
        guard.functions["os.path.abspath"].can_block_in("aioproc/table.py", {"__init__"})
        guard.functions["os.write"].can_block_in("process_targets.py", {"tell"})
        yield guard
