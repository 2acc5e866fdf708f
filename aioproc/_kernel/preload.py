"""What the fork server imports last: the program's main module, which its children then need not import.

multiprocessing means to do the same, but loses the path on most Pythons that we run on (CPython issue
126631), and never did it for a program run with ``-m``.

Source: multiprocessing/spawn.py (get_preparation_data, prepare).
"""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import spawn
from typing import Any, Final

VARIABLE: Final = "AIOPROC_FORKSERVER_MAIN"
MOST_BYTES: Final = 100_000  # the kernel takes 128 KiB in one variable
PLACE: Final = ("sys_path", "sys_argv", "dir", "orig_dir")
MAIN: Final = ("init_main_from_name", "init_main_from_path")


@contextmanager
def telling_of_main(preparation: dict[str, Any]) -> Iterator[None]:
    """While inside, a server that starts is told which module is the main one."""
    import json

    told = json.dumps({key: preparation[key] for key in PLACE + MAIN if key in preparation}, default=str)
    if len(told) > MOST_BYTES:
        yield
        return
    os.environ[VARIABLE] = told
    try:
        yield
    finally:
        del os.environ[VARIABLE]


def _import_main_if_told() -> None:
    told = os.environ.pop(VARIABLE, None)
    if told is None:
        return
    import json

    from aioproc._kernel.child import import_main

    preparation = json.loads(told)
    spawn.prepare({key: value for key, value in preparation.items() if key in PLACE})
    try:
        import_main({key: value for key, value in preparation.items() if key in MAIN})
    except (Exception, SystemExit):  # each child tries again, and reports it home
        pass
    os.register_at_fork(after_in_child=_draw_other_numbers)
    gc.freeze()  # what the children share is not copied because their collector looked at it


def _draw_other_numbers() -> None:
    """Let numpy draw in each child what no other draws, as in processes that import it themselves.

    Where the main module has seeded it, each draws the same, as there. (Python's own generator sees to that.)
    """
    numpy: Any = sys.modules.get("numpy.random")
    generator = getattr(numpy, "get_bit_generator", None)
    if generator is not None and getattr(generator(), "seed_seq", None) is not None:
        numpy.seed()


_import_main_if_told()
