"""A call on its way through the pool of our own workers, and what comes of it."""

from __future__ import annotations

from concurrent.futures import CancelledError
from typing import Any

from aioproc._kernel.outcome import opened
from aioproc._kernel.station import Station
from aioproc._kernel.wire import Call, Kind, Mail, Message, called
from aioproc.orders import Item, Settings
from aioproc.results import AsyncResult

__all__ = ["Outcome", "Task", "hand_over", "outcome_of"]

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
        may_wait: It may be sent to a worker that has something else in hand.
        shared: It may run beside others in one worker.
    """

    __slots__ = (
        "failure",
        "in_loop",
        "item",
        "mail",
        "may_wait",
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
        self.failure: Exception | None = None
        self.may_wait = self.shared = self.in_loop = False
        try:
            self.mail, self.in_loop = called(number, call, item is not None)
        except Exception as failure:
            self.failure = failure
        else:
            self.may_wait = item is None and type(self.mail) is bytes
            self.shared = shares and self.in_loop


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


def hand_over(item: Item | None, message: Message) -> None:
    """Give an item of a stream to its consumer."""
    assert item is not None
    try:
        value = message.open()
    except BaseException as failure:
        item(None, failure)
    else:
        item(value, None)
