"""What the pools are given to do. It loads nothing that a worker would have to pay for."""

from __future__ import annotations

import gzip
import hashlib
import os
import signal
import zlib
from collections.abc import Callable
from pathlib import Path
from time import sleep, thread_time
from typing import Any

__all__ = [
    "burn",
    "compress",
    "die_once",
    "digest",
    "nap",
    "products",
    "rehearse",
    "same",
    "total",
]


def same(value: int) -> int:
    """Return `value`: a task that does nothing."""
    return value


def nap(seconds: float) -> int:
    """Sleep; return the pid of the worker."""
    sleep(seconds)
    return os.getpid()


def rehearse(run: Callable[[Any], Any], item: Any) -> None:
    """Run a task for what it has to load, and sleep while another worker does the same."""
    run(item)
    sleep(0.05)


def burn(seconds: float) -> int:
    """Compute for so much CPU time; return the pid of the worker."""
    end = thread_time() + seconds
    while thread_time() < end:
        pass
    return os.getpid()


def die_once(mark: str) -> int:
    """Kill the worker, unless `mark` says that this has happened; return the pid of the worker."""
    try:
        Path(mark).touch(exist_ok=False)
    except FileExistsError:
        return os.getpid()
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("alive")


def digest(path: str) -> tuple[str, int]:
    """Return a file's SHA-256, and its length when compressed."""
    data = Path(path).read_bytes()
    return hashlib.sha256(data).hexdigest(), len(zlib.compress(data))


def compress(block: bytes) -> bytes:
    """Return `block` as gzip has it."""
    return gzip.compress(block, 6, mtime=0)


def products(seed: int) -> Any:
    """Return a matrix that is the product of many."""
    import numpy as np

    random = np.random.default_rng(seed)
    factor = random.random((256, 256)) / 128
    product = factor
    for _ in range(32):
        product = product @ factor
    return product


def total(array: Any) -> float:
    """Return the sum of an array of numbers."""
    return float(array.sum())
