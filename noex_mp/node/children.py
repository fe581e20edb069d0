"""The servers of a node, as the root keeps them: one `Child` for each, through all its starts."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any, Literal

from noex_mp.core.reasons import ExitReason, ExitReport
from noex_mp.core.specs import Restart, ShutdownLimit

if TYPE_CHECKING:
    from noex_mp.node.connection import Connection
    from noex_mp.node.workers import Worker

__all__ = ["Child", "State"]

State = Literal["starting", "running", "stopping", "restarting", "gone"]


class Child:
    """One server and its place in the tree.

    Attributes:
        sid: Its number in the node, never used again.
        spec: What the worker needs to build it: plain values.
        label: Its class, for people.
        id: What its supervisor calls it.
        name: Its name in the node, or None.
        incarnation: How often it was started.
        worker: The process it lives in, or None.
        started: Set by the first frame of an incarnation: True by READY, False by NOT_READY.
        exited: What it said of its own end: reason, error payload, traceback.
        begun: The last message it had begun, by link id, where it could say so.
        stop_reason: Why it was told to stop, or None.
        killed_after: The limit, in seconds, after which we ended it by force, or None.
        report: How its last incarnation ended, and the error behind it as a payload.
        killed_on_request: We killed it without asking it first: `"brutal_kill"`, a fast stop.
        watchers: Who wants to hear where it is.
        over: Done once there will be no further incarnation.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, sid: int, spec: dict[str, Any], restart: Restart
    ) -> None:
        self.sid = sid
        self.label: str = spec["server"].partition(":")[2]
        self.id: str = spec["id"] or self.label.rpartition(".")[2]
        self.name: str | None = spec["name"]
        self.spec = {**spec, "label": self.label}
        self.restart: Restart = spec["restart"] or restart
        self.shutdown: ShutdownLimit = spec["shutdown"]
        self.init_timeout: float | None = spec["init_timeout"]
        self.state: State = "starting"
        self.incarnation = 0
        self.started_at = 0.0
        self.worker: Worker | None = None
        self.started: asyncio.Future[bool] = loop.create_future()
        self.exited: tuple[ExitReason, bytes, str] | None = None
        self.begun: dict[int, int] = {}
        self.stop_reason: ExitReason | None = None
        self.killed_after: float | None = None
        self.killed_on_request = False
        self.report: ExitReport | None = None
        self.error = b""
        self.watchers: set[Connection] = set()
        self.over: asyncio.Future[None] = loop.create_future()
        self._loop = loop

    def begin(self) -> None:
        """Note that a new incarnation starts."""
        self.incarnation += 1
        self.started = self._loop.create_future()
        self.started_at = time.monotonic()
        self.exited = None
        self.begun = {}
        self.worker = None

    @property
    def is_up(self) -> bool:
        """Whether messages may be sent to it."""
        return self.state in ("running", "stopping")

    def is_up_in(self, worker: Worker) -> bool:
        """Return whether messages may be sent to it, there."""
        return self.worker is worker and self.is_up

    @property
    def title(self) -> str:
        """What people call it: its name, else its id."""
        return self.name or self.id

    def uptime(self) -> float:
        """How long this incarnation has run, in seconds."""
        return time.monotonic() - self.started_at
