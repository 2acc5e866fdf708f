"""A call on its way through the pool of our own workers, and what comes of it."""

from __future__ import annotations

from concurrent.futures import CancelledError
from typing import Any

from aioproc._kernel.outcome import opened
from aioproc._kernel.station import Station
from aioproc._kernel.wire import Kind, Mail, Message, called, is_asynchronous
from aioproc.orders import Call, Item, Settings
from aioproc.results import AsyncResult

__all__ = ["Outcome", "Task", "hand_over", "outcome_of", "settle"]

Outcome = tuple[Any, BaseException | None]


class Task:
    """A call on its way.

    Attributes:
        number: What workers call it by.
        mail: What is sent to a worker.
        failure: Why it cannot be sent.
        retries: How often it may still be run again.
        item: Takes what a stream yields.
        station: The worker that it was sent to, until it is heard of again.
        waits: It is in a backlog.
        in_loop: It needs an event loop.
        shared: It may run beside others in one worker.
    """

    __slots__ = (
        "failure",
        "in_loop",
        "item",
        "mail",
        "number",
        "result",
        "retries",
        "settings",
        "shared",
        "station",
        "waits",
    )

    result: AsyncResult[Any]
    mail: Mail

    def __init__(self, number: int, call: Call, settings: Settings, item: Item | None, shares: bool) -> None:
        self.number = number
        self.settings = settings
        self.retries = settings.retries
        self.item = item
        self.station: Station | None = None
        self.waits = False
        self.in_loop = in_loop = is_asynchronous(call[0])
        self.shared = shares and in_loop
        self.failure: Exception | None = None
        try:
            self.mail = called((Kind.CALL if item is None else Kind.STREAM) + in_loop, number, *call)
        except Exception as failure:
            self.failure = failure


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
