"""A queue does what a deque with a limit does, whatever the order of operations."""

from __future__ import annotations

import gc
import queue as stdlib
from collections import deque
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from aioproc import JoinableQueue, Queue
from aioproc.errors import queue_error

ITEMS = st.one_of(
    st.integers(),
    st.text(max_size=5),
    st.just(bytes(70_000)),
    st.just(bytes(170_000)),
    st.lists(st.none(), max_size=3),
)


@pytest.fixture(autouse=True)
def _nothing_is_frozen() -> Iterator[None]:
    """Hypothesis asks the collector who knows its generator of random numbers, which may have been frozen."""
    gc.unfreeze()
    yield
    gc.freeze()


class QueueModel(RuleBasedStateMachine):
    """Puts, gets, counts and shutdown beside a deque."""

    def __init__(self) -> None:
        super().__init__()
        self.model: deque[Any] = deque()
        self.open = 0
        self.shut = False

    @initialize(maxsize=st.integers(-1, 3), joinable=st.booleans())
    def make(self, maxsize: int, joinable: bool) -> None:
        self.joinable = joinable
        self.maxsize = max(maxsize, 0)
        kind: Any = JoinableQueue if joinable else Queue
        self.queue = kind(maxsize)
        self.faces = [self.queue, self.queue.sync]

    @rule(item=ITEMS, face=st.integers(0, 1))
    def put(self, item: Any, face: int) -> None:
        if self.shut:
            with pytest.raises(Exception, match="shut down"):
                self.faces[face].put_nowait(item)
        elif self.maxsize and len(self.model) >= self.maxsize:
            with pytest.raises(stdlib.Full):
                self.faces[face].put_nowait(item)
        else:
            self.faces[face].put_nowait(item)
            self.model.append(item)

    @rule(face=st.integers(0, 1))
    def get(self, face: int) -> None:
        if self.model:
            assert self.faces[face].get_nowait() == self.model.popleft()
            self.open += 1
        else:
            with pytest.raises(queue_error("ShutDown") if self.shut else stdlib.Empty):
                self.faces[face].get_nowait()

    @precondition(lambda self: self.joinable)
    @rule()
    def done(self) -> None:
        if self.open:
            self.queue.task_done()
            self.open -= 1
        else:
            with pytest.raises(ValueError, match="too many"):
                self.queue.task_done()

    @rule()
    def count(self) -> None:
        assert self.queue.qsize() == len(self.model)
        assert self.queue.empty() == (not self.model)
        assert self.queue.full() == (bool(self.maxsize) and len(self.model) >= self.maxsize)

    @rule(immediate=st.booleans())
    def shutdown(self, immediate: bool) -> None:
        self.queue.shutdown(immediate)
        self.shut = True
        if immediate:
            self.model.clear()

    def teardown(self) -> None:
        if hasattr(self, "queue"):
            self.queue.close()
            while (
                self.joinable and self.open
            ):  # which is possible until none is left, and then closes the rest
                self.done()


QueueModel.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestQueueModel = QueueModel.TestCase
