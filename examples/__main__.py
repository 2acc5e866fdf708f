"""``python -m examples`` lists the programs, ``... tour`` runs them all in order, ``... NAME`` one."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

from examples import NEEDS, PROGRAMS

FOLDER = Path(__file__).parent
TYPED = "Ada\n"  # on the tour, what somebody types into the program that reads standard input


def headline(name: str) -> str:
    """What a program shows: the first line of its docstring."""
    source = (FOLDER / f"{name}.py").read_text()
    return (ast.get_docstring(ast.parse(source)) or "").partition("\n")[0]


def show_list() -> int:
    """A line for each program."""
    width = max(map(len, PROGRAMS))
    for name in PROGRAMS:
        print(f"{name:{width}}  {headline(name)}")
    print("\npython -m examples NAME runs one, python -m examples tour runs them all.")
    return 0


def tour() -> int:
    """Run all programs, until one fails."""
    # A terminal gets each line when it is printed; a pipe would get a parent's lines only when it ends.
    unbuffered = {} if sys.stdout.isatty() else {"PYTHONUNBUFFERED": "1"}
    for number, name in enumerate(PROGRAMS, 1):
        print(f"{number:2}. {name}: {headline(name)}", flush=True)
        if name in NEEDS and find_spec(NEEDS[name]) is None:
            print(f"left out, because it needs {NEEDS[name]}: pip install {NEEDS[name]}\n")
            continue
        done = subprocess.run(_command(name), input=TYPED, text=True, env=_environment() | unbuffered)
        if done.returncode != 0:
            print(f"{name} failed with exit code {done.returncode}", file=sys.stderr)
            return 1
        print(flush=True)
    return 0


def _command(name: str) -> list[str]:
    return [sys.executable, str(FOLDER / f"{name}.py")]


def _environment() -> dict[str, str]:
    """The programs find aioproc in this clone, whether or not it is installed."""
    path = os.environ.get("PYTHONPATH")
    return os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, [str(FOLDER.parent), path]))}


def _ended(program: subprocess.Popen[bytes]) -> int:
    """The program's exit code; Ctrl-C goes to it as well, and it is for the program to end."""
    while True:
        try:
            return program.wait()
        except KeyboardInterrupt:
            pass


def main(words: list[str]) -> int:
    """What the command line asks for."""
    match words:
        case []:
            return show_list()
        case ["tour"]:
            return tour()
        case [name, *more] if name in PROGRAMS:
            return _ended(subprocess.Popen([*_command(name), *more], env=_environment()))
    print(f"there is no program {' '.join(words)!r}; python -m examples lists them", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
