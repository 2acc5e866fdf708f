"""CPython's own tests of queues and locks, on our twins: ``python -m unittest tests.stdlib_suite``.

AIOPROC_START_METHOD says how their children are started. Children import this module, so it is no test file.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import threading
import unittest
from typing import Any

import pytest
from test import _test_multiprocessing as theirs  # type: ignore[import-not-found, unused-ignore]

import aioproc

METHOD = os.environ.get("AIOPROC_START_METHOD", "fork")


class Twins:
    """What the tests find on themselves: the twins' constructors, and the stdlib's processes."""

    TYPE = "processes"
    Process = multiprocessing.Process
    current_process = staticmethod(multiprocessing.current_process)
    Value = staticmethod(multiprocessing.Value)
    Pipe = staticmethod(multiprocessing.Pipe)
    Queue: Any = staticmethod(multiprocessing.Queue)

    @staticmethod
    def Lock() -> Any:
        return aioproc.Lock().sync

    @staticmethod
    def RLock() -> Any:
        return aioproc.RLock().sync

    @staticmethod
    def Semaphore(value: int = 1) -> Any:
        return aioproc.Semaphore(value).sync

    @staticmethod
    def BoundedSemaphore(value: int = 1) -> Any:
        return aioproc.BoundedSemaphore(value).sync

    @staticmethod
    def Condition(lock: Any = None) -> Any:
        return aioproc.Condition(lock).sync

    @staticmethod
    def Event() -> Any:
        return aioproc.Event().sync

    @staticmethod
    def Barrier(*args: Any, **kwargs: Any) -> Any:
        return aioproc.Barrier(*args, **kwargs).sync


def _hold(lock: Any, held: Any, seen: Any) -> None:
    """Take a lock and keep it to the end."""
    lock.acquire()
    held.set()
    seen.wait()


class TestLock(Twins, theirs._TestLock, unittest.TestCase):  # type: ignore[misc, unused-ignore]
    def test_repr_lock(self) -> None:
        """Theirs, from Python 3.14 on, wants the stdlib's words; ours says it in its own."""
        self.check_repr(self.Lock())

    def test_repr_rlock(self) -> None:
        """The same."""
        self.check_repr(self.RLock())

    def check_repr(self, lock: Any) -> None:
        free = repr(lock)
        assert "free" in free
        with lock:
            assert "held here" in repr(lock)
        assert repr(lock) == free

    def test_lock_locked_2processes(self) -> None:
        """Theirs asks when the child that holds the lock may have ended, which frees ours."""
        self.check_locked(self.Lock())

    def test_rlock_locked_2processes(self) -> None:
        """The same."""
        self.check_locked(self.RLock())

    def check_locked(self, lock: Any) -> None:
        held, seen = self.Event(), self.Event()
        child = self.Process(target=_hold, args=(lock, held, seen))
        child.start()
        held.wait()
        assert lock.locked()
        seen.set()
        child.join()
        assert not lock.locked()


class TestSemaphore(Twins, theirs._TestSemaphore, unittest.TestCase):  # type: ignore[misc, unused-ignore]
    pass


class TestCondition(Twins, theirs._TestCondition, unittest.TestCase):  # type: ignore[misc, unused-ignore]
    def check_invariant(self, cond: Any) -> None:
        """Theirs looks into the three semaphores that their condition is made of."""


class TestQueue(Twins, theirs._TestQueue, unittest.TestCase):  # type: ignore[misc, unused-ignore]
    @staticmethod
    def Queue(maxsize: int = 0) -> Any:
        return aioproc.Queue[Any](maxsize).sync

    @staticmethod
    def JoinableQueue(maxsize: int = 0) -> Any:
        return aioproc.JoinableQueue[Any](maxsize).sync

    def test_queue_feeder_donot_stop_onexc(self) -> None:
        """Theirs drops what cannot be pickled; ours refuses it at the put. Both work on."""
        queue = self.Queue()
        with pytest.raises(pickle.PicklingError):
            queue.put(threading.Lock())
        queue.put(True)
        assert queue.get(timeout=30)
        queue.close()


class TestEvent(Twins, theirs._TestEvent, unittest.TestCase):  # type: ignore[misc, unused-ignore]
    pass


class TestBarrier(Twins, theirs._TestBarrier, unittest.TestCase):  # type: ignore[misc, unused-ignore]
    pass


def setUpModule() -> None:
    multiprocessing.set_start_method(METHOD, force=True)


if __name__ == "__main__":
    unittest.main()
