"""How a supervisor ends that nobody has asked to: it has had enough, or its work is done."""

from __future__ import annotations

from noex_mp.core.reasons import ExitReason, Shutdown
from noex_mp.node.branches import Branch
from noex_mp.node.events import Events
from noex_mp.node.member_stops import MemberStops
from noex_mp.node.members import Member
from noex_mp.node.tree import Tree

__all__ = ["SupervisorEnds"]


class SupervisorEnds:
    """Ends supervisors in order: their members first."""

    def __init__(self, tree: Tree, stops: MemberStops, events: Events) -> None:
        self._tree = tree
        self._stops = stops
        self._events = events

    def give_up(self, branch: Branch, straw: Member) -> Shutdown:
        """Tell that a supervisor gives up; return for what reason it ends."""
        error = branch.give_up(straw)
        self._events.tell(
            "gave_up", branch, report=straw.report, detail=str(error), os_pid=branch.os_pid
        )
        return Shutdown(f"gave up: {error.excess}, the last of {straw.title}")

    def begin(self, branch: Branch, reason: ExitReason) -> None:
        """Note that a supervisor ends: from now on, what ends in it ends with it."""
        branch.ending = reason
        branch.wind_up()
        branch.pauses = branch.parent is not None and branch.restart != "temporary"
        if branch.parent is None:
            self._tree.is_stopping = True

    async def in_order(self, branch: Branch) -> bool:
        """Stop its members; return whether the supervisor itself has ended with that, just now.

        If not, somebody else sees to it: who has asked it to stop, or who is at work to start it.
        """
        if branch.parent is None:
            await self._end_of_the_tree(branch)
            return False
        await self._stops.rest_members(branch, Shutdown("their supervisor has ended"))
        await self._stops.work_is_over(branch)
        return not branch.starting and branch.stop_reason is None

    async def _end_of_the_tree(self, top: Branch) -> None:
        # The others go in order, and only then does the supervisor itself.
        why = "gave up" if top.last_straw is not None else "has ended"
        await self._stops.stop_all(Shutdown(f"their supervisor {why}"))
        if not self._tree.ended.done():
            self._tree.ended.set_result(top.last_straw)
