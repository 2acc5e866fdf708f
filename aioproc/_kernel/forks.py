"""What a forked child must not keep: private ends and tokens of its parent.

Source: os.register_at_fork.
"""

from __future__ import annotations

import os
import threading
import weakref
from typing import Final

# Held while a descriptor is on its way from the kernel into its owner: another thread's fork waits for that.
# Reentrant, because a signal handler may fork in the very thread that holds it.
no_fork: Final = threading.RLock()


class Private:
    """Base of what holds descriptors that belong to this process alone."""

    def __init__(self) -> None:
        with no_fork:
            _all.add(self)

    def drop(self) -> None:
        """Close the private descriptors, in a forked child, without a trace for the parent."""
        raise NotImplementedError


_all: weakref.WeakSet[Private] = weakref.WeakSet()


def _drop_in_forked_child() -> None:
    no_fork.release()
    for one in list(_all):
        one.drop()


os.register_at_fork(
    before=no_fork.acquire, after_in_parent=no_fork.release, after_in_child=_drop_in_forked_child
)
