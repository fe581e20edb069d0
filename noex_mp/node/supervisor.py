"""Carries out what `supervision` decides: starts servers, hears of their ends, starts them again.

A server that runs has no task, and no supervisor has one. A start has a task, the first and each
after an end: it asks for a worker, waits for the server's answer, and is over. An end is heard of
in two ways, and both come to `Restarts.ended`, which asks the supervisor for a plan: the worker has
died (`worker_died`), with all that lived in it; or the server has said so, in the worker of a
placement group, which lives on (`server_ended`). A supervisor that has ended comes there too.

Where to look, each using only those to its right:

    Supervision -> Replacements -> Restarts -> MemberStarts -> MemberStops -> Ends -> Tree
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

from noex_mp.core.reasons import ExitReason, Shutdown
from noex_mp.core.specs import ShutdownLimit
from noex_mp.errors import (
    BadChildSpecError,
    ChildStateError,
    DuplicateChildError,
    MaxChildrenError,
    NoServerError,
)
from noex_mp.node.branches import Branch
from noex_mp.node.children import Child
from noex_mp.node.directory import Directory
from noex_mp.node.ends import Ends, end_of
from noex_mp.node.events import Events
from noex_mp.node.member_starts import MemberStarts, ignored
from noex_mp.node.member_stops import MemberStops
from noex_mp.node.members import Member
from noex_mp.node.placements import Placements
from noex_mp.node.replacements import FailedReplacement, Replacements
from noex_mp.node.restarts import Restarts
from noex_mp.node.starts import StartFailedError, Starts
from noex_mp.node.tasks import Tasks
from noex_mp.node.tree import Tree
from noex_mp.node.workers import Worker

__all__ = ["Supervision"]


class Supervision:
    """The servers and supervisors of a node, kept alive.

    Attributes:
        tree: How the tree is described that was started last.
        exits: The last exit reports.
        ended: Done when the tree has ended by itself: the report of the last straw, or None where
            its work was done.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        directory: Directory,
        *,
        start_worker: Callable[[Child], Awaitable[Worker]],
        events: Events,
        on_end: Callable[[Member, int | None], None],
    ) -> None:
        """Make the supervision of a node.

        Args:
            on_end: Is told of the end of an incarnation, once all that called it have been: who,
                and the number of the one that follows, or None if it is gone for good.
        """
        placements = Placements(start_worker)
        self._events = events
        self._tree = tree = Tree(loop, directory, placements, events=events, on_end=on_end)
        tasks = Tasks(loop, tree)
        servers = Starts(directory, placements, events=events, is_stopping=lambda: tree.is_stopping)
        ends = Ends(tree, directory, events)
        self._stops = MemberStops(tree, tasks, ends, events)
        self._starts = MemberStarts(
            tree,
            tasks,
            servers,
            ends,
            self._stops,
            events,
            on_started=self._has_started,
        )
        self._restarts = Restarts(tree, tasks, ends, self._stops, self._starts, events)
        self._replacements = Replacements(ends, self._stops, self._starts, self._restarts, events)
        self.exits = ends.log
        self.ended = tree.ended
        self.tree: dict[str, Any] = {}

    @property
    def top(self) -> Branch | None:
        """The tree's supervisor, or None."""
        return self._tree.top

    @property
    def spawned(self) -> Branch:
        """The node's own supervisor, of what is spawned."""
        return self._tree.spawned

    @property
    def is_stopping(self) -> bool:
        """Whether it starts nothing any more."""
        return self._tree.is_stopping

    # --- starts ------------------------------------------------------------------------

    async def start_tree(self, wire: dict[str, Any]) -> None:
        """Start a tree: its children from left to right, each ready before the next.

        Raises:
            StartFailedError: One did not start; those before it have been stopped, in reverse.
            AlreadyRegisteredError: A name is taken.
            NodeDownError: The node was stopped meanwhile.
        """
        self._tree.refuse_when_stopping()
        top = self._tree.new(wire)
        assert isinstance(top, Branch)
        self._tree.top, self.tree = top, wire
        try:
            await self._starts.begin(top)
        except StartFailedError:
            # Unless it was stopped, or gave up, in its own start.
            self._tree.refuse_when_stopping()
            raise

    async def spawn(self, wire: dict[str, Any]) -> Member:
        """Start a member under the node's own supervisor, with a restart budget of its own.

        Raises:
            StartFailedError: It did not start.
            AlreadyRegisteredError: Its name is taken.
            BadChildSpecError: Its placement group's process is not what it asks for.
            NodeDownError: The node is stopping.
        """
        self._tree.refuse_when_stopping()
        child = self._tree.new({**wire, "restart": wire["restart"] or "transient"})
        self._tree.spawned.add(child)
        await self._starts.begin(child)
        if child.was_ignored:
            raise StartFailedError(ignored(child), b"")
        return child

    async def start_child(self, branch: Branch, wire: dict[str, Any]) -> Member:
        """Start a further child of a supervisor.

        One that has nothing to do (`Ignore()`) is kept, stopped, by a supervisor that keeps its
        children.

        Raises:
            StartFailedError: It did not start, and is forgotten.
            DuplicateChildError: The supervisor has a child with this id.
            MaxChildrenError: It has as many as it may have.
            NoServerError: It is stopping.
            AlreadyRegisteredError, BadChildSpecError, NodeDownError: As `spawn`.
        """
        self._tree.refuse_when_stopping()
        _refuse_child(branch, wire)
        member = self._tree.new(wire)
        branch.add(member)
        await self._starts.begin_in(branch, member)
        if member.was_ignored and not branch.keeps(member):
            raise StartFailedError(ignored(member), b"")
        return member

    async def restart_child(self, branch: Branch, member: Member) -> None:
        """Start a child again that has ended.

        Raises:
            ChildStateError: It has not ended.
            StartFailedError: It did not start, and stays as it was.
            AlreadyRegisteredError: Somebody else has its name by now.
            NoServerError: The supervisor is stopping, or just being started, with its children.
            NodeDownError: The node is stopping.
        """
        self._tree.refuse_when_stopping()
        if branch.is_ending:
            raise NoServerError(branch.title, branch.report)
        if member.state != "stopped":
            raise ChildStateError(member.id, member.state)
        # If it does not run, it is about to start all of them.
        _refuse_unless_running(branch)
        self._tree.enter(member)
        # At once: whoever asks for the same now comes too late.
        member.state = "starting"
        self._events.restarting(member)
        await self._starts.begin_in(branch, member)

    # --- stops -------------------------------------------------------------------------

    def delete_child(self, member: Member) -> None:
        """Forget a child that has ended.

        Raises:
            ChildStateError: It has not ended.
        """
        if member.state != "stopped":
            raise ChildStateError(member.id, member.state)
        member.forgotten = True
        self._tree.settle(member)

    async def stop(
        self, member: Member, reason: ExitReason, limit: ShutdownLimit, *, forget: bool = True
    ) -> None:
        """End a member for good; return once it has ended.

        Args:
            member: A server, or a supervisor and all that is in it.
            reason: What its `terminate` is told.
            limit: How long it may take.
            forget: Whether its supervisor forgets it too.
        """
        await self._stops.stop(member, reason, limit, forget=forget)

    async def stop_all(self, reason: ExitReason) -> None:
        """Stop everything: what was spawned first, then the tree, each in reverse order."""
        await self._stops.stop_all(reason)

    def hurry(self) -> None:
        """Stop waiting for servers that take their time to stop."""
        self._stops.hurry()

    async def change_tree(self, wire: dict[str, Any] | None) -> None:
        """Stop all servers, and start another tree.

        Args:
            wire: Its description; None starts the last one again that had started.

        Raises:
            StartFailedError, AlreadyRegisteredError, BadChildSpecError, NodeDownError: As
                `start_tree`. Nothing runs then.
        """
        before = self.tree
        self._tree.is_changing = True
        try:
            await self._stops.stop_everything(Shutdown("another version of it is started"))
            await self.start_tree(wire or before)
        except BaseException:
            self.tree = before
            raise
        finally:
            self._tree.is_changing = False

    # --- other code --------------------------------------------------------------------

    def servers(self) -> Iterator[Child]:
        """Yield all servers in start order: those of the tree, then what was spawned."""
        for branch in (self._tree.top, self._tree.spawned):
            if branch is not None:
                yield from list(branch.children())

    async def replace(
        self, child: Child, *, go_back: Callable[[], object]
    ) -> FailedReplacement | None:
        """Take a server down and start it again at once; see `Replacements.replace`."""
        return await self._replacements.replace(child, go_back=go_back)

    # --- ends --------------------------------------------------------------------------

    def _has_started(self, member: Member) -> None:
        # Restarts are starts too: of the two, one has to be made first.
        self._restarts.has_started(member)

    def worker_died(self, worker: Worker) -> None:
        """Take the news of a worker's death: every server in it has ended."""
        # Whose fault it is comes first: the death of all counts as his.
        residents = sorted(worker.residents.values(), key=lambda child: (not child.hung, child.sid))
        worker.residents.clear()
        for child in residents:
            if child.starting:
                child.answered("dead")
            else:
                self._restarts.ended(child, end_of(child, worker))

    def server_ended(self, child: Child) -> None:
        """Take a server's word that it has ended."""
        if child.starting:
            child.answered("refused")
        elif child.worker is not None and child.worker.shared:
            self._restarts.ended(child, end_of(child, child.worker))


def _refuse_unless_running(branch: Branch) -> None:
    if branch.state in ("starting", "restarting"):
        raise NoServerError(branch.title, None, branch.state)
    if branch.state != "running":
        raise NoServerError(branch.title, branch.report)


def _refuse_child(branch: Branch, wire: dict[str, Any]) -> None:
    if branch.is_ending:
        raise NoServerError(branch.title, branch.report)
    _refuse_unless_running(branch)
    if branch.is_dynamic:
        if branch.max_children is not None and len(branch.members) >= branch.max_children:
            raise MaxChildrenError(branch.title, branch.max_children)
    elif (known := branch.members.get(wire["id"])) is not None:
        raise DuplicateChildError(known.id, known.state)
    if wire["significant"] and branch.auto_shutdown == "never":
        raise BadChildSpecError(
            f"significant=True has no effect: supervisor {branch.title} has no auto_shutdown\n"
            f"Leave significant out, or write Supervisor(..., auto_shutdown=...)."
        )
