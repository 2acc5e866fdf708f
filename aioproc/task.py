"""A call on its way through the pool of our own workers, and what comes of it."""

from __future__ import annotations

from concurrent.futures import CancelledError
from typing import Any

from aioproc._kernel.outcome import opened
from aioproc._kernel.station import Station
from aioproc._kernel.wire import Kind, Message, called, is_asynchronous
from aioproc.orders import Item, Order
from aioproc.results import AsyncResult

__all__ = ["Outcome", "Task", "hand_over", "outcome_of", "settle"]

Outcome = tuple[Any, BaseException | None]


class Task:
    """A call on its way.

    Attributes:
        number: What workers call it by.
        mail: What is sent to a worker.
        station: The worker that it was sent to, until it is heard of again.
        waits: It is in a backlog.
        in_loop: It needs an event loop.
        shared: It may run beside others in one worker.
        is_small: It may be sent ahead.
    """

    __slots__ = (
        "grace",
        "in_loop",
        "is_small",
        "item",
        "mail",
        "number",
        "result",
        "retries",
        "shared",
        "station",
        "waits",
    )

    def __init__(self, number: int, order: Order, result: AsyncResult[Any], shares: bool) -> None:
        self.number = number
        self.result = result
        self.retries = order.retries
        self.grace = order.grace
        self.item = order.item
        self.station: Station | None = None
        self.waits = False
        self.in_loop = is_asynchronous(order.func)
        self.shared = shares and self.in_loop
        kind = Kind.CALL if order.item is None else Kind.STREAM
        self.mail = called(kind + self.in_loop, number, order.func, order.args, order.kwargs)
        self.is_small = type(self.mail) is bytes


def outcome_of(message: Message) -> Outcome:
    """The value that a task returned, or why there is none."""
    kind = message.kind
    try:
        if kind == Kind.DONE:
            return message.open(), None
        if kind == Kind.FAILED:
            return opened(message.open()), None
    except BaseException as error:
        return None, error
    message.drop()
    return None, CancelledError()


def settle(result: AsyncResult[Any], value: Any, error: BaseException | None) -> None:
    """Give a result its outcome."""
    if error is None:
        result._return(value)
    else:
        result._raise(error)


def hand_over(item: Item | None, message: Message) -> None:
    """Give an item of a stream to its consumer."""
    assert item is not None
    try:
        value = message.open()
    except BaseException as failure:
        item(None, failure)
    else:
        item(value, None)
