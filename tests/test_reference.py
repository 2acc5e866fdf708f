"""The reference is complete: each class of ours that a user meets, with every public member of it."""

from __future__ import annotations

import inspect
import re
from importlib import import_module
from pathlib import Path
from typing import Any

import aioproc

PAGES = sorted((Path(__file__).parent.parent / "docs" / "reference").glob("*.md"))
OURS = "aioproc"


def shown() -> dict[Any, str]:
    """Each class in the reference, and the options of its directive."""
    found: dict[Any, str] = {}
    for page in PAGES:
        module = OURS
        text = page.read_text()
        for kind, name, options in re.findall(
            r"^\.\. (currentmodule|auto\w+):: ([\w.]+)\n((?:   +.*\n)*)", text, re.MULTILINE
        ):
            if kind == "currentmodule":
                module = name
            elif kind == "autoclass":
                home, _, name = name.rpartition(".")
                found[getattr(import_module(home or module), name)] = options
    return found


def public(kind: Any) -> dict[str, Any]:
    """What of a class is ours and for users."""
    return {
        name: member
        for owner in kind.__mro__
        if owner.__module__.startswith(OURS)
        for name, member in vars(owner).items()
        if not name.startswith("_") and (inspect.isfunction(member) or isinstance(member, property))
    }


def test_every_member_is_shown() -> None:
    """Each public member has a docstring and is not left out by the directive."""
    for kind, options in shown().items():
        listed = re.search(r":members: (.*(?:\n      .*)*)", options)
        names = re.findall(r"\w+", listed[1]) if listed else vars(kind)
        for name, member in public(kind).items():
            where = f"{kind.__name__}.{name}"
            assert member.__doc__, f"{where} says nothing, so the reference leaves it out"
            if "not for users" not in member.__doc__:
                assert ":members:" in options, where
                assert name in names or ":inherited-members:" in options, where


def test_every_twin_is_shown() -> None:
    """The twin of each public class, and what a meeting hands out, is in the reference."""
    classes = [getattr(aioproc, name) for name in aioproc.__all__]
    classes = [each for each in classes if inspect.isclass(each)]
    known = {each.__name__ for each in shown()}
    for each in classes:
        if not issubclass(each, BaseException):
            assert each.__name__ in known
        if isinstance(vars(each).get("sync"), property):
            assert f"Sync{each.__name__}" in known
