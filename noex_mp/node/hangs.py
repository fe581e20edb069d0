"""Ends servers of which a handler takes longer than their `hang_timeout`.

The worker writes down since when its server has been at work (see `worker.watched`). The root
looks there: if something runs, again when its time would be over, and else after as long as that.
So to watch costs a look per limit, and a message nothing.

A root that comes too late to its look was stopped itself, or its whole machine was, and the worker
may not have run either: then the handler gets its time once more.
"""

from __future__ import annotations

import asyncio
import signal
import time
from functools import partial
from typing import Final

from noex_mp.core.reasons import render
from noex_mp.node.black_box import own_cell, place_of_own_cell
from noex_mp.node.children import Child
from noex_mp.node.verdicts import is_traced, reach_verdict
from noex_mp.node.workers import Worker

__all__ = ["HangWatch"]

# How much too late a look may be before the root takes itself for having been stopped, in seconds.
LATE: Final = 0.5

# Timers of an event loop come up to a millisecond early.
EARLY: Final = 0.001


class HangWatch:
    """Watches one incarnation of a server.

    Args:
        child: The server, whose `hang_timeout` is set.
        worker: Where it lives.
    """

    def __init__(self, child: Child, worker: Worker) -> None:
        assert child.hang_timeout is not None
        self._loop = asyncio.get_running_loop()
        self._child = child
        self._worker = worker
        self._limit = child.hang_timeout
        place = place_of_own_cell(worker.slot, child.sid)
        self._read = None if place is None else partial(own_cell, worker.slot, place, child.sid)
        self._timer: asyncio.TimerHandle | None = None
        self._end: asyncio.Task[None] | None = None
        self._due = 0.0
        self._look_in(self._limit)

    def stop(self) -> None:
        """Watch no more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look_in(self, seconds: float) -> None:
        seconds = max(EARLY, seconds)
        self._due = time.monotonic() + seconds
        self._timer = self._loop.call_later(seconds, self._look)

    def _look(self) -> None:
        if self._read is None or not self._worker.can_be_signalled:
            return
        cell, now = self._read(), time.monotonic()
        left = cell.since + self._limit - now
        if not cell.since or (left <= 0 and self._is_excused(cell.callback, now)):
            self._look_in(self._limit)
        elif left > 0:
            self._look_in(left)
        else:
            self._end = self._loop.create_task(
                self._kill(cell.since), name=f"end of {self._child.title}, which hangs"
            )

    def _is_excused(self, callback: str, now: float) -> bool:
        if now - self._due > LATE or is_traced(self._worker.os_pid):
            return True
        # That has a limit of its own.
        return callback == "terminate" and self._child.stop_reason is not None

    async def _kill(self, since: float) -> None:
        child, worker = self._child, self._worker
        assert self._read is not None
        hung = await reach_verdict(worker, self._read, self._limit, since)
        if self._timer is None or not worker.can_be_signalled or child.exited is not None:
            # It has ended meanwhile, in another way.
            return
        if hung is None:
            self._look()
            return
        child.hung = hung
        if worker.shared:
            worker.condemned = f"{child.title} {render(hung)}"
        worker.signal_group(signal.SIGKILL)
