"""What the README shows is true, in either language."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ENGLISH = "README.md"
NAMES = [ENGLISH, "README.zh.md"]


def blocks(name: str) -> list[tuple[str, str]]:
    """Each block of code: its language and what is in it."""
    return re.findall(r"^```(\w*)\n(.*?)^```$", (ROOT / name).read_text(), re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("name", NAMES)
def test_the_example(name: str, tmp_path: Path) -> None:
    """The program on the first screen prints what stands below it."""
    (language, program), (_, output) = blocks(name)[:2]
    assert language == "python"
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


@pytest.mark.parametrize("name", NAMES)
def test_one_command_each(name: str) -> None:
    """There is one command that runs the examples and one that runs the tests, with extras that exist."""
    commands = [text for language, text in blocks(name) if language == "sh"]
    assert [command.rstrip().rsplit(" -m ")[-1] for command in commands] == ["examples tour", "pytest"]
    with (ROOT / "pyproject.toml").open("rb") as file:
        extras = tomllib.load(file)["project"]["optional-dependencies"]
    for command in commands:
        (wanted,) = re.findall(r"'\.\[(.*?)\]'", command)
        assert set(wanted.split(",")) <= set(extras)


def test_both_show_the_same() -> None:
    """The Chinese README has the same code, the same figures and as many rows as the English one."""
    assert blocks(NAMES[0]) == blocks(NAMES[1])
    texts = [(ROOT / name).read_text() for name in NAMES]
    figures, numbers = [re.findall(r"[\d,.]+ [mu]s|\| [\d.]+ \|", text) for text in texts]
    assert figures == numbers
    assert texts[0].count("\n|") == texts[1].count("\n|")


def test_the_first_page_of_the_documentation() -> None:
    """It shows the program that the README shows."""
    assert blocks("docs/index.md")[0] == blocks(ENGLISH)[0]


@pytest.mark.parametrize("name", NAMES)
def test_what_it_points_to(name: str) -> None:
    """Every file that it links to is there, and every program that it names; each figure names one."""
    text = (ROOT / name).read_text()
    for target in re.findall(r"\]\(([^):]+)\)", text):
        assert (ROOT / target).exists(), target
    for benchmark in re.findall(r"`python -m (benchmarks\.[a-z_]+)`", text):
        assert find_spec(benchmark), benchmark
    for row in re.findall(r"^\|.*\d [mu]s.*$", text, re.MULTILINE):
        assert row.endswith("` |"), row


@pytest.mark.parametrize("name", NAMES)
def test_the_names_are_there(name: str) -> None:
    """The table of what is in it names public names."""
    import aioproc

    found = set(re.findall(r"`([A-Z]\w+)`", (ROOT / name).read_text())) - {"ProcessPoolExecutor", "Pool"}
    assert len(found) > 15
    assert found <= set(aioproc.__all__)
