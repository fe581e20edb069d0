"""Starts members again that have ended: one alone, or the group that shares its fate.

What is restarted alone is restarted at once, whatever its siblings do. Where a group shares the
fate of the one that ended, the supervisor's `work` takes one group after the other: it stops those
that run, from right to left, and starts all, from left to right. They *pause* in between: whoever
calls them waits.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Final

from noex_mp.core.reasons import ExitReason, Shutdown
from noex_mp.errors import NoexError
from noex_mp.node.branches import Branch
from noex_mp.node.children import Child
from noex_mp.node.ends import Ends, end_of
from noex_mp.node.events import Events
from noex_mp.node.member_starts import MemberStarts
from noex_mp.node.member_stops import MemberStops
from noex_mp.node.members import Member
from noex_mp.node.starts import Ended
from noex_mp.node.supervisor_ends import SupervisorEnds
from noex_mp.node.tasks import Tasks
from noex_mp.node.tree import Tree

__all__ = ["Restarts"]

# While one member of a group starts, the worker processes of so many that follow come up already:
# their servers have to wait for it, and they do not.
AHEAD: Final = 3


class Restarts:
    """Carries out what the end of a member leads to."""

    def __init__(
        self,
        tree: Tree,
        tasks: Tasks,
        ends: Ends,
        stops: MemberStops,
        starts: MemberStarts,
        events: Events,
    ) -> None:
        self._tree = tree
        self._tasks = tasks
        self._ends = ends
        self._stops = stops
        self._starts = starts
        self._events = events
        self._supervisor_ends = SupervisorEnds(tree, stops, events)

    # --- ends --------------------------------------------------------------------------

    def ended(self, member: Member, ended: Ended) -> None:
        """Take the end of a member that ran."""
        if member.at_rest:
            return
        try:
            if self._comes_back_alone(member, ended):
                self._tasks.run(member, self._restart(member), f"restart of {member.title}")
        except Exception as error:
            self._tasks.failed(member, error)

    def has_started(self, member: Member) -> None:
        """Take the end of a member that has ended while its start was still being told."""
        member.come_up()
        if isinstance(member, Branch):
            self._work(member)
            return
        assert isinstance(member, Child)
        worker = member.worker
        if worker is None or member.at_rest:
            return
        if not worker.alive or (worker.shared and member.exited is not None):
            self.ended(member, end_of(member, worker))

    def _comes_back_alone(self, member: Member, ended: Ended) -> bool:
        """Take an end with what follows for others; return whether to start it again, alone, now.

        Where it is not, it is at rest afterwards: for good, or until its group is restarted.
        """
        following = self._ends.take(member, ended)
        parent = member.parent
        if parent is not None:
            if following == "group":
                self._work(parent)
            elif following == "give_up":
                self._end_supervisor(parent, self._supervisor_ends.give_up(parent, member))
            elif following == "shut_down":
                self._end_supervisor(parent, parent.end_after(member))
        return following == "restart"

    def _end_supervisor(self, branch: Branch, reason: ExitReason) -> None:
        if not branch.is_ending:
            self._supervisor_ends.begin(branch, reason)
            self._tasks.run(branch, self._end_in_order(branch, reason), f"end of {branch.title}")

    async def _end_in_order(self, branch: Branch, reason: ExitReason) -> None:
        if await self._supervisor_ends.in_order(branch):
            self.ended(branch, Ended(reason))

    # --- of one alone ------------------------------------------------------------------

    async def _restart(self, member: Member) -> None:
        """Start a member again, alone, until that succeeds or its supervisor has had enough."""
        while (ended := await self._try_again(member)) is not None:
            if not self._comes_back_alone(member, ended):
                return
        self.has_started(member)

    async def _try_again(self, member: Member) -> Ended | None:
        delay = member.next_delay()
        if member.stop_reason is None:
            self._events.restarting(member, delay)
        if delay:
            await _pause_for(member, delay)
        if member.stop_reason is not None:
            return Ended(member.stop_reason)
        return await self._starts.start(member)

    # --- of a group --------------------------------------------------------------------

    def _work(self, branch: Branch) -> None:
        """Let the groups of members that have ended be restarted, unless that is under way."""
        if branch.exits and branch.work is None and branch.state == "running":
            work = self._restart_groups(branch)
            branch.work = self._tasks.run(branch, work, f"groups of {branch.title}")

    async def _restart_groups(self, branch: Branch) -> None:
        try:
            while branch.exits and not branch.is_ending:
                async with branch.lock:
                    await self._restart_group(branch, branch.exits.popleft())
        finally:
            branch.going_down.clear()
            branch.work = None

    async def _restart_group(self, branch: Branch, first: Member) -> None:
        # If it was stopped for good meanwhile, those who went down with it follow all the same.
        group = branch.group_of(first) if first.pauses else branch.left_down()
        # As in OTP, one that had ended before comes back with its group.
        ended_before = {member for member in group if member.state == "stopped"}
        branch.going_down.update(group)
        for member in reversed(group):
            await self._stops.pause(member, Shutdown("a sibling has ended"))
        delay = first.next_delay() if first.pauses else 0.0
        # Unless somebody has stopped it for good meanwhile.
        if first.pauses and not branch.is_ending:
            self._events.restarting(first, delay)
        if delay:
            await _pause_for(branch, delay)
        try:
            await self._start_group(branch, first, group, ended_before)
        finally:
            await self._starts.dismiss(group)

    async def _start_group(
        self, branch: Branch, first: Member, group: list[Member], ended_before: set[Member]
    ) -> None:
        """Start the members of a group that pause, one after the other."""
        for place, member in enumerate(group):
            branch.going_down.discard(member)
            if branch.is_ending:
                return
            if member.state == "stopped" and member in ended_before:
                # Unless somebody else has its name by now: then it stays down.
                with suppress(NoexError):
                    self._tree.enter(member)
                    member.pauses = True
            if member is not first and member.pauses:
                self._events.restarting(member)
            for soon in group[place + 1 : place + 1 + AHEAD]:
                if soon.at_rest and soon.pauses:
                    self._starts.prepare(soon)
            if not await self._start_in_group(branch, member):
                return

    async def _start_in_group(self, branch: Branch, member: Member) -> bool:
        """Start a member again; return whether those behind it are to follow."""
        if not (member.at_rest and member.pauses):
            # Somebody has stopped it for good meanwhile.
            return True
        member.awake()
        member.state = "restarting"
        ended = await self._starts.start(member)
        if ended is None:
            self.has_started(member)
            return True
        if self._comes_back_alone(member, ended):
            # Nobody else has to go down with it: it waits for its turn.
            member.pauses = True
            self._tree.settle(member)
            branch.exits.append(member)
        # Unless it is to be tried again, this one alone stays down: somebody has stopped it for
        # good, or it has nothing to do.
        return not member.pauses


async def _pause_for(member: Member, seconds: float) -> None:
    """Wait for the time of a restart, or until somebody stops the member."""
    loop = asyncio.get_running_loop()
    due = loop.time() + seconds
    while not member.is_ending and (left := due - loop.time()) > 0:
        await member.change(left)
