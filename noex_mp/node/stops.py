"""How one server is made to end: it is asked, then evicted or told by a signal, then killed."""

from __future__ import annotations

import asyncio
import signal
from typing import Any

from noex_mp.core.reasons import ShutdownTimedOut
from noex_mp.core.specs import ShutdownLimit
from noex_mp.node.children import Child
from noex_mp.node.stacks import ask_for_stack
from noex_mp.node.workers import Worker
from noex_mp.supervision.shutdown import Step, stop_steps
from noex_mp.wire.envelopes import KILL, STOP

__all__ = ["Stops"]


class Stops:
    """Ends servers, each within its limit.

    Attributes:
        fast: Somebody lost patience: nobody's `terminate` is waited for.
    """

    def __init__(self) -> None:
        self.fast = asyncio.Event()

    async def end(self, child: Child, limit: ShutdownLimit) -> None:
        """Make a server that has its `stop_reason` end; return once it is at rest."""
        # Of this incarnation: somebody may start the next one at once.
        rest = child.rest()
        for step in stop_steps(limit, fast=self.fast.is_set(), shared=child.placement is not None):
            if child.killed_after is not None and step.action != "evict":
                await self._look(child, rest)
            if await self._try(child, step, rest):
                break
            if step.action == "ask" and not self.fast.is_set():
                child.killed_after = step.limit
        await rest

    async def _look(self, child: Child, rest: asyncio.Future[None]) -> None:
        """See what a server is doing that does not stop, unless somebody has no patience."""
        if child.worker is not None and not rest.done() and not self.fast.is_set():
            await ask_for_stack(child.worker)

    async def _try(self, child: Child, step: Step, rest: asyncio.Future[None]) -> bool:
        """Take one step to end a server; return whether it is at rest."""
        worker = child.worker
        if rest.done():
            return True
        if step.action == "ask":
            self._ask(child, worker)
        elif worker is not None:
            self._force(child, worker, step)
        if rest.done():
            return True
        waiting: list[asyncio.Future[Any]] = [rest]
        if step.action == "ask":
            waiting.append(asyncio.get_running_loop().create_task(self.fast.wait()))
        await asyncio.wait(waiting, timeout=step.limit, return_when=asyncio.FIRST_COMPLETED)
        for hurry in waiting[1:]:
            hurry.cancel()
        return rest.done()

    def _ask(self, child: Child, worker: Worker | None) -> None:
        # It may wait for the time of its restart.
        child.wake()
        if worker is None:
            return
        if child.state == "running" or (child.state == "starting" and child.answer == "ready"):
            child.state = "stopping"
            worker.connection.post([STOP, child.sid, child.stop_reason])
        elif child.state in ("starting", "restarting"):
            # It has no state worth saving yet.
            child.killed_on_request = True
            if worker.shared:
                worker.connection.post([KILL, child.sid, child.stop_reason])
            else:
                worker.signal_group(signal.SIGKILL)

    def _force(self, child: Child, worker: Worker, step: Step) -> None:
        child.killed_on_request = True
        if step.action == "evict":
            limit = child.killed_after
            reason = child.stop_reason if limit is None else ShutdownTimedOut(limit)
            worker.connection.post([KILL, child.sid, reason])
        else:
            if worker.shared:
                worker.condemned = f"{child.title} did not stop"
            worker.signal_group(signal.SIGTERM if step.action == "terminate" else signal.SIGKILL)
