"""One descriptor to wait for several: some for as long as they are ready, some for the moment they become so.

Source: epoll(7) (nesting, EPOLLET).
"""

from __future__ import annotations

import os
import select
from collections.abc import Sequence

from aioproc._kernel.handle import Handle


class Bell:
    """Rings while one of ``levels`` is readable, and once each time one of ``edges`` is or hangs up.

    Also once each time that something sent through one of ``rooms`` was received and there is much room.

    It belongs to this process: a forked child makes its own.
    """

    __slots__ = ("_edges", "_epoll", "_levels", "_rooms", "handle")

    def __init__(
        self,
        levels: Sequence[Handle] = (),
        edges: Sequence[Handle] = (),
        rooms: Sequence[Handle] = (),
    ) -> None:
        self._levels, self._edges, self._rooms = levels, edges, rooms
        self._epoll = select.epoll(select.EPOLL_CLOEXEC)
        for handle in levels:
            self._epoll.register(handle.fileno(), select.EPOLLIN)
        for handle in edges:
            self._epoll.register(handle.fileno(), select.EPOLLIN | select.EPOLLET)
        for handle in rooms:
            self._epoll.register(handle.fileno(), select.EPOLLOUT | select.EPOLLET)
        self.handle = Handle(os.dup(self._epoll.fileno()), forks=False)

    def quiet(self) -> None:
        """Forget the edges so far: what happens from now on rings again. In a forked child: nothing."""
        if not self.handle.closed:
            self._epoll.poll(0)

    def close(self) -> None:
        self._epoll.close()
        self.handle.close()
