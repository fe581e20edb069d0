"""What the pools are given to do, most of it unkind."""

from __future__ import annotations

import os
import resource
import threading
from pathlib import Path
from time import sleep
from typing import Any

__all__ = [
    "LOCK", "TwoArgumentsError", "UnpicklableError", "computes_in_c", "grows", "holds_a_lock",
    "nap", "ourselves", "raises_two_arguments", "raises_unpicklable", "returns_a_lock", "same",
]  # fmt: skip

LOCK = threading.Lock()

ourselves: Any = None
"""The pool, for a task that asks its own pool: where a worker is forked, it finds it here."""

_MIB = 1024 * 1024


class TwoArgumentsError(Exception):
    """Pickles, and does not unpickle: its class is called with one argument then."""

    def __init__(self, what: str, why: str) -> None:
        super().__init__(f"{what}: {why}")


class UnpicklableError(Exception):
    """Has an attribute that does not pickle."""

    def __init__(self) -> None:
        super().__init__("of no use")
        self.lock = threading.Lock()


def same(value: int) -> int:
    """Return `value`."""
    return value


def nap(seconds: float) -> int:
    """Sleep; return the pid of the worker."""
    sleep(seconds)
    return os.getpid()


def raises_two_arguments() -> None:
    """Raise an error as one writes it without a thought."""
    raise TwoArgumentsError("tea", "sold out")


def raises_unpicklable() -> None:
    """Raise an error that holds a lock."""
    raise UnpicklableError


def returns_a_lock() -> Any:
    """Return what cannot be pickled."""
    return threading.Lock()


def grows() -> int:
    """Take 256 MiB more than is allowed."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + 64 * _MIB
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
    try:
        return len([bytearray(_MIB) for _ in range(320)])
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def computes_in_c() -> int:
    """Add for days, and hold the GIL: no Python code runs meanwhile, nor a handler of signals.

    (Unlike in a regular expression, which looks for signals now and then.)
    """
    return sum(range(10**15))


def holds_a_lock() -> int:
    """Take the lock of this module, and give it back."""
    with LOCK:
        return os.getpid()


def asks_its_own_pool(value: int) -> int:
    """Give a task to the pool that this one is of, and wait for it."""
    answer: int = ourselves.submit(same, value).result()
    return answer
