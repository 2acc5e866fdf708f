"""What some ASGI frameworks leave to the application: its start and end, and clients that go away."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any, TypeVar

import anyio

T = TypeVar("T")


async def while_connected(receive: Callable[[], Awaitable[Any]], call: Awaitable[T]) -> T | None:
    """Await the call; cancel it when the client goes away first, and return None.

    Args:
        receive: The request's own, after its body was read (or without one).
        call: Must not raise: what goes wrong is an answer too.
    """
    answer: T | None = None
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_until_gone, receive, tasks.cancel_scope)
        answer = await call
        tasks.cancel_scope.cancel()
    return answer


async def _until_gone(receive: Callable[[], Awaitable[Any]], scope: anyio.CancelScope) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    scope.cancel()


def with_lifespan(app: Any, opened: Callable[[], AbstractAsyncContextManager[Any]]) -> Any:
    """An ASGI application that answers the lifespan protocol, around one that does not (Django).

    Args:
        app: The application; finds what was opened in ``scope["state"]["service"]``.
        opened: Makes what is open from the server's start to its end.
    """

    async def wrapped(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "lifespan":
            await app(scope, receive, send)
            return
        await receive()
        async with opened() as scope["state"]["service"]:
            await send({"type": "lifespan.startup.complete"})
            await receive()
        await send({"type": "lifespan.shutdown.complete"})

    return wrapped
