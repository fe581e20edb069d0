"""What it costs to watch servers with limits, and how fast a hang is ended.

Like `bench.runtime`: each function is one run in a process of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter
from typing import Any

from bench.floor import Numbers
from bench.runtime import idle_percent, one_at_a_time
from bench.servers import Echo, Hangs
from noex_mp import ServerExitedError, child, spawn

__all__ = ["call_watched", "hangs", "memory_watch"]

LIMIT = 0.2
LIMITED = 50


async def call_watched() -> Numbers:
    """A call at a time, sync handler, with a `hang_timeout`."""
    echo = await spawn(child(Echo).options(hang_timeout=5.0))
    return await one_at_a_time(lambda i: Echo.ping(echo, i))


async def hangs() -> Numbers:
    """From the limit to the error that the caller gets, of handlers that hang in several ways."""
    ways: list[Callable[..., Any]] = [Hangs.loop, Hangs.add_up, Hangs.nap, Hangs.wait]
    late: list[float] = []
    for way in ways * 3:
        ref = await spawn(child(Hangs).options(hang_timeout=LIMIT, restart="temporary"))
        await Hangs.ready(ref)
        start = perf_counter()
        try:
            await way(ref.within(None))
        except ServerExitedError:
            late.append((perf_counter() - start - LIMIT) * 1e3)
    return {"latest_ms": max(late)}


async def memory_watch() -> Numbers:
    """The CPU time that 50 idle servers with a `memory_limit` take more than without: each."""
    for _ in range(LIMITED):
        await spawn(Echo)
    without = await idle_percent()
    for _ in range(LIMITED):
        await spawn(child(Echo).options(memory_limit="512MB"))
    return {"percent_each": max(0.0, await idle_percent() - without) / LIMITED}
