"""What this process has received and not yet handed out, and the opening of large packets beside the loop."""

from __future__ import annotations

import threading
from bisect import insort
from collections import deque
from collections.abc import Callable
from itertools import count
from operator import itemgetter
from typing import Any, Final, TypeVar

from aioproc._kernel.channel import Arrival, Channel, Unopened, heavy, opened
from aioproc._kernel.forks import Private
from aioproc._kernel.waiting import in_thread

How = Callable[[Arrival], Any]
Returned = tuple[int, Any, BaseException | None]  # its turn, and the item, or why there is none
next_turn: Final[Callable[[], int]] = count().__next__
T = TypeVar("T")


class Intake(Private):
    """The receiving side of a channel: `take` is an attempt, `open` makes an object of what was taken.

    Attributes:
        is_odd: There is or was more to a `take` than to receive a packet.
    """

    def __init__(self, reader: Channel) -> None:
        self.reader = reader
        self.is_odd = False
        self._returned: deque[Returned] = deque()  # in the order in which they were taken
        super().__init__()

    @property
    def kept(self) -> int:
        """How many packets were taken and came back."""
        return len(self._returned) + self.reader.kept

    def take(self) -> Arrival | None:
        """Take a packet, to be opened; None stands for one that was opened and came back.

        Raises:
            BlockingIOError: There is none.
            EOFError: There will be none.
        """
        return None if self._returned else self._received(self.reader.pull)

    def fetch(self) -> Any:
        """Take an object and open it, if it is a pickle and nothing else; see `take` for what it raises.

        Raises:
            Unopened: It is more, or could not be unpickled.
        """
        if self.is_odd:
            raise Unopened(self.take())
        return self._received(self.reader.fetch)

    def _received(self, receive: Callable[[], T]) -> T:
        return receive()

    def open(self, arrival: Arrival | None, how: How = opened) -> Any:
        """The object that was taken; whatever it raises while it is unpickled."""
        if arrival is None:
            _, item, failure = self._returned.popleft()
            if failure is not None:
                raise failure
            return item
        if arrival[2]:
            self.reader.admit(arrival)
        return how(arrival)

    async def open_in_loop(self, arrival: Arrival | None, how: How = opened) -> Any:
        """The same; if much must be copied, a thread does that.

        If cancelled: The next of this process to take gets it.
        """
        if arrival is None or not heavy(arrival):
            return self.open(arrival, how)
        opening = _Opening(self, arrival, how)
        try:
            await in_thread(opening.run)
        except BaseException:
            opening.leave()
            raise
        if opening.failure is not None:
            raise opening.failure
        return opening.item

    def give_back(self, item: Any, failure: BaseException | None = None, turn: int | None = None) -> None:
        """What could not be handed out: the next of this process to take gets it.

        Args:
            turn: When it was taken, if not just now; see `next_turn`.
        """
        self.put_in((next_turn() if turn is None else turn, item, failure))
        self.came_back()

    def put_in(self, returned: Returned) -> None:
        """Have it handed out in its turn."""
        insort(self._returned, returned, key=itemgetter(0))
        self.is_odd = True

    def came_back(self) -> None:
        """Called when there is something that was taken and not handed out."""

    def give_back_all(self, items: list[Any]) -> None:
        """The same for several, which are the first again, in this order."""
        self._returned.extendleft((-1, item, None) for item in reversed(items))
        self.is_odd = True
        self.came_back()
        self.reader.handle.wake()

    @property
    def first_length(self) -> int:
        """How long the bytes are that came back first; 0 for what is no bytes."""
        item = self._returned[0][1]
        return len(item) if isinstance(item, bytes) else 0

    def forget(self) -> None:
        """Let go of what came back."""
        self._returned.clear()

    def drop(self) -> None:
        """In a forked child: what its parent has taken is the parent's to hand out."""
        self.forget()
        self.reader.forget()


class _Opening:
    """A packet that is opened in a thread, and given back if nobody waits for it any more."""

    def __init__(self, intake: Intake, arrival: Arrival, how: How) -> None:
        self._intake = intake
        self._arrival = arrival
        self._how = how
        self._turn = next_turn()
        self._lock = threading.Lock()
        self._state = "new"
        self.item: Any = None
        self.failure: BaseException | None = None

    def run(self) -> None:
        """Open it (in the thread)."""
        with self._lock:
            if self._state == "left":
                return
            self._state = "running"
        try:
            self.item = self._intake.open(self._arrival, self._how)
        except BaseException as failure:
            self.failure = failure
        with self._lock:
            if self._state == "left":
                self._intake.give_back(self.item, self.failure, self._turn)
            self._state = "done"

    def leave(self) -> None:
        """Nobody waits any more (in the loop)."""
        with self._lock:
            if self._state == "new":
                self._intake.reader.keep(self._arrival)
                self._intake.came_back()
            elif self._state == "done":
                self._intake.give_back(self.item, self.failure, self._turn)
            self._state = "left"
        self._intake.reader.handle.wake()
