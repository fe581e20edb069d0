"""What a supervisor keeps alive: a server (`children.Child`) or a supervisor (`branches.Branch`).

A member is *at rest* when no incarnation of it runs and nobody is at work to start one. A member
that was taken down together with its group *pauses*: it is at rest until its supervisor starts it
again, and whoever calls it waits.
"""

from __future__ import annotations

import asyncio
import random
import time
from typing import TYPE_CHECKING, Any, Literal

from noex_mp.core.reasons import ExitReason, ExitReport
from noex_mp.core.specs import Backoff, Restart, ShutdownLimit

if TYPE_CHECKING:
    from noex_mp.node.branches import Branch

__all__ = ["Member", "Role", "State"]

Role = Literal["server", "supervisor"]

State = Literal["starting", "running", "stopping", "restarting", "stopped", "gone"]
"""`stopped`: it has ended, and its supervisor keeps its description. `gone`: nobody does."""


class Member:
    """One entry of a supervisor, through all its starts.

    Attributes:
        sid: Its number in the node, never used again.
        id: What its supervisor calls it.
        name: Its name in the node, or None.
        label: Its class, for people.
        restart: When it comes back.
        shutdown: How long it may take to stop.
        significant: Whether its end may end its supervisor.
        backoff: How long to wait before it is started again, or None.
        parent: Its supervisor; None for the topmost.
        state: Where it is in its life.
        at_rest: Nothing of it runs, and nobody is at work to start it.
        pauses: Its supervisor will start it again.
        forgotten: Its supervisor is to forget it when it has ended.
        starting: A task is at work on its start.
        incarnation: How often it was started.
        attempt: Which try to bring it up this is; 0 while it runs.
        started_at: When it was started last, by the monotonic clock.
        stop_reason: Why it was told to stop, or None.
        in_a_row: How many restarts it needed, since it last ran for long.
        report: How its last incarnation ended, and the error behind it as a payload.
    """

    __slots__ = (
        "_rest",
        "_settled",
        "_waiter",
        "at_rest",
        "attempt",
        "backoff",
        "error",
        "forgotten",
        "id",
        "in_a_row",
        "incarnation",
        "label",
        "name",
        "parent",
        "pauses",
        "report",
        "restart",
        "shutdown",
        "sid",
        "significant",
        "started_at",
        "starting",
        "state",
        "stop_reason",
    )

    def __init__(self, sid: int, wire: dict[str, Any], *, id: str, label: str) -> None:
        self.sid = sid
        self.id = id
        self.label = label
        self.name: str | None = wire["name"]
        self.restart: Restart = wire["restart"] or "permanent"
        self.shutdown: ShutdownLimit = wire["shutdown"]
        self.significant: bool = wire["significant"]
        self.backoff: Backoff | None = Backoff(*wire["backoff"]) if wire["backoff"] else None
        self.parent: Branch | None = None
        self.state: State = "starting"
        self.at_rest = True
        self.pauses = False
        self.forgotten = False
        self.starting = False
        self.incarnation = 0
        self.attempt = 0
        self.started_at = 0.0
        self.stop_reason: ExitReason | None = None
        self.in_a_row = 0
        self.report: ExitReport | None = None
        self.error = b""
        self._waiter: asyncio.Future[bool] | None = None
        self._rest: asyncio.Future[None] | None = None
        self._settled: asyncio.Future[None] | None = None

    def begin(self) -> None:
        """Note that a new incarnation starts."""
        self.incarnation += 1
        self.attempt += 1
        self.started_at = time.monotonic()

    def awake(self) -> None:
        """Note that somebody is at work to start it."""
        self.at_rest = self.pauses = self.forgotten = False
        self.stop_reason = None
        self.starting = True
        self._rest = None

    # --- waiting for it ----------------------------------------------------------------

    def wake(self, something: bool = True) -> None:
        """Let the task that starts it look again."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(something)

    async def change(self, timeout: float | None) -> bool:
        """Wait until something has happened to it; return False if that took too long.

        Only the task that starts it waits here.

        Args:
            timeout: In seconds; None is for ever.
        """
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[bool] = loop.create_future()
        self._waiter = waiter
        timer = None if timeout is None else loop.call_later(timeout, self.wake, False)
        try:
            return await waiter
        finally:
            self._waiter = None
            if timer is not None:
                timer.cancel()

    def rest(self) -> asyncio.Future[None]:
        """Return the future that is done once it is at rest."""
        if self._rest is None:
            self._rest = asyncio.get_running_loop().create_future()
            if self.at_rest:
                self._rest.set_result(None)
        return self._rest

    def settled(self) -> asyncio.Future[None]:
        """Return the future that is done once nobody is at work to start it: it runs, or rests."""
        if self._settled is None or self._settled.done():
            self._settled = asyncio.get_running_loop().create_future()
            if not self.starting:
                self._settled.set_result(None)
        return self._settled

    def come_up(self) -> None:
        """Note that its start is over."""
        self.starting = False
        if self._settled is not None and not self._settled.done():
            self._settled.set_result(None)

    def come_to_rest(self, state: State) -> None:
        """Note that nothing of it runs any more, and why not."""
        self.state = state
        self.at_rest = True
        self.come_up()
        if self._rest is not None and not self._rest.done():
            self._rest.set_result(None)

    def next_delay(self) -> float:
        """Return how long to wait before it is started again, in seconds; count the restart."""
        if self.backoff is None:
            return 0.0
        if self.uptime() >= self.backoff.reset_after:
            self.in_a_row = 0
        self.in_a_row += 1
        return self.backoff.delay(self.in_a_row, random.uniform(-1.0, 1.0))

    # --- questions ---------------------------------------------------------------------

    @property
    def is_over(self) -> bool:
        """Whether there will be no further incarnation, unless somebody asks for one."""
        return self.state in ("stopped", "gone")

    @property
    def is_ending(self) -> bool:
        """Whether it is not to be started."""
        return self.stop_reason is not None

    @property
    def was_ignored(self) -> bool:
        """Whether its last start had nothing to do: its `init` returned `Ignore()`."""
        return False

    @property
    def role(self) -> Role:
        """What it is."""
        return "supervisor"

    @property
    def os_pid(self) -> int:
        """The process it lives in, or 0."""
        return 0

    @property
    def title(self) -> str:
        """What people call it: its name, else its id."""
        return self.name or self.id

    @property
    def path(self) -> str | None:
        """The ids that lead to it from the top, as `/front/web`; None for what was spawned."""
        if self.parent is None:
            return "" if self.sid else None
        above = self.parent.path
        return None if above is None else f"{above}/{self.id}"

    def uptime(self) -> float:
        """How long this incarnation has run, in seconds."""
        return time.monotonic() - self.started_at
