"""What others take for the same: `concurrent.futures.ProcessPoolExecutor`."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from time import perf_counter_ns

from bench.floor import Numbers, percentiles

__all__ = ["pool_big_argument", "pool_round_trip"]

BIG = 16 * 1024 * 1024


def pool_round_trip() -> Numbers:
    """Return `p50` and `p99` in µs of one task at a time."""
    with ProcessPoolExecutor(max_workers=1) as pool:
        return percentiles(_times(lambda: pool.submit(_same, 1).result(), 200, 3_000))


def pool_big_argument() -> Numbers:
    """Return `ms`: a task whose argument is 16 MiB of bytes and whose result is its length."""
    data = os.urandom(BIG)
    with ProcessPoolExecutor(max_workers=1) as pool:
        took = _times(lambda: pool.submit(len, data).result(), 3, 10)
    return {"ms": percentiles(took)["p50"] / 1e3}


def _times(once: Callable[[], int], warm_up: int, count: int) -> list[int]:
    for _ in range(warm_up):
        once()
    took: list[int] = []
    for _ in range(count):
        start = perf_counter_ns()
        once()
        took.append(perf_counter_ns() - start)
    return took


def _same(value: int) -> int:
    return value
