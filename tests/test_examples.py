"""The very programs of ``examples/``, run as their readers run them."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable, Coroutine, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest

import examples.__main__
from examples import PROGRAMS
from examples.digest_tree import write_manifest

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


def test_lifecycle() -> None:
    """A child that is asked to end cleans up first; one that does not end is killed; a closed one says so."""
    assert printed("lifecycle") == [
        "new: alive False, exit code None",
        "running: alive True, exit code None",
        "child: cleans up",
        "asked to end: alive False, exit code -15",
        "new: alive False, exit code None",
        "running: alive True, exit code None",
        "child: cleans up",
        "stubborn, so killed: alive False, exit code -9",
        "closed: process object is closed",
    ]


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


def test_pipe() -> None:
    """What is sent comes back, and closing one end ends the loop at the other."""
    assert printed("pipe") == ["one -> ONE", "two -> TWO", "the child has ended"]


def test_log_pipeline() -> None:
    """Every line of the files is counted once, and the pipeline ends by itself."""
    assert printed("log_pipeline") == [
        "21003 lines in 3 files, 21000 requests",
        "by status: 200: 17982 404: 3000 500: 18",
        "most wanted: /: 9000 /tickets: 6000 /about: 3000",
    ]


def test_log_pipeline_of_given_files(tmp_path: Path) -> None:
    """It counts the files that it is given, be they empty, without an end of line, or not text."""
    request = b'::1 - - [-] "GET /%s HTTP/2" 20%d -\n'
    (tmp_path / "a").write_bytes(b"".join(request % (b"ab"[n % 2 :][:1], n % 2) for n in range(1001)))
    (tmp_path / "b").write_bytes(b"")
    (tmp_path / "c").write_bytes(b"\xff\xfe\n" + (request % (b"b", 0)).strip())
    done = finished("examples/log_pipeline.py", *map(str, sorted(tmp_path.iterdir())))
    assert done.stderr == ""
    assert done.stdout.splitlines() == [
        "1003 lines in 3 files, 1002 requests",
        "by status: 200: 502 201: 500",
        "most wanted: /a: 501 /b: 501",
    ]


def test_numpy_job() -> None:
    """Large arrays come back writable, with what the same function makes of them here."""
    assert printed("numpy_job") == [
        "6 pictures of 1000 x 1000 points, 48 MB, went there and back",
        "all may be written to: True",
        "as if done here: True",
    ]


def test_numpy_job_without_numpy(tmp_path: Path) -> None:
    """Without numpy it says what it needs."""
    (tmp_path / "numpy.py").write_text("raise ModuleNotFoundError('no numpy')")
    command = [sys.executable, "examples/numpy_job.py"]
    hidden = environment() | {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    done = subprocess.run(command, text=True, capture_output=True, cwd=ROOT, env=hidden)
    assert (done.returncode, done.stderr) == (1, "this program needs numpy: pip install numpy\n")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A folder with files of all sorts."""
    root = tmp_path / "tree"
    (root / "deep" / "deeper").mkdir(parents=True)
    (root / "empty").touch()
    (root / "large").write_bytes(os.urandom(3 << 20))
    (root / "deep" / "odd \\ name\n ü").write_text("odd")
    (root / "deep" / os.fsdecode(b"not \xff text")).write_text("a name that is no text")
    for number in range(50):
        (root / "deep" / "deeper" / f"{number}").write_text(str(number))
    (root / "link").symlink_to("large")
    os.mkfifo(root / "fifo")
    return root


def as_sha256sum_has_it(root: Path) -> set[bytes]:
    """The lines that sha256sum prints for the files of a tree."""
    find = ["find", ".", "-type", "f", "-printf", "%P\\0"]
    names = subprocess.run(find, cwd=root, capture_output=True, check=True).stdout.split(b"\0")
    command = [b"sha256sum", b"--", *filter(None, names)]
    return set(subprocess.run(command, cwd=root, capture_output=True, check=True).stdout.splitlines())


def test_digest_tree(tree: Path) -> None:
    """The digests are those of sha256sum, line by line."""
    command = [sys.executable, str(EXAMPLES / "digest_tree.py"), str(tree)]
    done = subprocess.run(command, capture_output=True, env=environment())
    assert (done.returncode, done.stderr) == (0, b"")
    lines = done.stdout.splitlines()
    assert len(lines) == 54
    assert set(lines) == as_sha256sum_has_it(tree)


def test_digest_tree_manifest(tree: Path) -> None:
    """A manifest is verified; what was changed, added or removed since then is named, and a failure."""
    manifest = tree / "manifest.json"  # in the tree, and no part of it
    words = ("examples/digest_tree.py", str(tree))
    assert finished(*words, "--manifest", str(manifest)).returncode == 0
    assert len(json.loads(manifest.read_text())["files"]) == 54
    same = finished(*words, "--verify", str(manifest))
    assert (same.returncode, same.stdout, same.stderr) == (0, "", "")
    (tree / "large").write_text("small")
    (tree / "empty").unlink()
    (tree / "another").touch()
    other = finished(*words, "--verify", str(manifest))
    assert (other.returncode, other.stderr) == (1, "large: changed\nempty: missing\nanother: new\n")
    for wrong in (words[0], str(manifest)), (*words, "--verify", "none"), (*words, "--manifest", "no/where"):
        assert finished(*wrong).returncode == 2


# What makes root a user like others, so that a file can be unreadable for it too: CAP_DAC_OVERRIDE and
# CAP_DAC_READ_SEARCH leave the bounding set (PR_CAPBSET_DROP) before the program starts.
HEED_PERMISSIONS = """
import ctypes, os, sys
for capability in 1, 2:
    ctypes.CDLL(None).prctl(24, capability, 0, 0, 0)
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""


def test_digest_tree_of_unreadable_files(tree: Path) -> None:
    """What cannot be read is reported and left out, the rest is done, and the exit status says so."""
    expected = {line for line in as_sha256sum_has_it(tree) if b"deeper" not in line and b"large" not in line}
    (tree / "large").chmod(0)
    (tree / "deep" / "deeper").chmod(0)
    command = [sys.executable, "-c", HEED_PERMISSIONS, str(EXAMPLES / "digest_tree.py"), str(tree)]
    done = subprocess.run(command, capture_output=True, env=environment())
    (tree / "deep" / "deeper").chmod(0o700)
    assert done.returncode == 1
    assert done.stderr.splitlines() == [b"deep/deeper: Permission denied", b"large: Permission denied"]
    assert set(done.stdout.splitlines()) == expected


def test_digest_tree_interrupted(tmp_path: Path) -> None:
    """Ctrl-C amid its work leaves no process and no file, and keeps the manifest that there was."""
    with open(tmp_path / "endless", "wb") as file:
        file.truncate(1 << 40)
    (tmp_path / "a").touch()
    manifest = tmp_path / "manifest.json"
    manifest.write_text("as it was")
    terminal, screen = pty.openpty()
    command = [sys.executable, "examples/digest_tree.py", str(tmp_path), "--manifest", str(manifest)]
    with subprocess.Popen(
        command, stderr=screen, cwd=ROOT, env=environment(), start_new_session=True
    ) as program:
        os.close(screen)
        bar = b""
        while b"1/2 files" not in bar:
            bar += os.read(terminal, 1000)
        family = [os.pidfd_open(child.pid) for child in psutil.Process(program.pid).children(recursive=True)]
        os.killpg(program.pid, signal.SIGINT)  # as a terminal does
        rest = _all_of(terminal)
    assert (program.returncode, rest) == (130, b"")
    assert re.fullmatch(rb"\r\[#{15}\.{15}\] 1/2 files", bar)
    assert len(family) > 1
    for process in family:
        assert select.select([process], [], [], 20)[0], "it has not ended"
        os.close(process)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "endless", "manifest.json"]
    assert manifest.read_text() == "as it was"


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
@pytest.mark.parametrize("late", [False, True], ids=["while it waits", "when the thread has done it"])
def test_digest_tree_writes_all_or_nothing(tmp_path: Path, late: bool) -> None:
    """Interrupted at any of its waits, it leaves the old manifest or the new one, and no other file."""
    manifest = tmp_path / "manifest.json"
    step, done = 0, False
    while not done:
        manifest.write_text("old")
        done = asyncio.run(_interrupted(write_manifest(manifest, {"name": "digest"}), step, late))
        assert [path.name for path in tmp_path.iterdir()] == ["manifest.json"]
        assert (written := manifest.read_text()) == "old" or json.loads(written)["files"] == {
            "name": "digest"
        }
        step += 1
    assert step > 4  # it waits to open, to write, to close and to move
    assert written != "old"


async def _interrupted(work: Coroutine[Any, Any, None], step: int, late: bool) -> bool:
    """Whether it ended, or else was cancelled at its wait number `step`."""
    asyncio.get_running_loop().set_default_executor(_WaitedFor())
    try:
        await _Interruption(work, step, late)
    except asyncio.CancelledError:
        return False
    return True


class _WaitedFor(ThreadPoolExecutor):
    """Threads that begin when the loop waits: since Python 3.14 nobody waits for what is done before."""

    def submit(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        begun = threading.Event()
        asyncio.get_running_loop().call_soon(begun.set)
        return super().submit(lambda: begun.wait() and function(*args, **kwargs))


class _Interruption:
    """What a coroutine waits for, but for the wait at which it is cancelled, at once or when that is done."""

    def __init__(self, work: Coroutine[Any, Any, None], step: int, late: bool) -> None:
        self.work = work
        self.step = step
        self.late = late

    def __await__(self) -> Generator[Any, None, None]:
        for number in itertools.count():
            try:
                waits_for = self.work.send(None)
            except StopIteration:
                return
            if number == self.step:
                if self.late:
                    yield waits_for
                waits_for = self.work.throw(asyncio.CancelledError())
            yield waits_for


def test_tour(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    """`python -m examples tour` runs the programs in order, and leaves out what needs what is not there."""
    monkeypatch.setattr(examples.__main__, "PROGRAMS", ["start_one", "numpy_job", "daemon_joined"])
    monkeypatch.setattr(examples.__main__, "NEEDS", {"numpy_job": "no_such_package"})
    assert examples.__main__.main(["tour"]) == 0
    told = capfd.readouterr()
    assert told.err == ""
    assert re.findall(r"^ ?(\d)\. (\w+): \w", told.out, re.MULTILINE) == [
        ("1", "start_one"),
        ("2", "numpy_job"),
        ("3", "daemon_joined"),
    ]
    assert "left out, because it needs no_such_package: pip install no_such_package" in told.out


@pytest.mark.slow
def test_whole_tour() -> None:
    """It runs every program, in order, in less than a minute."""
    before = time.monotonic()
    done = finished("-m", "examples", "tour")
    assert (done.returncode, done.stderr) == (0, "")
    assert time.monotonic() - before < 60
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


def test_pool_many() -> None:
    """map gives a list; imap gives one result after the other, of an input without an end, in order."""
    squares = [number * number for number in range(10)]
    assert printed("pool_many") == [f"map: {squares}", *(f"imap: {square}" for square in squares[:8])]


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


@pytest.mark.parametrize("tutorial", ["tutorial", "zh"])
def test_every_program_is_in_the_tutorial(tutorial: str) -> None:
    """Each is shown once, by inclusion, in either language."""
    pages = "".join(page.read_text() for page in (ROOT / "docs" / tutorial).rglob("*.md"))
    shown = re.findall(r"^```\{literalinclude\} (?:\.\./)+examples/(\w+)\.py$", pages, re.MULTILINE)
    assert sorted(shown) == sorted(PROGRAMS)


def test_both_tutorials_show_the_same() -> None:
    """A page in Chinese has the programs, the commands and the output of the page in English."""
    blocks = re.compile(r"^```.*?^```$", re.DOTALL | re.MULTILINE)
    for page in (ROOT / "docs" / "tutorial").glob("*.md"):
        other = ROOT / "docs" / "zh" / page.name
        assert blocks.findall(page.read_text()) == blocks.findall(other.read_text()), page.name


@pytest.mark.parametrize("name", PROGRAMS)
def test_shape(name: str) -> None:
    """Each is a complete program: a headline, an `async def main()`, and the guard that runs it."""
    source = (EXAMPLES / f"{name}.py").read_text()
    assert re.match(r'"""[A-Z].{20,110}\.(\n|"""\n)', source)
    assert re.search(r"\nasync def main\(.*\) -> (None|int):\n", source)
    assert '\nif __name__ == "__main__":\n' in source
