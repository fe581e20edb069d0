"""The servers of a node, as the root keeps them: one `Child` for each, through all its starts.

A node may have ten thousand of them, so a `Child` has no task, and makes a future only while
somebody waits for it.
"""

from __future__ import annotations

import asyncio
import time
from sys import intern
from typing import TYPE_CHECKING, Any, Literal

from noex_mp.core.reasons import ExitReason, ExitReport
from noex_mp.core.specs import Restart, ShutdownLimit

if TYPE_CHECKING:
    from noex_mp.node.connection import Connection
    from noex_mp.node.placements import Placement
    from noex_mp.node.supervisor import Siblings
    from noex_mp.node.workers import Worker

__all__ = ["Answer", "Child", "State"]

State = Literal["starting", "running", "stopping", "restarting", "gone"]

Answer = Literal["ready", "ignored", "refused", "dead", "late"]
"""What came of a start: READY, `Ignore()`, NOT_READY, the death of the worker, nothing in time."""

# What the worker needs of a spec.
_FOR_THE_WORKER = ("server", "payload")


class Child:
    """One server and its place in the tree.

    Attributes:
        sid: Its number in the node, never used again.
        spec: What the worker needs to build it: plain values.
        label: Its class, for people.
        id: What its supervisor calls it.
        name: Its name in the node, or None.
        process: What its process is to be like.
        siblings: Those with whom it shares a restart budget; None until it counts.
        placement: The group with which it shares a worker, or None.
        incarnation: How often it was started.
        worker: The process it lives in, or None.
        starting: A task is at work on its start.
        answer: What came of the start under way, as far as that is known.
        exited: What it said of its own end: reason, error payload, traceback.
        begun: The last message it had begun, by link id, where it could say so.
        stop_reason: Why it was told to stop, or None.
        killed_after: The limit, in seconds, after which we ended it by force, or None.
        report: How its last incarnation ended, and the error behind it as a payload.
        killed_on_request: We killed it without asking it first: `"brutal_kill"`.
        killed_in_a_hurry: We killed it because somebody lost patience, before or in its last act.
        watchers: Who wants to hear where it is.
        mailbox: What its mailbox holds: messages, bytes, and what happens when it is full.
        dropped: How many messages were refused or dropped for want of room.
    """

    __slots__ = (
        "_over",
        "_waiter",
        "answer",
        "begun",
        "dropped",
        "error",
        "exited",
        "id",
        "incarnation",
        "init_timeout",
        "killed_after",
        "killed_in_a_hurry",
        "killed_on_request",
        "label",
        "mailbox",
        "name",
        "placement",
        "process",
        "report",
        "restart",
        "shutdown",
        "siblings",
        "sid",
        "spec",
        "started_at",
        "starting",
        "state",
        "stop_reason",
        "watchers",
        "worker",
    )

    def __init__(self, sid: int, wire: dict[str, Any], restart: Restart) -> None:
        self.sid = sid
        self.label: str = intern(wire["server"].partition(":")[2])
        self.id: str = intern(wire["id"] or self.label.rpartition(".")[2])
        self.name: str | None = wire["name"]
        self.spec: dict[str, Any] = {key: wire[key] for key in _FOR_THE_WORKER}
        self.process: dict[str, Any] | None = wire["process"]
        self.restart: Restart = wire["restart"] or restart
        self.shutdown: ShutdownLimit = wire["shutdown"]
        self.init_timeout: float | None = wire["init_timeout"]
        self.siblings: Siblings | None = None
        self.placement: Placement | None = None
        self.mailbox: tuple[int, int, str] = tuple(wire["mailbox"])
        self.dropped = 0
        self.state: State = "starting"
        self.incarnation = 0
        self.started_at = 0.0
        self.worker: Worker | None = None
        self.starting = False
        self.answer: Answer | None = None
        self.exited: tuple[ExitReason, bytes, str] | None = None
        self.begun: dict[int, int] | None = None
        self.stop_reason: ExitReason | None = None
        self.killed_after: float | None = None
        self.killed_on_request = False
        self.killed_in_a_hurry = False
        self.report: ExitReport | None = None
        self.error = b""
        self.watchers: set[Connection] | None = None
        self._waiter: asyncio.Future[bool] | None = None
        self._over: asyncio.Future[None] | None = None

    def begin(self) -> None:
        """Note that a new incarnation starts."""
        self.incarnation += 1
        self.answer = None
        self.started_at = time.monotonic()
        self.exited = None
        self.begun = None
        self.worker = None

    # --- what happens to an incarnation ------------------------------------------------

    def answered(self, answer: Answer) -> None:
        """Note what came of its start; only the first answer counts."""
        if self.answer is None:
            self.answer = answer
        self._wake()

    def _wake(self, something: bool = True) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(something)

    async def change(self, timeout: float | None) -> bool:
        """Wait until it has answered or left; return False if that took longer than `timeout`.

        Only the task that starts it waits here.
        """
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[bool] = loop.create_future()
        self._waiter = waiter
        timer = None if timeout is None else loop.call_later(timeout, self._wake, False)
        try:
            return await waiter
        finally:
            self._waiter = None
            if timer is not None:
                timer.cancel()

    # --- the end -----------------------------------------------------------------------

    @property
    def is_over(self) -> bool:
        """Whether there will be no further incarnation."""
        return self.state == "gone"

    def over(self) -> asyncio.Future[None]:
        """Return the future that is done once there will be no further incarnation."""
        if self._over is None:
            self._over = asyncio.get_running_loop().create_future()
            if self.is_over:
                self._over.set_result(None)
        return self._over

    def end(self) -> None:
        """Note that there will be no further incarnation."""
        self.state = "gone"
        self.worker = None
        # Its arguments may be large, and it is remembered for a while.
        self.spec = {}
        if self._over is not None and not self._over.done():
            self._over.set_result(None)

    # --- questions ---------------------------------------------------------------------

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
