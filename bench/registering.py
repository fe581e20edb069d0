"""The server with which the benchmark claims, finds and frees names. Apart, for what it imports."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from time import perf_counter

from noex_mp import GenServer, Registry, call

__all__ = ["Registrar"]

REGISTRY = Registry("names")
BATCH = 1_000
LOOKUPS = 100_000


class Registrar(GenServer):
    """Claims many names, and looks for them."""

    @call
    async def claim(self, count: int) -> float:
        """Claim names; return how long that took, in seconds."""
        start = perf_counter()
        for first in range(0, count, BATCH):
            names = [f"room/{n}" for n in range(first, first + BATCH)]
            await asyncio.gather(*(REGISTRY.register(name) for name in names))
        return perf_counter() - start

    @call
    async def free(self, count: int) -> float:
        """Free them; return how long that took, in seconds."""
        start = perf_counter()
        for first in range(0, count, BATCH):
            names = [f"room/{n}" for n in range(first, first + BATCH)]
            await asyncio.gather(*(REGISTRY.unregister(name) for name in names))
        return perf_counter() - start

    @call
    def find(self) -> tuple[float, float, float]:
        """Return how long the first lookup takes, each further one, and a pattern, in seconds."""
        times = [perf_counter()]
        REGISTRY.lookup("room/7")
        times.append(perf_counter())
        for _ in range(LOOKUPS):
            REGISTRY.lookup("room/7")
        times.append(perf_counter())
        REGISTRY.match("room/77*")
        times.append(perf_counter())
        first, many, pattern = (b - a for a, b in pairwise(times))
        return first, many / LOOKUPS, pattern
