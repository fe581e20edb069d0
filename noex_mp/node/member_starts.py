"""How members are started: one alone, or a supervisor and all its children from left to right.

A start has a task of its own or goes on in that of its supervisor, and is over when the member is
ready or has failed. What is started for the first time and fails is forgotten again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import NoReturn

from noex_mp.core.reasons import InitFailed, Shutdown
from noex_mp.errors import InitFailedError, NoexError, NoServerError, StartError
from noex_mp.node.branches import Branch
from noex_mp.node.children import Child
from noex_mp.node.ends import Ends
from noex_mp.node.events import Events
from noex_mp.node.member_stops import MemberStops
from noex_mp.node.members import Member
from noex_mp.node.starts import Ended, StartFailedError, Starts
from noex_mp.node.tasks import Tasks
from noex_mp.node.tree import Tree

__all__ = ["MemberStarts", "ignored"]


class MemberStarts:
    """Starts members."""

    def __init__(
        self,
        tree: Tree,
        tasks: Tasks,
        servers: Starts,
        ends: Ends,
        stops: MemberStops,
        events: Events,
        *,
        on_started: Callable[[Member], None],
    ) -> None:
        """Make what starts members.

        Args:
            on_started: Is told of each member that is ready, those of a supervisor included; it may
                have ended again already.
        """
        self._tree = tree
        self._tasks = tasks
        self._servers = servers
        self._ends = ends
        self._stops = stops
        self._events = events
        self._on_started = on_started

    # --- for the first time, or on request ---------------------------------------------

    async def begin(self, member: Member) -> None:
        """Start a member that somebody waits for.

        Raises:
            StartFailedError: It did not start.
        """
        member.awake()
        task = self._tasks.run(member, self._start_first(member), f"start of {member.title}")
        # Should the caller be cancelled, the start goes on to its end all the same.
        await asyncio.shield(task)

    async def begin_in(self, branch: Branch, member: Member) -> None:
        """Start a member of a supervisor that runs.

        Raises:
            StartFailedError: It did not start.
            NoServerError: The supervisor has ended, or was started again, meanwhile.
        """
        if branch.strategy == "one_for_one":
            await self.begin(member)
            return
        # A group that restarts is not joined in the middle.
        incarnation = branch.incarnation
        async with branch.lock:
            if branch.is_ending or branch.incarnation != incarnation:
                raise NoServerError(branch.title, branch.report)
            if member.state != "starting":
                self._stopped_before_its_start(member)
            await self.begin(member)

    def _stopped_before_its_start(self, member: Member) -> NoReturn:
        # As one that is stopped in its start: it is as it was, or forgotten if it is new.
        if not member.incarnation:
            member.forgotten = True
            self._tree.settle(member)
        error = InitFailedError(member.title, "it was stopped before its start")
        raise StartFailedError(error, b"")

    async def _start_first(self, member: Member) -> None:
        ended = await self.start(member)
        if ended is None:
            self._on_started(member)
            return
        self._did_not_start(member, ended)
        if not member.was_ignored:
            raise StartFailedError(_failure_of(member, ended), ended.error)

    def _did_not_start(self, member: Member, ended: Ended) -> None:
        # One that ran before is only as it was, and so is one that has nothing to do, as in OTP.
        member.pauses = False
        member.forgotten = member.incarnation < 2 and not member.was_ignored
        self._ends.report(member, ended, "it was not started")
        self._tree.settle(member)
        if not member.was_ignored:
            self._events.tell("not_started", member, report=member.report)

    # --- one attempt -------------------------------------------------------------------

    async def start(self, member: Member) -> Ended | None:
        """Start a member; return None once it is ready, else how that failed."""
        if isinstance(member, Branch):
            return await self._start_branch(member)
        assert isinstance(member, Child)
        return await self._servers.start(member)

    def prepare(self, member: Member) -> None:
        """Let the worker of a member that starts soon come up meanwhile."""
        if isinstance(member, Child):
            self._servers.prepare(member)

    async def dismiss(self, members: Iterable[Member]) -> None:
        """End the workers that came up for starts which have not come about."""
        await self._servers.dismiss(member for member in members if isinstance(member, Child))

    # --- supervisors -------------------------------------------------------------------

    async def _start_branch(self, branch: Branch) -> Ended | None:
        branch.begin()
        self._events.tell("started", branch)
        ended = self._renew_members(branch)
        for member in list(branch.members.values()):
            if branch.is_ending or ended is not None:
                break
            if not member.is_over:
                # Nobody has stopped it for good since.
                ended = await self._start_in(branch, member)
        if ended is None and not branch.is_ending:
            branch.state = "running"
            self._events.ready(branch)
            return None
        if branch.stop_reason is None:
            # The supervisor above may start it again.
            branch.pauses = _may_come_back(branch)
        await self._stops.rest_members(branch, Shutdown("a sibling did not start"))
        return ended or _ended_in_its_start(branch)

    async def _start_in(self, branch: Branch, member: Member) -> Ended | None:
        """Start a member in the start of its supervisor; return what fails that start too."""
        member.awake()
        if member.incarnation:
            self._events.restarting(member)
        ended = await self.start(member)
        if ended is None:
            self._on_started(member)
        elif member.was_ignored:
            # As in OTP, the supervisor goes on without it.
            self._did_not_start(member, ended)
            return None
        else:
            self._did_not_start_in(branch, member, ended)
        return ended

    def _did_not_start_in(self, branch: Branch, member: Member, ended: Ended) -> None:
        """Take the failed start of a member with which its supervisor's start fails."""
        report = self._ends.report(member, ended, "its supervisor does not start")
        if isinstance(member, Child):
            self._ends.down(member, report, ended)
        # The supervisor may be started again by the one above.
        member.pauses = _may_come_back(branch)
        self._tree.settle(member)
        self._events.tell("not_started", member, report=report)

    def _renew_members(self, branch: Branch) -> Ended | None:
        """Bring back what a supervisor starts with and has forgotten: temporary members."""
        if branch.incarnation == 1 or branch.is_dynamic:
            return None
        for wire in branch.wires:
            known = branch.members.pop(wire["id"], None)
            try:
                if known is None:
                    known = self._tree.new(wire)
                elif known.state == "stopped":
                    self._tree.enter(known)
                    # From now on it is being started, and nobody else may do so.
                    known.state = "restarting"
            except NoexError as error:
                failure = InitFailedError(wire["id"], str(error))
                return Ended(InitFailed(str(error)), failure=failure)
            # In the order of the description.
            branch.add(known, own=True)
        return None


def _may_come_back(branch: Branch) -> bool:
    return branch.incarnation > 1 and branch.parent is not None


def _ended_in_its_start(branch: Branch) -> Ended:
    reason = branch.stop_reason or InitFailed(str(branch.ending))
    return Ended(reason, failure=InitFailedError(branch.title, "it was stopped in its start"))


def ignored(member: Member) -> InitFailedError:
    """Return the error of a member that has nothing to do, and whose supervisor forgets it."""
    return InitFailedError(member.title, "its init returned Ignore()")


def _failure_of(member: Member, ended: Ended) -> StartError:
    return ended.failure or InitFailedError(member.title, "it did not start")
