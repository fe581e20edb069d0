"""The members of a node: how one is entered, and how it comes to rest or is let go.

`Tree` holds what all who carry out supervision share: what there is, and whether it is to end.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from noex_mp.core.reasons import ExitReport
from noex_mp.errors import NodeDownError
from noex_mp.node.branches import SPAWNED, Branch
from noex_mp.node.children import Child
from noex_mp.node.directory import Directory
from noex_mp.node.events import Events
from noex_mp.node.members import Member
from noex_mp.node.placements import Placements

__all__ = ["Tree"]


class Tree:
    """The servers and supervisors of a node.

    Attributes:
        top: The tree's supervisor, or None.
        spawned: The node's own, of what is spawned.
        ended: Done when the tree has ended by itself: the report of the last straw, or None where
            its work was done.
        is_changing: The tree is stopped, so that another takes its place.
        is_stopping: Everything is to stop, and nothing starts any more.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        directory: Directory,
        placements: Placements,
        *,
        events: Events,
        on_end: Callable[[Member, int | None], None],
    ) -> None:
        self._directory = directory
        self._placements = placements
        self._events = events
        self.on_end = on_end
        self.top: Branch | None = None
        self.spawned = Branch(0, SPAWNED)
        self.spawned.awake()
        self.spawned.state = "running"
        self.ended: asyncio.Future[ExitReport | None] = loop.create_future()
        self.is_changing = False
        self.is_stopping = False

    def refuse_when_stopping(self) -> None:
        """Raise what whoever wants to start something is to be told.

        Raises:
            NodeDownError: The node is stopping.
        """
        if self.is_stopping:
            raise NodeDownError("the node is stopping and starts no servers")

    # --- entered -----------------------------------------------------------------------

    def new(self, wire: dict[str, Any]) -> Member:
        """Make a member, and all that stands in it; claim their names, before anything runs.

        Raises:
            AlreadyRegisteredError: A name is taken; nothing has been claimed.
            BadChildSpecError: A placement group's process is not what a server asks for.
        """
        made: list[Member] = []
        try:
            return self._make(wire, made)
        except BaseException:
            for member in made:
                self._directory.gone(member)
                if isinstance(member, Child):
                    self._placements.leave(member)
            raise

    def _make(self, wire: dict[str, Any], made: list[Member]) -> Member:
        sid = self._directory.next_sid()
        member: Member = Child(sid, wire) if wire["kind"] == "server" else Branch(sid, wire)
        self.enter(member)
        made.append(member)
        if isinstance(member, Branch):
            for inner in member.wires:
                member.add(self._make(inner, made), own=True)
        return member

    def enter(self, member: Member) -> None:
        """Claim what a member is known by, and its place in its placement group.

        Raises:
            AlreadyRegisteredError, BadChildSpecError: As `new`.
        """
        self._directory.add(member)
        if isinstance(member, Child) and member.placement_name is not None:
            try:
                self._placements.join(member, member.placement_name)
            except BaseException:
                self._directory.gone(member)
                raise

    # --- at rest -----------------------------------------------------------------------

    def settle(self, member: Member) -> None:
        """Put a member at rest: until its supervisor starts it again, or for good."""
        if member.state == "gone":
            return
        parent = member.parent
        was_to_come_back = member.at_rest and member.state == "restarting"
        if member.pauses:
            member.come_to_rest("restarting")
            self.on_end(member, member.incarnation + 1)
        elif parent is not None and parent.keeps(member):
            if member.state != "stopped":
                self._leave(member)
                member.come_to_rest("stopped")
        else:
            self.let_go(member)
        if was_to_come_back and member.is_over and member.report is not None:
            self._events.tell("exited", member, report=replace(member.report, next="stays down"))
        if isinstance(member, Branch) and not member.pauses:
            self._settle_members(member)

    def _settle_members(self, branch: Branch) -> None:
        for member in list(branch.members.values()):
            member.pauses = False
            member.forgotten = member.forgotten or branch.state == "gone"
            self.settle(member)

    def _leave(self, member: Member) -> None:
        # Before anybody hears that it is gone, its name is free.
        if isinstance(member, Child):
            self._placements.leave(member)
        self._directory.gone(member)
        self.on_end(member, None)

    def let_go(self, member: Member) -> None:
        """Forget a member that has ended."""
        if member.parent is not None:
            member.parent.remove(member)
        if member.state != "stopped":
            self._leave(member)
        if isinstance(member, Child):
            member.end()
        else:
            member.come_to_rest("gone")
