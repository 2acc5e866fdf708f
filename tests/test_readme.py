"""What the README shows is true."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def test_the_example(tmp_path: Path) -> None:
    """The program on the first screen prints what stands below it."""
    shown = re.search(r"```python\n(.*?)```\n\n```\n(.*?)```", README, re.DOTALL)
    assert shown
    program, output = shown.groups()
    (tmp_path / "shown.py").write_text(program)
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        [sys.executable, str(tmp_path / "shown.py")],
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=50,
    )
    assert (done.stdout, done.stderr) == (output, "")


def test_one_command_each() -> None:
    """There is one command that runs the examples and one that runs the tests, with extras that exist."""
    commands = re.findall(r"^python3 -m venv .*$", README, re.MULTILINE)
    assert [command.rsplit(" -m ")[-1] for command in commands] == ["examples tour", "pytest"]
    with (ROOT / "pyproject.toml").open("rb") as file:
        extras = tomllib.load(file)["project"]["optional-dependencies"]
    for wanted in re.findall(r"'\.\[(.*?)\]'", README):
        assert set(wanted.split(",")) <= set(extras)
