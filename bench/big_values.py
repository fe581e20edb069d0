"""Big values to two processes: shared, as plain arguments, and through a pipe as others send them.

Like `bench.runtime`: each function is one run in a process of its own.
"""

from __future__ import annotations

import asyncio
import statistics
from collections.abc import Awaitable, Callable
from concurrent.futures import ProcessPoolExecutor
from time import perf_counter
from typing import Any

import numpy as np

from bench.floor import Numbers
from noex_mp import GenServer, call, shared, spawn

__all__ = ["executor_array", "plain_array", "shared_array", "smallest_shared"]

SIZE = 8 * 2**20  # of floats: 64 MiB
SMALLEST = 16 * 2**10  # 128 KiB: what is smaller travels as a copy
ROUNDS = 7


def total(values: Any) -> float:
    """Return the sum."""
    return float(values.sum())


class Summing(GenServer):
    """Adds up."""

    @call
    def total(self, values: Any) -> float:
        """Return the sum."""
        return total(values)


def executor_array() -> Numbers:
    """Return `ms`: 64 MiB to both processes of a ProcessPoolExecutor, and the sums back."""
    values = np.random.default_rng(1).random(SIZE)
    took: list[float] = []
    with ProcessPoolExecutor(max_workers=2) as pool:
        for _ in range(ROUNDS):
            start = perf_counter()
            for future in [pool.submit(total, values) for _ in range(2)]:
                future.result()
            took.append((perf_counter() - start) * 1e3)
    return {"ms": statistics.median(took)}


async def plain_array() -> Numbers:
    """Return `ms`: the same to two servers, as an argument."""
    return await _to_two(lambda values: values)


async def shared_array() -> Numbers:
    """Return `ms`: the same, shared, which is part of it."""
    return await _to_two(shared)


async def _to_two(prepared: Callable[[Any], Any]) -> Numbers:
    servers = [await spawn(Summing) for _ in range(2)]
    array = np.random.default_rng(1).random(SIZE)

    async def once() -> None:
        values = prepared(array)
        await asyncio.gather(*(Summing.total(each, values) for each in servers))

    return {"ms": await _median_ms(once, ROUNDS)}


async def smallest_shared() -> Numbers:
    """Return `shared_us` and `plain_us` of a call with the smallest array that is shared at all.

    Both are to be about the same: that is what the bound was chosen for.
    """
    server = await spawn(Summing)
    array = np.random.default_rng(1).random(SMALLEST)
    values = shared(array)
    took: dict[str, list[float]] = {"plain_us": [], "shared_us": []}
    for _ in range(500):
        # By turns: whatever the machine does meanwhile, it does to both.
        for name, argument in (("plain_us", array), ("shared_us", values)):
            start = perf_counter()
            await Summing.total(server, argument)
            took[name].append((perf_counter() - start) * 1e6)
    return {name: statistics.median(times) for name, times in took.items()}


async def _median_ms(once: Callable[[], Awaitable[Any]], rounds: int) -> float:
    took: list[float] = []
    for _ in range(rounds):
        start = perf_counter()
        await once()
        took.append((perf_counter() - start) * 1e3)
    return statistics.median(took)
