"""What runs in the workers: plain functions that know nothing of the server."""

from __future__ import annotations

import os
from collections.abc import Iterator
from math import isqrt
from typing import Any

STEP = 10_000


def tell(what: str) -> None:
    """One line for whoever reads the server's standard error."""
    os.write(2, f"{os.getpid()} {what}\n".encode())


def steps(below: int) -> Iterator[dict[str, Any]]:
    """Count the primes below a number by trial division; after each step, how far it is."""
    found = 0
    for start in range(0, below, STEP):
        end = min(start + STEP, below)
        found += sum(map(is_prime, range(start, end)))
        yield {"done": end / below, "primes": found}


def is_prime(number: int) -> bool:
    """Whether it is one, the slow way."""
    return number > 1 and all(number % divisor for divisor in range(2, isqrt(number) + 1))


def count(below: int) -> dict[str, Any]:
    """All of it in one call."""
    tell(f"counts below {below}")
    *_, last = steps(below)
    return {"primes": last["primes"], "pid": os.getpid()}


def counting(below: int) -> Iterator[dict[str, Any]]:
    """The same as a generator, for `AsyncPool.stream`."""
    tell(f"streams below {below}")
    for step in steps(below):
        yield step | {"pid": os.getpid()}


def job(number: str, below: int, progress: Any) -> dict[str, Any]:
    """The same as a job, which puts its progress into a queue; returns the last step."""
    tell(f"works below {below}")
    for step in steps(below):
        progress.put((number, step))
    return step
