"""The servers of a node, as the root keeps them: one `Child` for each, through all its starts.

A node may have ten thousand of them, so a `Child` has no task, and makes a future only while
somebody waits for it.
"""

from __future__ import annotations

from sys import intern
from typing import TYPE_CHECKING, Any, Literal

from typing_extensions import override

from noex_mp.core.reasons import ExitReason, Hung
from noex_mp.core.specs import OnOom
from noex_mp.node.members import Member, Role, State

if TYPE_CHECKING:
    from noex_mp.node.connection import Connection
    from noex_mp.node.hangs import HangWatch
    from noex_mp.node.placements import Placement
    from noex_mp.node.workers import Worker

__all__ = ["Answer", "Child"]

Answer = Literal["ready", "ignored", "refused", "dead", "late"]
"""What came of a start: READY, `Ignore()`, NOT_READY, the death of the worker, nothing in time."""

# What the worker needs of a spec; `extra` are arguments on top of a template's.
_FOR_THE_WORKER = ("server", "payload", "extra")


class Child(Member):
    """One server and its place in the tree.

    Attributes:
        spec: What the worker needs to build it: plain values.
        process: What its process is to be like.
        placement: The group with which it shares a worker, or None.
        placement_name: What that group is called, or None.
        worker: The process it lives in, or None.
        answer: What came of the start under way, as far as that is known.
        exited: What it said of its own end: reason, error payload, traceback.
        begun: The last message it had begun, by link id, where it could say so.
        evidence: What else it said, for the report.
        attempts: The last messages that it worked on when it ended: how often, by whose they were
            and their numbers there.
        killed_after: The limit, in seconds, after which we ended it by force, or None.
        killed_on_request: We killed it without asking it first: `"brutal_kill"`.
        killed_in_a_hurry: We killed it because somebody lost patience, before or in its last act.
        hang_timeout: How long a handler of it may take, in seconds, or None.
        hung: Why it was killed, if a handler of it took longer.
        task_stopped: That was since somebody wanted to stop the task that it ran.
        on_oom: What follows when it has run out of memory.
        struck: Why it is to end by an exit signal, or None.
        traps: Exit signals come to it as messages.
        watch: Whoever watches its handlers, if these have a limit.
        watchers: Who wants to hear where it is.
        mailbox: What its mailbox holds: messages, bytes, and what happens when it is full.
        dropped: How many messages were refused or dropped for want of room.
    """

    __slots__ = (
        "answer",
        "attempts",
        "begun",
        "dropped",
        "evidence",
        "exited",
        "hang_timeout",
        "hung",
        "init_timeout",
        "killed_after",
        "killed_in_a_hurry",
        "killed_on_request",
        "mailbox",
        "on_oom",
        "placement",
        "placement_name",
        "process",
        "spec",
        "struck",
        "task_stopped",
        "traps",
        "watch",
        "watchers",
        "worker",
    )

    def __init__(self, sid: int, wire: dict[str, Any]) -> None:
        label = intern(wire.get("label") or wire["server"].partition(":")[2])
        own = intern(wire["id"] or label.rpartition(".")[2])
        super().__init__(sid, wire, id=own, label=label)
        self.spec: dict[str, Any] = {key: wire[key] for key in _FOR_THE_WORKER if key in wire}
        self.process: dict[str, Any] | None = wire["process"]
        self.init_timeout: float | None = wire["init_timeout"]
        self.hang_timeout: float | None = wire["hang_timeout"]
        self.on_oom: OnOom = wire["on_oom"]
        self.hung: Hung | None = None
        self.task_stopped = False
        self.watch: HangWatch | None = None
        self.placement: Placement | None = None
        self.placement_name: str | None = wire["placement"]
        self.mailbox: tuple[int, int, str] = tuple(wire["mailbox"])
        self.dropped = 0
        self.worker: Worker | None = None
        self.answer: Answer | None = None
        self.exited: tuple[ExitReason, bytes, str] | None = None
        self.begun: dict[int, int] | None = None
        self.evidence: dict[str, Any] = {}
        self.attempts: dict[tuple[Connection, int], int] = {}
        self.killed_after: float | None = None
        self.killed_on_request = False
        self.killed_in_a_hurry = False
        self.struck: ExitReason | None = None
        self.traps = False
        self.watchers: set[Connection] | None = None

    def begin(self) -> None:
        """Note that a new incarnation starts."""
        super().begin()
        self.answer = None
        self.exited = None
        self.begun = None
        self.evidence = {}
        self.worker = None
        self.struck = None
        self.hung = None
        self.task_stopped = False
        self.stop_watch()
        self.traps = False

    def stop_watch(self) -> None:
        """Let nobody watch its handlers any more."""
        if self.watch is not None:
            self.watch.stop()
            self.watch = None

    @override
    def come_to_rest(self, state: State) -> None:
        """Note that nothing of it runs any more, and why not."""
        self.stop_watch()
        super().come_to_rest(state)

    def awake(self) -> None:
        """Note that somebody is at work to start it."""
        super().awake()
        self.killed_after = None
        self.killed_on_request = self.killed_in_a_hurry = False

    def answered(self, answer: Answer) -> None:
        """Note what came of its start; only the first answer counts."""
        if self.answer is None:
            self.answer = answer
        self.wake()

    def end(self) -> None:
        """Note that there will be no further incarnation."""
        self.worker = None
        # Its arguments may be large, and it is remembered for a while.
        self.spec = {}
        self.come_to_rest("gone")

    # --- questions ---------------------------------------------------------------------

    @property
    def was_ignored(self) -> bool:
        """Whether its last start had nothing to do: its `init` returned `Ignore()`."""
        return self.answer == "ignored"

    @property
    def role(self) -> Role:
        """What it is."""
        return "server"

    @property
    def os_pid(self) -> int:
        """The process it lives in, or 0."""
        return self.worker.os_pid if self.worker else 0

    @property
    def is_up(self) -> bool:
        """Whether messages may be sent to it."""
        return self.state in ("running", "stopping")

    def is_up_in(self, worker: Worker) -> bool:
        """Return whether messages may be sent to it, there."""
        return self.worker is worker and self.is_up
