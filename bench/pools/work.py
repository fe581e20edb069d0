"""The real workloads: a function, what it is called with, and how a split by hand would cut it."""

from __future__ import annotations

import os
import random
import sysconfig
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.pools import tasks

__all__ = ["WORK", "Work", "lpt", "no_ops"]

MIB = 1024 * 1024


@dataclass(frozen=True)
class Work:
    """Some tasks.

    Attributes:
        costs: What each takes, in any unit, for who splits by hand: of equal tasks, 1.
        chunksize: For peers: the best that was found for each of them.
    """

    run: Callable[[Any], Any]
    items: Sequence[Any]
    costs: Sequence[float]
    chunksize: int


def no_ops(count: int, chunksize: int) -> Work:
    """Return tasks that do nothing."""
    return Work(tasks.same, range(count), [1.0] * count, chunksize)


def _digests() -> Work:
    paths = _library()
    return Work(tasks.digest, [str(p) for p in paths], [p.stat().st_size for p in paths], 8)


def _compression() -> Work:
    # Of text, as it comes: the library's files, one behind the other.
    text = b"".join(path.read_bytes() for path in _library())
    data = (text * (64 * MIB // len(text) + 1))[: 64 * MIB]
    blocks = [data[start : start + MIB] for start in range(0, len(data), MIB)]
    return Work(tasks.compress, blocks, [1.0] * len(blocks), 1)


def _matrices() -> Work:
    return Work(tasks.products, range(64), [1.0] * 64, 1)


def _heavy_tail() -> Work:
    times = _bounded_pareto(2_000, low=1e-5, high=1.0, alpha=0.6)
    random.Random(6).shuffle(times)
    # Nobody knows beforehand how long one of these takes. Who did would need half of their sum.
    return Work(tasks.burn, times, [1.0] * len(times), 1)


def _bounded_pareto(count: int, *, low: float, high: float, alpha: float) -> list[float]:
    """Return its quantiles: half are below 32 µs, and 6 of 2,000 take two thirds of the time."""
    ratio = (low / high) ** alpha
    return [low * (1 - i / (count - 1) * (1 - ratio)) ** (-1 / alpha) for i in range(count)]


def _library() -> list[Path]:
    top = Path(sysconfig.get_path("stdlib"))
    return sorted(p for p in top.rglob("*.py") if "site-packages" not in p.parts)


WORK: dict[str, Callable[[], Work]] = {
    "digests": _digests,
    "gzip": _compression,
    "matrices": _matrices,
    "heavy_tail": _heavy_tail,
}


def lpt(costs: Sequence[float], bins: int) -> list[list[int]]:
    """Split tasks by Graham's rule: the longest first, each to whoever has the least so far."""
    loads = [0.0] * bins
    shares: list[list[int]] = [[] for _ in range(bins)]
    for i in sorted(range(len(costs)), key=lambda i: -costs[i]):
        least = loads.index(min(loads))
        loads[least] += costs[i]
        shares[least].append(i)
    return shares


# One thread of BLAS for each process, whoever starts it: two processes share two cores.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
