"""The very programs of ``examples/``, run as their readers run them."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
import termios
from pathlib import Path

import psutil
import pytest

from examples import PROGRAMS

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "examples"


def environment() -> dict[str, str]:
    """The examples find the repository's aioproc, wherever they are."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"} | {
        "PYTHONPATH": path
    }


def finished(*words: str) -> subprocess.CompletedProcess[str]:
    """`python ...`, when it has ended, and whoever writes to its output too."""
    command = [sys.executable, *words]
    return subprocess.run(
        command, stdin=subprocess.DEVNULL, text=True, capture_output=True, cwd=ROOT, env=environment()
    )


def printed(name: str, typed: str = "") -> list[str]:
    """The lines that an example prints, run by its path; it succeeds and complains of nothing.

    It prints to a terminal, so that the lines of several processes come whole and in the order of printing.
    """
    terminal, screen = pty.openpty()
    lines = termios.tcgetattr(screen)
    lines[1] &= ~termios.OPOST  # lines end as they are printed
    termios.tcsetattr(screen, termios.TCSANOW, lines)
    command = [sys.executable, str(EXAMPLES / f"{name}.py")]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=screen, stderr=subprocess.PIPE, cwd=ROOT, env=environment()
    ) as program:
        os.close(screen)
        assert program.stdin
        assert program.stderr
        program.stdin.write(typed.encode())
        program.stdin.close()
        output = _all_of(terminal)
        complaints = program.stderr.read()
    assert (program.returncode, complaints.decode()) == (0, "")
    return output.decode().splitlines()


def _all_of(terminal: int) -> bytes:
    """What is written to a terminal until the last who could has closed it."""
    found = b""
    try:
        while some := os.read(terminal, 65536):
            found += some
    except OSError:  # the kernel's way to say so
        pass
    os.close(terminal)
    return found


def seconds(line: str) -> float:
    """The figure in a line such as ``in series: 3.04 s``."""
    found = re.search(r"([\d.]+) s$", line)
    assert found, line
    return float(found[1])


def test_start_one() -> None:
    """The parent goes on while its child works, and the program ends when both have."""
    assert printed("start_one") == ["parent: started a child and goes on", "child: done"]


def test_arguments() -> None:
    """What is in kwargs beats the target's defaults."""
    assert printed("arguments") == ["1 + 2 = 3"]


def test_join() -> None:
    """After `join` the child has said all it had to say."""
    assert printed("join") == ["child: 1 + 2 = 3", "parent: the child has ended"]


def test_subclass() -> None:
    """run() may be a coroutine or a plain method; a forgotten super().__init__() is named."""
    coroutine, plain, error = printed("subclass")
    assert coroutine == "coroutine: sum of 1 and 2 is 3"
    assert plain == "plain method: sum of 1 and 2 is 3"
    assert error.startswith("error: Forgetful.__init__() did not call super().__init__()")


def test_process_ids() -> None:
    """Parent and child agree on who is who, under fork and spawn."""
    assert printed("process_ids") == [
        f"{method}: child and parent agree on who is who" for method in ("fork", "spawn")
    ]


def test_many() -> None:
    """All run, each in a process of its own, though none is joined."""
    lines = printed("many")
    children = [line.split(": has pid ") for line in lines if line.startswith("child")]
    assert sorted(child for child, pid in children) == ["child 0", "child 1", "child 2"]
    assert len({pid for child, pid in children}) == 3
    assert "parent: started three" in lines


def test_in_series() -> None:
    """Three seconds of work, one after the other, take three seconds."""
    *children, total = printed("in_series")
    assert children == [f"child {number}: done" for number in range(3)]
    assert seconds(total) >= 3


def test_in_parallel() -> None:
    """Three seconds of work, side by side, take little over one, in a list and in a group."""
    lines = printed("in_parallel")
    for way, figure in ((lines[:3], lines[3]), (lines[4:7], lines[7])):
        assert sorted(way) == [f"child {number}: done" for number in range(3)]
        assert 1 <= seconds(figure) < 2.5


def test_daemon_unfinished() -> None:
    """A daemon that nobody waits for ends with its parent, without a word."""
    (line,) = printed("daemon_unfinished")
    found = re.fullmatch(r"parent: ends now, and with it the daemon \(pid (\d+)\)", line)
    assert found
    assert not psutil.pid_exists(int(found[1]))


def test_daemon_joined() -> None:
    """A daemon that is waited for does its work first."""
    assert printed("daemon_joined") == ["daemon: done", "parent: ends now"]


def test_daemon_with_children() -> None:
    """A daemon that tries to start a process is told that it may not."""
    assert printed("daemon_with_children") == ["error: daemonic processes are not allowed to have children"]


def test_input_in_a_child() -> None:
    """input() in a child says that there is none, or reads what the parent was given."""
    asked, error, again, answer = printed("input_in_a_child", typed="Grace\n")
    assert asked == again == "child: your name? "
    assert error.startswith("error: this process has no standard input")
    assert answer == "parent: hello, Grace"


def test_tickets_without_lock() -> None:
    """Several visitors buy the one ticket: the race is real."""
    *visitors, total = printed("tickets_without_lock")
    bought = sum(line.endswith("bought a ticket") for line in visitors)
    assert len(visitors) == 5
    assert bought > 1
    assert total == f"{bought} visitors bought 1 ticket, 0 left"


def test_tickets_with_lock() -> None:
    """One visitor buys it, the count ends at 0, the others are told so."""
    *visitors, total = printed("tickets_with_lock")
    assert sorted(line.partition(": ")[0] for line in visitors) == [f"visitor {n}" for n in range(5)]
    assert [line.partition(": ")[2] for line in visitors] == ["bought a ticket"] + ["sold out"] * 4
    assert total == "1 visitor bought 1 ticket, 0 left"


ITEMS = sorted(f"{name}{number}" for name in "abc" for number in range(3))


def consumed(lines: list[str], word: str) -> list[str]:
    """What the consumers say they had, in order of name."""
    return sorted(line.split()[-1] for line in lines if f": {word} " in line)


def test_producers_consumers() -> None:
    """Every item is consumed once, and everybody ends."""
    lines = printed("producers_consumers")
    assert consumed(lines, "got") == ITEMS
    assert len(lines) == 10
    assert lines[-1] == "all done, left in the queue: 0"


def test_joinable_queue() -> None:
    """The producers end once every item is done, without a word to the consumers."""
    lines = printed("joinable_queue")
    assert consumed(lines, "done") == ITEMS
    assert len(lines) == 10
    assert lines[-1] == "all done; the daemons end with us"


def test_queue_shutdown() -> None:
    """shutdown() ends the consumers after the last item."""
    lines = printed("queue_shutdown")
    assert consumed(lines, "got") == ITEMS
    assert sorted(line for line in lines if line.endswith("the end")) == [
        "consumer 1: the end",
        "consumer 2: the end",
    ]
    assert (len(lines), lines[-1]) == (12, "all done")


def test_by_name() -> None:
    """Three programs that meet by name sell each ticket once."""
    assert printed("by_name") == ["30 tickets sold by three programs, 30 of them different"]


def test_tour() -> None:
    """`python -m examples tour` runs every program, in order."""
    done = finished("-m", "examples", "tour")
    assert (done.returncode, done.stderr) == (0, "")
    assert re.findall(r"^ ?\d+\. (\w+): \w", done.stdout, re.MULTILINE) == list(PROGRAMS)


def test_pool_one_at_a_time() -> None:
    """apply() waits for each result, so three calls of 0.2 s take 0.6 s."""
    results, took = printed("pool_one_at_a_time")
    assert results == "[0, 1, 4]"
    assert seconds(took) >= 0.6


def test_pool_at_once() -> None:
    """Five calls on three workers take two rounds, and workers are used again."""
    results, workers, took = printed("pool_at_once")
    assert results == "0 1 4 9 16"
    assert workers == "3 workers did 5 calls"
    assert 0.8 <= seconds(took) < 1.6


def test_pool_callbacks() -> None:
    """Callbacks get the result or the exception, in the loop's thread."""
    assert printed("pool_callbacks") == [
        "result 4, in the loop's thread: True",
        "error three is not welcome, in the loop's thread: True",
    ]


def test_list() -> None:
    """`python -m examples` says in a line what each program shows."""
    done = finished("-m", "examples")
    lines = done.stdout.split("\n\n")[0].splitlines()
    assert [line.split()[0] for line in lines] == list(PROGRAMS)
    assert all(len(line.split()) > 4 for line in lines)


def test_one_by_name() -> None:
    """`python -m examples NAME` runs one program; an unknown name is an error that says where to look."""
    assert finished("-m", "examples", "arguments").stdout == "1 + 2 = 3\n"
    wrong = finished("-m", "examples", "nothing")
    assert wrong.returncode == 2
    assert "python -m examples lists them" in wrong.stderr


def test_every_program_is_listed() -> None:
    """The tour leaves no program out."""
    assert {path.stem for path in EXAMPLES.glob("*.py")} - {"__init__", "__main__"} == set(PROGRAMS)


@pytest.mark.parametrize("name", PROGRAMS)
def test_shape(name: str) -> None:
    """Each is a complete program: a headline, an `async def main()`, and the guard that runs it."""
    source = (EXAMPLES / f"{name}.py").read_text()
    assert re.match(r'"""[A-Z].{20,110}\.(\n|"""\n)', source)
    assert "\nasync def main() -> None:\n" in source
    assert '\nif __name__ == "__main__":\n' in source
