"""Sleep until a signal comes, also one that comes just before.

`time.sleep` cannot: when the interpreter has looked for signals for the last time and the system call has
not begun, a signal is noted and the sleep goes on to its end. Seen in one of a thousand children that are
signalled as soon as they say that they are ready, on a busy machine.

Source: signal.set_wakeup_fd.
"""

from __future__ import annotations

import os
import select
import signal


class UntilSignal:
    """Make it before saying that you are ready."""

    def __init__(self) -> None:
        self._reading, writing = os.pipe()
        os.set_blocking(writing, False)
        signal.set_wakeup_fd(writing)

    def sleep(self, seconds: float = 60) -> None:
        """Sleep, at most so long; the signal's handler has run when it returns."""
        select.select([self._reading], [], [], seconds)
