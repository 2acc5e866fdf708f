"""Whole programs: what outlives whom, Ctrl-C, a missing guard, a web server whose children get signals."""

from __future__ import annotations

import os
import pty
import select
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
LIMIT_SECONDS = 30


@contextmanager
def program(name: str, *args: str, **options: object) -> Iterator[subprocess.Popen[str]]:
    """A program of tests/programs, killed at the end if it still runs."""
    command = [sys.executable, "-m", f"tests.programs.{name}", *args]
    plain = {**os.environ, "PYTHON_COLORS": "0"}
    running = subprocess.Popen(command, cwd=ROOT, env=plain, text=True, **options)  # type: ignore[call-overload]
    try:
        yield running
    finally:
        running.kill()
        running.communicate()


def ended(pid: int, within: float) -> bool:
    """Whether a process, of whatever parent, has ended within so many seconds."""
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([pidfd], [], [], within)[0])
    finally:
        os.close(pidfd)


def pids(running: subprocess.Popen[str], count: int) -> list[int]:
    """The first lines of its output, as numbers."""
    assert running.stdout is not None
    return [int(running.stdout.readline()) for _ in range(count)]


@pytest.mark.parametrize("kind", ["daemons", "group"])
def test_children_end_with_a_killed_parent(kind: str, start_method: str) -> None:
    """SIGKILL to the parent ends its daemons and its group within a second, also one busy in C code."""
    with program("family", kind, start_method, stdout=subprocess.PIPE) as parent:
        children = pids(parent, 3)
        parent.kill()
        assert all(ended(pid, within=1) for pid in children)


def test_daemons_end_with_the_program_and_others_are_joined() -> None:
    """At exit a daemon is unwound, or killed where it does not listen; a child that is none is waited for."""
    with ExitStack() as programs:  # side by side: each gives the deaf one its five seconds
        parents = [
            programs.enter_context(program("leaving", method, stdout=subprocess.PIPE))
            for method in ("fork", "forkserver", "spawn")
        ]
        for parent in parents:
            assert parent.stdout is not None
            told = parent.stdout.read().split("\n")
            assert parent.wait(LIMIT_SECONDS) == 0
            assert {"end of main", "unwound", "joined"} < set(told)
            assert all(ended(int(word), within=1) for word in told if word.isdigit())


def test_children_of_a_program_without_standard_input(start_method: str) -> None:
    """What has its descriptor instead, such as a queue's, is left alone in them."""
    code = f"""if True:
        import aioproc
        queue = aioproc.Queue()
        assert 0 in (queue._store.reader.handle.fileno(), queue._store.writer.handle.fileno())
        async def main():
            await aioproc.get_context("{start_method}").Process(target=queue.sync.put, args=("hello",))
            print(await queue.get(timeout=10))
        aioproc.run(main, use_uvloop=False)
    """
    command = ["sh", "-c", 'exec "$0" -c "$1" <&-', sys.executable, code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=LIMIT_SECONDS)
    assert (done.stdout, done.stderr) == ("hello\n", "")


def test_a_deaf_daemon_without_its_server_does_not_hold_up_the_exit() -> None:
    """At exit a daemon that ignores SIGTERM is killed in the end, also when the fork server was killed."""
    with program("orphan", stdout=subprocess.PIPE) as parent:
        (child,) = pids(parent, 1)
        assert parent.wait(LIMIT_SECONDS) == 0
        assert ended(child, within=1)


def test_a_loop_that_leaves_a_start_behind_does_not_hold_up_the_exit() -> None:
    """A start that was cancelled twice, and is undone between the loop's last turn and its close."""
    with program("left_in_start") as parent:
        assert parent.wait(LIMIT_SECONDS) == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_terminated_child_takes_its_group_along(number: int, start_method: str) -> None:
    """A child that is terminated or killed takes the children of its own group with it."""
    with program("family", "nested", start_method, stdout=subprocess.PIPE) as parent:
        told = pids(parent, 5)
        everybody = set(told)
        assert len(everybody) == 4
        (child,) = (pid for pid in everybody if told.count(pid) == 2)  # told by its parent and by itself
        os.kill(child, number)
        # Asked to end, the group first gives its members their grace of a second.
        assert all(ended(pid, within=5 if number == signal.SIGTERM else 1) for pid in everybody)
        assert parent.wait(LIMIT_SECONDS) == 0


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_ctrl_c_ends_everybody_once(start_method: str, backend: str) -> None:
    """Ctrl-C in a terminal unwinds the parent and its children, once each, without a traceback of a child."""
    ours, theirs = pty.openpty()
    with program(
        "interrupted",
        start_method,
        backend,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
        preexec_fn=take_terminal,
    ) as parent:
        os.close(theirs)
        seen = ""
        while seen.count("ready") < 4:
            seen += os.read(ours, 10_000).decode()
        os.write(ours, b"\x03")
        try:
            while True:
                seen += os.read(ours, 10_000).decode()
        except OSError:  # the terminal is closed when the last of them has ended
            pass
        code = parent.wait(LIMIT_SECONDS)
    os.close(ours)
    assert (seen.count("plain unwound"), seen.count("async unwound"), seen.count("parent unwound")) == (
        1,
        2,
        1,
    )
    assert seen.count("Traceback (most recent call last)") <= 1, seen
    assert seen.rstrip().endswith("KeyboardInterrupt"), seen
    assert code in (1, 130, -signal.SIGINT)


def take_terminal() -> None:
    """Make the terminal at descriptor 0 the controlling one, so that Ctrl-C becomes SIGINT."""
    import fcntl
    import termios

    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


@pytest.mark.parametrize("by", ["run", "anyio"])
@pytest.mark.parametrize("method", ["forkserver", "spawn"])
def test_missing_guard_is_named(method: str, by: str) -> None:
    """Without the guard the error says so, in the parent; there is no chain of processes."""
    with program("without_guard", method, by, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as parent:
        out, err = parent.communicate(timeout=LIMIT_SECONDS)
    assert parent.returncode == 1
    assert err.splitlines()[-1].startswith("RuntimeError: a new process imports the main module")
    assert 'if __name__ == "__main__":' in err.splitlines()[-1]
    assert out == ""


@pytest.mark.parametrize("method", ["fork", "forkserver"])
def test_signals_to_children_never_stop_uvicorn(method: str) -> None:
    """A real server goes on serving while children started from its requests get SIGTERM and SIGINT."""
    port = free_port()
    with program("server", method, str(port)) as server:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
            assert answer(port, number.name) == str(-number)
        assert server.poll() is None
        server.terminate()
        server.wait(LIMIT_SECONDS)


def answer(port: int, path: str) -> str:
    """What the server answers; it is waited for while it starts."""
    deadline = time.monotonic() + LIMIT_SECONDS
    while True:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/{path}", timeout=LIMIT_SECONDS) as response:
                return str(response.read().decode())
        except ConnectionRefusedError as error:
            raise AssertionError("the server has gone") from error
        except urllib.error.URLError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def free_port() -> int:
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        return int(listener.getsockname()[1])
