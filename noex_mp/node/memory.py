"""Ends workers that have more memory than their `memory_limit`; warns their servers before that.

What counts is private memory: a worker shares most of its pages with its zygote, and costs the
machine only what it has written. A quick look (see `transport.private_memory`) says how much that
is at most, and most of the time that is all one has to know: with what the last exact look has
found to be shared, it says whether an exact look may lead to anything new.

When its zygote dies, all that they have shared becomes the worker's own, and it has done nothing
for it: from then on what it had shared at last does not count.
"""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Callable
from typing import Final

from noex_mp.core.reasons import OutOfMemory
from noex_mp.node.stacks import ask_for_stack
from noex_mp.node.workers import Worker
from noex_mp.transport.private_memory import (
    EXACTLY,
    SHARE,
    SOFT,
    private_at_most,
    private_memory,
)

__all__ = ["MemoryWatch"]

# How often to look, in seconds.
LOOK: Final = 0.1

# For so many looks one is trusted that has more of its own all at once and no more altogether: its
# zygote may be about to die.
TRUST: Final = 5


class MemoryWatch:
    """Watches the memory of one worker.

    Args:
        worker: The worker.
        limit: What it may have, in bytes.
        on_pressure: Is told how much it has when that is over 80 % of the limit; once, until it
            was less.

    Attributes:
        limit: What it may have, in bytes.
        pressure: How much it had when that was told, or 0 if it has less.
    """

    def __init__(self, worker: Worker, limit: int, on_pressure: Callable[[int], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._worker = worker
        self.limit = limit
        self._soft = int(limit * SOFT)
        self._on_pressure = on_pressure
        self.pressure = 0
        # What it shares with its zygote and statm counts, by the last exact look.
        self._shared = 0
        self._exact_at = 0.0
        self._distrust = 0
        self._end: asyncio.Task[None] | None = None
        self._timer = self._loop.call_later(LOOK, self._look)

    def stop(self) -> None:
        """Watch no more."""
        self._timer.cancel()

    def _look(self) -> None:
        if not self._worker.can_be_signalled:
            return
        used = self._used()
        if used >= self.limit:
            self._end = self._loop.create_task(
                self._kill(used), name=f"end of worker {self._worker.number}, out of memory"
            )
            return
        if used < self._soft:
            self.pressure = 0
        elif not self.pressure:
            self.pressure = used
            self._on_pressure(used)
        self._timer = self._loop.call_later(LOOK, self._look)

    def _used(self) -> int:
        most = private_at_most(self._worker.os_pid)
        # As if it shared as much as it did.
        used = most - self._shared
        if not self._is_to_be_looked_at(most, used):
            return used
        # Of a CPU: where this thread is kept waiting, the look has cost nobody anything, and the
        # next one would come half a minute late.
        began = time.thread_time()
        exactly = private_memory(self._worker.os_pid)
        took = time.thread_time() - began
        now = time.monotonic()
        self._exact_at = now + max(EXACTLY, took / SHARE)
        if used < self.limit <= exactly and self._distrust < TRUST:
            self._distrust += 1
            self._exact_at = now
            return used
        self._distrust = 0
        self._shared = max(0, most - exactly)
        return exactly

    def _is_to_be_looked_at(self, most: int, used: int) -> bool:
        if not self._exact_at:
            return True
        zygote = self._worker.zygote
        if zygote is None or zygote.ended:
            return False
        next_step = self.limit if self.pressure else self._soft
        # What it has of its own can be no more than `most`.
        is_due = most >= next_step and time.monotonic() >= self._exact_at
        return is_due or used >= next_step

    async def _kill(self, used: int) -> None:
        worker = self._worker
        await ask_for_stack(worker)
        if worker.can_be_signalled:
            worker.ran_over = OutOfMemory(self.limit, used)
            worker.signal_group(signal.SIGKILL)
