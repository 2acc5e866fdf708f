"""The documentation: ``python -m sphinx -W -b html docs docs/_build``."""

import re
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

project = "aioproc"
copyright = "2026, the aioproc authors"
try:
    release = metadata.version("aioproc")
except metadata.PackageNotFoundError:  # not installed
    release = "of this clone"

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.doctest", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

html_theme = "furo"
html_title = "aioproc"
html_static_path = ["_static"]
html_css_files = ["tables.css"]

default_role = "py:obj"  # a link where there is something to link to
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_member_order = "bysource"
autodoc_class_signature = "separated"
autodoc_default_options = {"exclude-members": "__new__"}
napoleon_google_docstring = True

doctest_global_setup = "from aioproc import *"


def _answers_as_fields(
    app: object, what: str, name: str, obj: object, options: object, lines: list[str]
) -> None:
    """Make fields of the lines that end each docstring: ``If cancelled: ...`` and those like it."""
    found: list[str] = []
    inside = False
    for line in lines:
        begins = re.match(r"(If cancelled|If a peer dies|Cost|Source):\s*(.*)", line)
        if begins:
            found += ["", f":{begins[1]}: {begins[2]}"]
            inside = True
        elif inside and line.strip():
            found.append(f"    {line.strip()}")
        else:
            inside = False
            found.append(line)
    lines[:] = found


def _without_private_parameters(
    app: object,
    what: str,
    name: str,
    obj: object,
    options: object,
    signature: str | None,
    returns: str | None,
) -> tuple[str | None, str | None]:
    """Leave out what is only for our own code: parameters that begin with an underscore."""
    if signature:
        signature = re.sub(r"(, \*)?(, )?\b_[a-z]\w*(: [^,=)]*(\[.*?\])?)? ?= ?[^,)]*", "", signature)
    return signature, returns


def _in_aioproc(app: Any, env: Any, node: Any, content: Any) -> Any:
    """Find `Queue.put` and `Meeting.Lock` and their like wherever they are named."""
    if node.get("refdomain") != "py":
        return None
    python = env.get_domain("py")
    for place in ("aioproc", "aioproc.meeting", "aioproc.Process", "aioproc.AsyncPool"):
        wanted = f"{place}.{node['reftarget']}"
        found = python.resolve_xref(env, node["refdoc"], app.builder, node["reftype"], wanted, node, content)
        if found is not None:
            return found
    return None


_LINK_TO_TEST = re.compile(r"\[`(test_\w+)`\]\(\.\./(tests/[\w/]+\.py)\)")


def _tests_shown(app: Any, name: str, source: list[str]) -> None:
    """Let the guarantees' links, which in the repository lead to files, lead to the tests themselves."""
    if name == "guarantees":
        source[0] = _LINK_TO_TEST.sub(lambda link: f"[`{link[1]}`](#{_label(*link.groups())})", source[0])
    elif name == "shown":
        links = _LINK_TO_TEST.findall((Path(app.srcdir) / "guarantees.md").read_text())
        file = ""
        for test, file_of_test in sorted(set(links), key=lambda link: (link[1], link[0])):
            if file != file_of_test:
                file = file_of_test
                source[0] += f"\n## {file}\n"
            part = "" if Path(file).stem == test else f":pyobject: {test}\n"
            source[0] += (
                f"\n({_label(test, file)})=\n### {test}\n\n```{{literalinclude}} ../{file}\n{part}```\n"
            )


def _label(test: str, file: str) -> str:
    return f"shown-{Path(file).stem}-{test}".replace("_", "-")


def setup(app: Any) -> None:
    """Called by Sphinx."""
    app.connect("source-read", _tests_shown)
    app.connect("missing-reference", _in_aioproc)
    app.connect("autodoc-process-signature", _without_private_parameters)
    app.connect("autodoc-process-docstring", _answers_as_fields, priority=400)  # before napoleon
