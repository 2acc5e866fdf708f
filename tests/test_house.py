"""The rules of the house: who imports whom, what is public, what a file may be called."""

from __future__ import annotations

import ast
import doctest
import inspect
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import aioproc
from tests import lean

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "aioproc"
FILES = sorted(PACKAGE.rglob("*.py"))

# What a layer may import, of ours; a layer is a folder or the files that stand beside each other.
LAYERS: dict[str, set[str]] = {
    "errors": set(),
    "_kernel": {"errors"},
    "local": {"_kernel", "errors"},
    "dask": {"errors", "context"},
    "composed": {"local", "errors", "composed"},
    "engines": {"local", "errors", "composed", "engines", "_kernel"},
    "top": {"errors", "_kernel", "local", "dask", "composed", "engines", "top"},
}
COMPOSED = {"context", "conditions", "group"}
ENGINES = {
    "pool",
    "executors",
    "workers",
    "copying",
    "dealing",
    "staff",
    "stopping",
    "task",
    "engine",
    "orders",
    "iteration",
    "results",
    "meeting",
    "meeting_sync",
    "table",
}  # they speak packets themselves
TOP = {"__init__", "testing"}

# Single imports that the layers do not allow, each with its reason; all sit inside functions.
LATE = {
    ("local/process.py", "context"): "the default start method is a setting of the contexts",
    ("context.py", "_kernel"): "run() and set_forkserver_preload() speak to the kernel's own state",
    ("context.py", "top"): "a context has every public name",
}

# Guests and the files they may enter by; a folder ends in a slash.
DOORS = {
    "anyio": (
        "_kernel/",
        "context.py",
        "executors.py",
        "group.py",
        "iteration.py",
        "meeting.py",
        "pool.py",
        "results.py",
        "testing.py",
        "workers.py",
    ),
    "asyncio": ("errors.py", "_kernel/"),
    "concurrent": (
        "errors.py",
        "engine.py",
        "iteration.py",
        "pool.py",
        "results.py",
        "staff.py",
        "task.py",
        "workers.py",
        "executors.py",
    ),
    "distributed": ("dask/",),
    "multiprocessing": ("_kernel/", "context.py", "local/process.py", "local/pipe.py"),
}
OTHER_GUESTS = {"uvloop", "trio", "cloudpickle", "numpy"}  # only if installed, so only inside functions


class Import(NamedTuple):
    """One import of one module by a file of ours."""

    file: str
    module: str
    in_function: bool
    for_types: bool


def name_of(path: Path) -> str:
    """A file as the tables name it."""
    return path.relative_to(PACKAGE).as_posix()


def imports() -> Iterator[Import]:
    """Every import of the package, wherever in its file it stands."""
    for path in FILES:
        yield from _imports_below(ast.parse(path.read_text()), Import(name_of(path), "", False, False))


def _imports_below(node: ast.AST, found: Import) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from (found._replace(module=alias.name) for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            assert child.level == 0, f"{found.file}: imports are absolute"
            module = child.module or ""
            # `from aioproc._kernel import memory` imports a module, `from aioproc.errors import X` a name.
            for alias in child.names:
                inner = PACKAGE.parent.joinpath(*module.split("."), f"{alias.name}.py")
                yield found._replace(module=f"{module}.{alias.name}" if inner.exists() else module)
        elif isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            for part in child.body:
                yield from _imports_below(ast.Module([part], []), found._replace(for_types=True))
            for part in child.orelse:
                yield from _imports_below(ast.Module([part], []), found)
        elif isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            yield from _imports_below(child, found._replace(in_function=True))
        else:
            yield from _imports_below(child, found)


def layer_of(module: str) -> str:
    """The layer of one of our modules or files."""
    first = module.removesuffix(".py").replace("/", ".").removeprefix("aioproc").strip(".").partition(".")[0]
    for layer, members in {"composed": COMPOSED, "engines": ENGINES, "top": TOP | {""}}.items():
        if first in members:
            return layer
    assert first in LAYERS, f"{module} has no layer: it is new, and the table of this test does not know it"
    return first


def allowed(file: str, module: str, in_function: bool) -> bool:
    """Whether the layers let a file of ours import a module of ours."""
    mine, theirs = layer_of(file), layer_of(module)
    late = {(file, theirs), (file, module.removeprefix("aioproc."))} & set(LATE)
    return theirs == mine or theirs in LAYERS[mine] or (in_function and bool(late))


def test_layers() -> None:
    """A file imports only from the layers below its own; imports for types alone are free."""
    wrong = [
        f"{file} imports {module}"
        for file, module, in_function, for_types in imports()
        if module.partition(".")[0] == "aioproc" and not for_types and not allowed(file, module, in_function)
    ]
    assert not wrong


def test_no_circles() -> None:
    """No circle among imports at the top of files."""
    graph: dict[str, set[str]] = {}
    for file, module, in_function, for_types in imports():
        if module.startswith("aioproc.") and not in_function and not for_types:
            own = "aioproc." + file.removesuffix(".py").replace("/", ".")
            graph.setdefault(own, set()).add(module)
    for start in graph:
        reached, left = set[str](), set(graph[start])
        while left:
            module = left.pop()
            reached.add(module)
            left |= graph.get(module, set()) - reached
        assert start not in reached, f"{start} imports itself in a circle"


def test_guests_have_doors() -> None:
    """Each guest library enters by the files that the table names; a web framework nowhere."""
    wrong = []
    for file, module, in_function, for_types in imports():
        guest = module.partition(".")[0]
        if guest in DOORS:
            fits = file.startswith(DOORS[guest])
        elif guest in OTHER_GUESTS:
            fits = in_function
        else:
            fits = guest == "aioproc" or guest in sys.stdlib_module_names
        if not (fits or for_types):
            wrong.append(f"{file} imports {module}")
    assert not wrong


@pytest.mark.parametrize("anyio_backend", [("asyncio", {"use_uvloop": False})])
@pytest.mark.parametrize("made", lean.MADE)
@pytest.mark.anyio
async def test_lean_child(made: str) -> None:
    """A plain child in a fresh interpreter that uses the twin of what it was handed imports no event loop."""
    context = aioproc.get_context("spawn")
    if made == "nothing":
        p = context.Process(target=lean.heavy_modules)
    else:
        p = context.Process(target=lean.heavy_modules, args=(getattr(context, made)().sync,))
    assert await p == []
    p.close()


def test_import_is_lean() -> None:
    """`import aioproc` imports neither asyncio, anyio nor multiprocessing."""
    code = "import aioproc, sys; print(sorted({'asyncio', 'anyio', 'multiprocessing'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_ready_operations_import_nothing() -> None:
    """Under asyncio a put, get or lock that need not wait never imports anyio, which would stop the loop."""
    code = """
import asyncio, aioproc, sys
async def main():
    queue, lock = aioproc.Queue(), aioproc.Lock()
    for _ in range(100):
        await queue.put(1)
        async with lock:
            await queue.get()
asyncio.run(main())
print("anyio" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


FORBIDDEN_NAMES = {"utils", "util", "helpers", "helper", "common", "base", "core", "impl", "misc"}


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_files(path: Path) -> None:
    """A file is named for what is in it, says so in its first line, and leaves nothing undone."""
    source = path.read_text()
    assert path.stem.strip("_") not in FORBIDDEN_NAMES
    assert not re.search(r"\b(TODO|FIXME|XXX|HACK)\b", source)
    assert not source.strip() or ast.get_docstring(ast.parse(source))


PUBLIC_MODULES = [
    "aioproc." + name_of(path).removesuffix(".py").replace("/", ".")
    for path in FILES
    if not any(part.startswith("_") for part in path.relative_to(PACKAGE).parts)
]
# In a module's __all__ for its neighbours, yet no name for users, who have contexts for these.
FOR_NEIGHBOURS = (
    {
        "Attendance",
        "ForkProcess",
        "ForkServerProcess",
        "Entered",
        "Holding",
        "SpawnProcess",
        "Twin",
        "check_queue",
        "queue_error",
    }
    | {
        "Books",
        "Copies",
        "Dealer",
        "Engine",
        "Executors",
        "Order",
        "Outcome",
        "Results",
        "Settings",
        "Staff",
        "Stopper",
        "Stream",
        "Task",
        "Workers",
    }
    | {"again", "hand_over", "how", "name_of", "outcome_of", "stats_of"}
)


def test_public_names() -> None:
    """What the public modules list is what `aioproc` lists, and every name is there."""
    listed = {name for module in PUBLIC_MODULES for name in import_module(module).__all__}
    twins = {name for name in listed if name.startswith("Sync")}  # users get them as `.sync`
    assert listed - FOR_NEIGHBOURS - twins == set(aioproc.__all__)
    assert len(set(aioproc.__all__)) == len(aioproc.__all__)
    for name in aioproc.__all__:
        assert getattr(aioproc, name) is not None
        assert name in dir(aioproc)


def test_public_names_have_types() -> None:
    """What is imported on first use is declared for type checkers too; the marker file is there."""
    tree = ast.parse((PACKAGE / "__init__.py").read_text())
    guarded = next(node for node in tree.body if isinstance(node, ast.If))
    declared = {
        alias.name for node in guarded.body if isinstance(node, ast.ImportFrom) for alias in node.names
    }
    assert declared == set(aioproc.__all__)
    assert (PACKAGE / "py.typed").exists()


def test_public_names_have_a_reference() -> None:
    """Each public name stands in a page of docs/reference (``autoclass`` and its like)."""
    pages = "".join(page.read_text() for page in (ROOT / "docs" / "reference").glob("*.md"))
    assert set(re.findall(r"^\.\. auto\w+:: aioproc\.(\w+)", pages, re.MULTILINE)) == set(aioproc.__all__)


def public_classes() -> list[type]:
    """The classes that users see, without the exceptions."""
    found = [getattr(aioproc, name) for name in aioproc.__all__]
    return [each for each in found if inspect.isclass(each) and not issubclass(each, Exception)]


@pytest.mark.parametrize("kind", public_classes(), ids=lambda kind: str(kind.__name__))
def test_waiting_methods_say_what_cancels(kind: Any) -> None:
    """Each public method that waits says what a cancellation leaves behind, or refers to one that does."""
    for name, method in inspect.getmembers(kind, inspect.iscoroutinefunction):
        if not name.startswith("_"):
            assert re.search(r"If cancelled:|\bsee `", method.__doc__ or ""), f"{kind.__name__}.{name}"


def examples_in_docstrings() -> list[doctest.DocTest]:
    """Every example in the docstring of a public name."""
    names: dict[str, object] = {name: getattr(aioproc, name) for name in aioproc.__all__}
    finder = doctest.DocTestFinder(exclude_empty=True)
    found: dict[str, doctest.DocTest] = {}
    for name, each in names.items():
        if inspect.isclass(each) or inspect.isfunction(each):
            for test in finder.find(each, name, globs=dict(names)):
                found.setdefault(test.name, test)
    return [test for test in found.values() if test.examples]


@pytest.mark.parametrize("example", examples_in_docstrings(), ids=lambda test: str(test.name))
def test_docstring(example: doctest.DocTest) -> None:
    """The example in a docstring does what it says, in at most eight lines of code."""
    assert sum(len(step.source.splitlines()) for step in example.examples) <= 8
    said: list[str] = []
    doctest.DocTestRunner(verbose=False).run(example, out=said.append)
    assert not said, "".join(said)
