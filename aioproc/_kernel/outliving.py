"""In the fork server: a client that dies in the midst of its request ends nobody but itself.

The stdlib's server ends when a client closes its connection before it has said what it wants, and then
nobody can tell any more how that server's other children ended. It does pass over connections that were
aborted before it accepted them, so whatever else goes wrong with one is called the same.

Source: multiprocessing/forkserver.py (main), unix(7) (ECONNRESET).
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from functools import wraps
from multiprocessing import connection, reduction
from typing import Any, Final

TALK: Final = (  # what the server says to a client and hears from it; the challenges are Python 3.14's
    (reduction, "recvfds"),
    (connection, "deliver_challenge"),
    (connection, "answer_challenge"),
)


def _aborted(talk: Callable[..., Any]) -> Callable[..., Any]:
    server = os.getpid()

    @wraps(talk)
    def talked(*args: Any) -> Any:
        try:
            return talk(*args)
        except (EOFError, ConnectionError) as gone:
            if os.getpid() != server:  # a child of the server does something of its own
                raise
            raise OSError(errno.ECONNABORTED, "the client is gone") from gone

    return talked


for module, name in TALK:
    setattr(module, name, _aborted(getattr(module, name)))
