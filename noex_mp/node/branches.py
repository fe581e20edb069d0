"""The supervisors of a node, as the root keeps them: one `Branch` for each, through all its starts.

A supervisor is no process and has no task of its own: the root carries out what it decides (see
`supervisor`), and what it decides is a pure function (see `supervision.plan`).
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Final, Literal

from noex_mp.core.reasons import ExitReason, ExitReport, Shutdown, Unknown
from noex_mp.errors import MaxRestartsExceededError
from noex_mp.node.children import Child
from noex_mp.node.members import Member
from noex_mp.node.workers import Worker
from noex_mp.supervision import plan as plans

__all__ = ["SPAWNED", "Branch", "Kind"]

Kind = Literal["supervisor", "partition", "dynamic", "spawned"]
"""`spawned`: the node's own, where every server has a restart budget for itself."""

SPAWNED: Final[dict[str, Any]] = {
    "kind": "spawned",
    "label": "DynamicSupervisor",
    "id": "spawned",
    "name": None,
    "restart": None,
    "shutdown": None,
    "significant": False,
    "backoff": None,
    "strategy": "one_for_one",
    "auto_shutdown": "never",
    "max_restarts": 3,
    "max_seconds": 5.0,
    "max_failed_inits": None,
    "max_ooms": None,
    "max_hangs": None,
    "children": [],
    "template": None,
    "max_children": None,
}
"""The description of the node's own supervisor."""


class _Budget:
    """The restarts that a supervisor remembers."""

    __slots__ = ("tree",)

    def __init__(self, tree: plans.Tree) -> None:
        self.tree = tree


class Branch(Member):
    """One supervisor and its members.

    Attributes:
        kind: What sort of supervisor it is.
        wires: The descriptions of the members that it starts with.
        members: Servers and supervisors, in the order of their starts, by id; those that were
            started dynamically by their number.
        template: What `start_child` starts when it is given arguments only.
        max_children: How many there may be at a time, or None.
        auto_shutdown: When the end of significant members ends it.
        ending: Why it ends by itself: it gave up, or its work is done.
        last_straw: The exit that was one too many ...
        excess: ... and the error that says so; its own, or of a member that ended it.
        going_down: The members of the group that is being restarted, as long as they are down.
        exits: Members that have ended, and with them their groups, which wait for their restart.
        work: The task that restarts groups, or None.
        lock: Holds whoever starts members of it.
        note: What a server wants to find again after its own death; None is nothing.
    """

    __slots__ = (
        "_budget",
        "_budgets",
        "_own",
        "auto_shutdown",
        "ending",
        "excess",
        "exits",
        "going_down",
        "kind",
        "last_straw",
        "lock",
        "max_children",
        "members",
        "note",
        "strategy",
        "template",
        "wires",
        "work",
    )

    def __init__(self, sid: int, wire: dict[str, Any]) -> None:
        super().__init__(sid, wire, id=wire["id"], label=wire["label"])
        self.kind: Kind = wire["kind"]
        self.strategy = wire["strategy"]
        self.auto_shutdown = wire["auto_shutdown"]
        self.max_children: int | None = wire["max_children"]
        self.template: dict[str, Any] | None = wire["template"]
        self.wires: list[dict[str, Any]] = wire["children"]
        self._own: set[int] = set()
        self.members: dict[str, Member] = {}
        self.ending: ExitReason | None = None
        self.last_straw: ExitReport | None = None
        self.excess: MaxRestartsExceededError | None = None
        self.going_down: set[Member] = set()
        self.exits: deque[Member] = deque()
        self.work: asyncio.Task[None] | None = None
        self.lock = asyncio.Lock()
        self.note: Any = None
        self._budget = _Budget(
            plans.Tree(
                (),
                self.strategy,
                self.auto_shutdown,
                wire["max_restarts"],
                wire["max_seconds"],
                wire["max_failed_inits"],
                wire["max_ooms"],
                wire["max_hangs"],
            )
        )
        self._budgets: dict[int, _Budget] = {}

    def begin(self) -> None:
        """Note that a new incarnation starts: as in OTP, it remembers no restarts."""
        super().begin()
        self.last_straw = self.excess = None
        self.exits.clear()
        self._budget = _Budget(self._budget.tree.after(plans.Plan()))

    def awake(self) -> None:
        """Note that somebody is at work to start it."""
        super().awake()
        self.ending = None

    def wind_up(self) -> None:
        """Note that it is to end, with all that is in it."""
        if self.state == "running":
            self.state = "stopping"
        # It may wait for the time of a restart.
        self.wake()

    def end_after(self, member: Member) -> ExitReason:
        """Return why it ends, since the end of a significant member ends it."""
        if isinstance(member, Branch) and member.excess is not None and member.report is not None:
            self.last_straw, self.excess = member.last_straw, member.excess
            return member.report.reason
        return Shutdown(f"{member.title} has done its work")

    # --- members -----------------------------------------------------------------------

    @property
    def is_dynamic(self) -> bool:
        """Whether its members have no order, and are forgotten when they have ended."""
        return self.kind in ("dynamic", "spawned")

    @property
    def is_application(self) -> bool:
        """Whether it is an `Application`; this layer knows no more of that than its name."""
        return self.label == "Application"

    @property
    def front(self) -> Member | None:
        """The member that has the address of all, in a pool: the last that it starts with."""
        if self.label != "ServerPool":
            return None
        own = [member for member in self.members.values() if member.sid in self._own]
        return own[-1] if own else None

    @property
    def is_ending(self) -> bool:
        """Whether it starts nothing any more."""
        return self.stop_reason is not None or self.ending is not None

    def key_of(self, member: Member) -> str:
        """Return under which key it keeps a member."""
        return str(member.sid) if self.is_dynamic else member.id

    def add(self, member: Member, *, own: bool = False) -> None:
        """Enter a member, at the end.

        Args:
            own: Whether it is one that the supervisor starts with.
        """
        member.parent = self
        self.members[self.key_of(member)] = member
        if own:
            self._own.add(member.sid)

    def remove(self, member: Member) -> None:
        """Forget a member."""
        key = self.key_of(member)
        if self.members.get(key) is member:
            del self.members[key]
        self._own.discard(member.sid)
        self._budgets.pop(member.sid, None)

    def keeps(self, member: Member) -> bool:
        """Whether it keeps the description of a member that has ended."""
        return not (self.is_dynamic or member.restart == "temporary" or member.forgotten)

    def is_its_own(self, member: Member) -> bool:
        """Whether a member is one that it starts with, and not one that was added."""
        return member.sid in self._own

    def group_of(self, member: Member) -> list[Member]:
        """Return those that are restarted with a member, itself included, in start order."""
        members = list(self.members.values())
        return list(plans.group_of(self.strategy, members, member))

    def left_down(self) -> list[Member]:
        """Return those who went down with a group, and for whose restart no other group waits."""
        return [m for m in self.members.values() if m.pauses and m not in self.exits]

    def children(self) -> Iterator[Child]:
        """Yield all servers in it, at any depth."""
        for member in self.members.values():
            if isinstance(member, Child):
                yield member
            elif isinstance(member, Branch):
                yield from member.children()

    # --- decisions ---------------------------------------------------------------------

    def plan(self, member: Member, reason: ExitReason, worker: Worker | None) -> plans.Plan:
        """Decide what follows from an exit that nobody asked for, and remember the restart.

        The death of a worker counts once, however many servers lived in it.
        """
        budget = self._budget_of(member)
        ended_by_itself = isinstance(member, Child) and member.exited is not None
        died_with = None if worker is None or worker.alive or ended_by_itself else worker
        counted = died_with is not None and budget in died_with.counted_in
        tree = replace(budget.tree, children=self._for_the_plan(member))
        plan = plans.plan_exit(
            tree, self.key_of(member), reason, now=time.monotonic(), counted=counted
        )
        after = budget.tree.after(plan)
        if after != budget.tree:
            budget.tree = after
            if died_with is not None:
                died_with.counted_in.add(budget)
        return plan

    def _budget_of(self, member: Member) -> _Budget:
        if self.kind != "spawned":
            return self._budget
        return self._budgets.setdefault(member.sid, _Budget(self._budget.tree))

    def _for_the_plan(self, member: Member) -> tuple[plans.Child, ...]:
        # Of ten thousand dynamic members only the one matters.
        alone = self.strategy == "one_for_one" and self.auto_shutdown == "never"
        members = [member] if alone else list(self.members.values())
        return tuple(
            plans.Child(
                self.key_of(m),
                m.restart,
                m.significant,
                m.is_over,
                m.on_oom if isinstance(m, Child) else "restart",
            )
            for m in members
        )

    @property
    def limits(self) -> tuple[int, float]:
        """How many restarts it allows within how many seconds."""
        return self._budget.tree.max_restarts or 0, self._budget.tree.max_seconds

    def give_up(self, straw: Member) -> MaxRestartsExceededError:
        """Note the exit that was one too many; return the error that says so."""
        report = self.last_straw = straw.report
        reason = report.reason if report else Unknown("")
        tree, budget = self._budget.tree, plans.budget_of(reason)
        limit = tree.limit_of(budget) or 0
        if budget == "ooms" and isinstance(straw, Child) and straw.on_oom == "escalate":
            limit = 0
        self.excess = MaxRestartsExceededError(self.title, limit, tree.max_seconds, report, budget)
        return self.excess
