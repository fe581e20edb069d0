"""How a server looks for the circle of calls that it may be part of.

What a probe is, and what comes of one, is decided in `cycles`.
"""

from __future__ import annotations

import asyncio
from typing import Any, Protocol

from noex_mp.errors import CallCycleError
from noex_mp.worker.activation import Activation
from noex_mp.worker.cycles import ASK_AGAIN, FIRST_LOOK, Onward, Victim, follow

__all__ = ["Probing"]


class Waiting(Protocol):
    """A server, as far as it may wait.

    Attributes:
        sid: Its number.
        name: What people call it.
        activation: What its handler works on, or None.
        task: The task that waits.
    """

    @property
    def sid(self) -> int: ...
    @property
    def name(self) -> str: ...
    @property
    def activation(self) -> Activation | None: ...
    @property
    def task(self) -> asyncio.Task[None] | None: ...


class Probing:
    """Sends probes for a server, now and then for as long as it waits."""

    __slots__ = ("_look_after", "_looking", "_loop", "_server")

    def __init__(self, loop: asyncio.AbstractEventLoop, server: Waiting) -> None:
        self._loop = loop
        self._server = server
        self._looking: asyncio.TimerHandle | None = None
        self._look_after = FIRST_LOOK

    def suspect(self) -> None:
        """Look in a moment whether the server is part of a circle, and now and then after that."""
        if self._looking is not None:
            if self._look_after == FIRST_LOOK:
                return
            # This may be the one that closes a circle.
            self._looking.cancel()
        self._look_in(FIRST_LOOK)

    def _look_in(self, seconds: float) -> None:
        self._look_after = seconds
        self._looking = self._loop.call_later(seconds, self._look)

    def _look(self) -> None:
        self._looking = None
        if self._server.activation is not None:
            self.send([])
            self._look_in(min(2 * self._look_after, ASK_AGAIN))

    def send(self, path: list[Any]) -> None:
        """Send a probe along each call that the server waits for, or end one that it closes."""
        running, task = self._server.activation, self._server.task
        if running is None or task is None:
            return
        calls = running.waits_for(task)
        if not calls:
            return
        sid, name = self._server.sid, self._server.name
        decision = follow(path, [sid, name, running.number])
        alone = Victim(sid, (name, name))
        for future, route, seq in calls:
            found = alone if route.sid == sid else decision
            if isinstance(found, Onward):
                route.probe(seq, found.path)
            elif route.sid == found.next_sid and not route.overdraw(seq) and not future.done():
                future.set_exception(CallCycleError(found.names))
