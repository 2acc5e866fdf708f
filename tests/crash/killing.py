"""Children that kill themselves between two system calls, and children that are killed at any time."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # a hub that imports this has no site packages
    import pytest

SYSTEM_CALLS = {
    *("recvmsg", "sendmsg", "recv", "send", "shutdown", "socketpair", "setsockopt", "detach"),
    *("open", "close", "dup", "pipe2", "flock", "ioctl", "poll", "register", "modify"),
    *("eventfd", "eventfd_read", "eventfd_write", "fstat"),
}
HUB_CALLS = SYSTEM_CALLS | {
    *("fork", "signal", "dup2", "setrlimit", "set_inheritable", "lstat", "unlink", "read"),
    *("_accept", "getsockopt", "setblocking", "unregister"),
}


def kill_before_call(
    number: int,
    calls: set[str] = SYSTEM_CALLS,
    note: str | None = None,
    how: signal.Signals = signal.SIGKILL,
) -> None:
    """From now on, this process dies before its so-many-th system call.

    Args:
        number: Which.
        calls: What counts as one.
        note: A file that it leaves as it dies.
        how: By which signal; SIGSTOP lets it stand still instead.
    """
    left = number

    def count(frame: Any, event: str, function: Any) -> None:
        nonlocal left
        if event == "c_call" and function.__name__ in calls:
            left -= 1
            if not left:
                if note is not None:
                    os.close(os.open(note, os.O_CREAT | os.O_WRONLY))
                os.kill(os.getpid(), how)

    sys.setprofile(count)


def stand_still_in_a_put(queue: Any) -> None:
    """Stop in the middle of a put to a joinable queue; go on with it when told so."""
    kill_before_call(1, {"eventfd_write"}, how=signal.SIGSTOP)
    queue.put(1)


@contextmanager
def forks_after(monkeypatch: pytest.MonkeyPatch, module: Any, name: str) -> Iterator[Callable[[], None]]:
    """Another thread forks when this function of a module returns, or as soon as forks need not wait.

    Its child does nothing, and lives on while inside. To call what is given waits for the fork.
    """
    bystander: list[int] = []
    function = getattr(module, name)

    def fork() -> None:
        bystander.append(os.fork())
        if not bystander[0]:
            signal.pause()

    def call(*args: Any, **more: Any) -> Any:
        done = function(*args, **more)
        if not thread.ident:
            thread.start()
            thread.join(0.5)  # not in time, if forks have to wait
        return done

    thread = threading.Thread(target=fork)
    with monkeypatch.context() as patch:
        patch.setattr(module, name, call)
        try:
            yield thread.join
        finally:
            thread.join()
            os.kill(bystander[0], signal.SIGKILL)
            os.waitpid(bystander[0], 0)


def forked(work: Callable[[], object], die_before: int = 0) -> int:
    """A child that does the work and ends without another word; its process id."""
    child = os.fork()
    if child:
        return child
    try:
        if die_before:
            kill_before_call(die_before)
        work()
        sys.setprofile(None)
        os._exit(0)
    except BaseException:
        sys.setprofile(None)
        sys.excepthook(*sys.exc_info())
    os._exit(1)


def died(child: int) -> bool:
    """Wait for a child; whether it was killed. A failure of its work is one of the test."""
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) in (0, -signal.SIGKILL)
    return os.WIFSIGNALED(status)


@contextmanager
def gone(child: int) -> Iterator[None]:
    """Inside, the child lives; afterwards it is killed and reaped."""
    try:
        yield
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def every_point(scenario: Callable[[int], bool], fewest: int) -> int:
    """Run the scenario with every kill point, until it says that its child came to its end alive."""
    point = 1
    while scenario(point):
        point += 1
        assert point < 500
    assert point > fewest, f"only {point - 1} system calls"
    return point - 1
