"""How members are made to end, servers and whole supervisors, for good or until they start again.

Stopping a member sets its `stop_reason`, makes it end, and waits until it is at rest. That is
heeded at every step of a start, so a stop never waits for one.
"""

from __future__ import annotations

import asyncio
import signal

from noex_mp.core.reasons import ExitReason, Shutdown
from noex_mp.core.specs import ShutdownLimit
from noex_mp.node.branches import Branch
from noex_mp.node.children import Child
from noex_mp.node.ends import Ends
from noex_mp.node.events import Events
from noex_mp.node.members import Member
from noex_mp.node.stacks import ask_all_for_stacks
from noex_mp.node.starts import Ended
from noex_mp.node.stops import Stops
from noex_mp.node.tasks import Tasks
from noex_mp.node.tree import Tree

__all__ = ["MemberStops"]


class MemberStops:
    """Stops members, and lets them pause."""

    def __init__(self, tree: Tree, tasks: Tasks, ends: Ends, events: Events) -> None:
        self._tree = tree
        self._tasks = tasks
        self._ends = ends
        self._events = events
        self._stops = Stops()

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
        member.pauses, member.forgotten = False, member.forgotten or forget
        if member.at_rest:
            self._tree.settle(member)
        else:
            await self._take_down(member, reason, limit)

    async def stop_all(self, reason: ExitReason) -> None:
        """Stop everything: what was spawned first, then the tree, each in reverse order."""
        self._tree.is_stopping = True
        await self.stop_everything(reason)

    async def stop_everything(self, reason: ExitReason) -> None:
        """Stop all that there is; what is started meanwhile is let start."""
        for child in reversed(list(self._tree.spawned.members.values())):
            await self.stop(child, reason, child.shutdown)
        if self._tree.top is not None:
            await self.stop(self._tree.top, reason, self._tree.top.shutdown)

    async def pause(self, member: Member, reason: ExitReason) -> None:
        """Take a member down until its group starts again; a temporary one for good."""
        if member.is_over:
            return
        if member.restart == "temporary":
            await self.stop(member, reason, member.shutdown)
            return
        if not member.at_rest:
            # Not if somebody is just stopping it for good.
            member.pauses = member.stop_reason is None or member.pauses
            await self._take_down(member, reason, member.shutdown)

    async def _take_down(self, member: Member, reason: ExitReason, limit: ShutdownLimit) -> None:
        if member.stop_reason is None:
            member.stop_reason = reason
            self._events.tell("stopping", member, reason=reason)
        if isinstance(member, Branch):
            await self._take_down_branch(member, member.stop_reason, limit)
        elif isinstance(member, Child):
            await self._stops.end(member, limit)

    # --- supervisors -------------------------------------------------------------------

    async def _take_down_branch(
        self, branch: Branch, reason: ExitReason, limit: ShutdownLimit
    ) -> None:
        # Of this incarnation: somebody may start the next one at once.
        rest = branch.rest()
        branch.wind_up()
        work = self._rest_branch(branch, reason)
        ending = self._tasks.run(branch, work, f"stop of {branch.title}")
        seconds = 0.0 if limit == "brutal_kill" else limit
        if not (await asyncio.wait((ending,), timeout=seconds))[0]:
            if limit != "brutal_kill":
                await ask_all_for_stacks(child.worker for child in branch.children())
            self._kill(branch, "its supervisor did not stop in time")
        await rest

    async def _rest_branch(self, branch: Branch, reason: ExitReason) -> None:
        await self.rest_members(branch, reason)
        await self.work_is_over(branch)
        # One that starts sees its `stop_reason`, and comes to rest by itself.
        if not branch.starting and not branch.at_rest:
            self._ends.take(branch, Ended(reason))

    async def rest_members(self, branch: Branch, reason: ExitReason) -> None:
        """Take the members of a supervisor down, from right to left; dynamic ones all at once."""
        members = list(branch.members.values())
        if branch.is_dynamic:
            await asyncio.gather(*(self.stop(m, reason, m.shutdown) for m in members))
            return
        for member in reversed(members):
            if branch.pauses and branch.is_its_own(member):
                await self.pause(member, reason)
            else:
                forget = member.forgotten or not branch.is_its_own(member)
                await self.stop(member, reason, member.shutdown, forget=forget)

    async def work_is_over(self, branch: Branch) -> None:
        """Wait until a supervisor restarts no groups any more."""
        if branch.work is not None:
            await asyncio.wait((branch.work,))

    # --- without patience --------------------------------------------------------------

    def hurry(self) -> None:
        """Stop waiting for servers that take their time to stop."""
        self._stops.fast.set()
        for branch in (self._tree.top, self._tree.spawned):
            if branch is not None:
                self._kill(branch, "fast stop")

    def _kill(self, branch: Branch, why: str) -> None:
        for child in branch.children():
            if child.worker is not None and not child.at_rest:
                child.stop_reason = child.stop_reason or Shutdown(why)
                child.killed_in_a_hurry = True
                child.worker.signal_group(signal.SIGKILL)
