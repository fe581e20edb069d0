"""Carries out what `supervision` decides: starts servers, hears of their ends, starts them again.

A server that runs has no task, and no supervisor has one. A start has a task, the first and each
after an end: it asks for a worker, waits for the server's answer, and is over. An end is heard of
in two ways, and both come to `_ended`, which asks the supervisor for a plan: the worker has died
(`worker_died`), with all that lived in it; or the server has said so, in the worker of a placement
group, which lives on (`server_ended`). A supervisor that has ended comes there too.

What is restarted alone is restarted at once, whatever its siblings do. Where a group shares the
fate of the one that ended, the supervisor's `work` takes one group after the other: it stops those
that run, from right to left, and starts all, from left to right. They *pause* in between: whoever
calls them waits.

Stopping a member sets its `stop_reason`, makes it end, and waits until it is at rest. That is
heeded at every step of a start, so a stop never waits for one.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any, Final, NoReturn

from noex_mp.core.reasons import (
    ExitReason,
    ExitReport,
    InitFailed,
    Shutdown,
    Unknown,
)
from noex_mp.core.specs import ShutdownLimit
from noex_mp.errors import (
    BadChildSpecError,
    ChildStateError,
    DuplicateChildError,
    InitFailedError,
    MaxChildrenError,
    MaxRestartsExceededError,
    NodeDownError,
    NoexError,
    NoServerError,
    StartError,
)
from noex_mp.node.branches import SPAWNED, Branch
from noex_mp.node.children import Child
from noex_mp.node.directory import Directory
from noex_mp.node.events import Events
from noex_mp.node.exit_log import ExitLog
from noex_mp.node.exits import reason_of_death, report_exit
from noex_mp.node.members import Member
from noex_mp.node.placements import Placements
from noex_mp.node.stacks import ask_all_for_stacks
from noex_mp.node.starts import Ended, Starts
from noex_mp.node.stops import Stops
from noex_mp.node.workers import Worker
from noex_mp.wire.envelopes import FORGET

__all__ = ["StartFailedError", "Supervision"]

# While one member of a group starts, the worker processes of so many that follow come up already:
# their servers have to wait for it, and they do not.
AHEAD: Final = 3


class StartFailedError(Exception):
    """A first start failed.

    Attributes:
        error: What the caller of `spawn` is to be told.
        cause: What the server raised, as a payload.
    """

    def __init__(self, error: StartError, cause: bytes) -> None:
        super().__init__(error, cause)
        self.error = error
        self.cause = cause


class Supervision:
    """The servers and supervisors of a node, kept alive.

    Attributes:
        top: The tree's supervisor, or None.
        spawned: The node's own, of what is spawned.
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
        self._loop = loop
        self._directory = directory
        self._placements = Placements(start_worker)
        self._events = events
        self._on_end = on_end
        self._starts = Starts(
            directory, self._placements, events=events, is_stopping=lambda: self._stopping
        )
        self._stops = Stops()
        self.exits = ExitLog()
        self._tasks: set[asyncio.Task[Any]] = set()
        self.top: Branch | None = None
        self.spawned = Branch(0, SPAWNED)
        self.spawned.awake()
        self.spawned.state = "running"
        self.ended: asyncio.Future[ExitReport | None] = loop.create_future()
        self._stopping = False

    # --- what others ask for -----------------------------------------------------------

    async def start_tree(self, wire: dict[str, Any]) -> None:
        """Start a tree: its children from left to right, each ready before the next.

        Raises:
            StartFailedError: One did not start; those before it have been stopped, in reverse.
            AlreadyRegisteredError: A name is taken.
            NodeDownError: The node was stopped meanwhile.
        """
        self._refuse_when_stopping()
        top = self._new(wire)
        assert isinstance(top, Branch)
        self.top = top
        try:
            await self._begin(top)
        except StartFailedError:
            # Unless it was stopped, or gave up, in its own start.
            self._refuse_when_stopping()
            raise

    async def spawn(self, wire: dict[str, Any]) -> Child:
        """Start a server under the node's own supervisor, with a restart budget of its own.

        Raises:
            StartFailedError: It did not start.
            AlreadyRegisteredError: Its name is taken.
            BadChildSpecError: Its placement group's process is not what it asks for.
            NodeDownError: The node is stopping.
        """
        self._refuse_when_stopping()
        child = self._new({**wire, "restart": wire["restart"] or "transient"})
        assert isinstance(child, Child)
        self.spawned.add(child)
        await self._begin(child)
        if _was_ignored(child):
            raise StartFailedError(_ignored(child), b"")
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
        self._refuse_when_stopping()
        _refuse_child(branch, wire)
        member = self._new(wire)
        branch.add(member)
        await self._begin_in(branch, member)
        if _was_ignored(member) and not branch.keeps(member):
            raise StartFailedError(_ignored(member), b"")
        return member

    async def _begin_in(self, branch: Branch, member: Member) -> None:
        if branch.strategy == "one_for_one":
            await self._begin(member)
            return
        # A group that restarts is not joined in the middle.
        incarnation = branch.incarnation
        async with branch.lock:
            if branch.is_ending or branch.incarnation != incarnation:
                raise NoServerError(branch.title, branch.report)
            if member.state != "starting":
                self._stopped_before_its_start(member)
            await self._begin(member)

    def _stopped_before_its_start(self, member: Member) -> NoReturn:
        # As one that is stopped in its start: it is as it was, or forgotten if it is new.
        if not member.incarnation:
            member.forgotten = True
            self._settle(member)
        error = InitFailedError(member.title, "it was stopped before its start")
        raise StartFailedError(error, b"")

    async def restart_child(self, branch: Branch, member: Member) -> None:
        """Start a child again that has ended.

        Raises:
            ChildStateError: It has not ended.
            StartFailedError: It did not start, and stays as it was.
            AlreadyRegisteredError: Somebody else has its name by now.
            NoServerError: The supervisor is stopping, or just being started, with its children.
            NodeDownError: The node is stopping.
        """
        self._refuse_when_stopping()
        if branch.is_ending:
            raise NoServerError(branch.title, branch.report)
        if member.state != "stopped":
            raise ChildStateError(member.id, member.state)
        if branch.state != "running":
            # It is about to start all of them.
            raise NoServerError(branch.title, branch.report)
        self._enter(member)
        # At once: whoever asks for the same now comes too late.
        member.state = "starting"
        self._events.restarting(member)
        await self._begin_in(branch, member)

    def delete_child(self, member: Member) -> None:
        """Forget a child that has ended.

        Raises:
            ChildStateError: It has not ended.
        """
        if member.state != "stopped":
            raise ChildStateError(member.id, member.state)
        member.forgotten = True
        self._settle(member)

    def _refuse_when_stopping(self) -> None:
        if self._stopping:
            raise NodeDownError("the node is stopping and starts no servers")

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
            self._settle(member)
        else:
            await self._take_down(member, reason, limit)

    async def stop_all(self, reason: ExitReason) -> None:
        """Stop everything: what was spawned first, then the tree, each in reverse order."""
        self._stopping = True
        for child in reversed(list(self.spawned.members.values())):
            await self.stop(child, reason, child.shutdown)
        if self.top is not None:
            await self.stop(self.top, reason, None)

    def hurry(self) -> None:
        """Stop waiting for servers that take their time to stop."""
        self._stops.fast.set()
        for branch in (self.top, self.spawned):
            if branch is not None:
                self._kill(branch, "fast stop")

    def _kill(self, branch: Branch, why: str) -> None:
        for child in branch.children():
            if child.worker is not None and not child.at_rest:
                child.stop_reason = child.stop_reason or Shutdown(why)
                child.killed_in_a_hurry = True
                child.worker.signal_group(signal.SIGKILL)

    # --- new members -------------------------------------------------------------------

    def _new(self, wire: dict[str, Any]) -> Member:
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
        self._enter(member)
        made.append(member)
        if isinstance(member, Branch):
            for inner in member.wires:
                member.add(self._make(inner, made), own=True)
        return member

    def _enter(self, member: Member) -> None:
        self._directory.add(member)
        if isinstance(member, Child) and member.placement_name is not None:
            try:
                self._placements.join(member, member.placement_name)
            except BaseException:
                self._directory.gone(member)
                raise

    # --- first starts ------------------------------------------------------------------

    async def _begin(self, member: Member) -> None:
        member.awake()
        task = self._run(member, self._start_first(member), f"start of {member.title}")
        # Should the caller be cancelled, the start goes on to its end all the same.
        await asyncio.shield(task)

    def _run(
        self, member: Member, work: Coroutine[Any, Any, None], name: str
    ) -> asyncio.Task[None]:
        task = self._loop.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(partial(self._task_done, member))
        return task

    def _task_done(self, member: Member, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None and not isinstance(error, StartFailedError):
            self._failed(member, error)

    def _failed(self, member: Member, error: BaseException) -> None:
        # Our own bug, and nobody supervises it any more: it must not run on alone.
        self._loop.call_exception_handler({"message": "a supervisor failed", "exception": error})
        reason = Unknown(f"a bug in noex-mp: {error!r}")
        children = [member] if isinstance(member, Child) else []
        if isinstance(member, Branch):
            children = list(member.children())
        for child in children:
            if child.worker is not None:
                child.worker.condemned = f"of a bug in noex-mp: {error!r}"
                child.worker.signal_group(signal.SIGKILL)
            child.report = report_exit(child, child.worker, reason, "")
            if child.state != "gone":
                self._let_go(child)
        if member.parent is not self.spawned and not self.ended.done():
            self.ended.set_result(report_exit(member, None, reason, ""))

    async def _start_first(self, member: Member) -> None:
        ended = await self._start(member)
        if ended is None:
            self._has_started(member)
            return
        self._did_not_start(member, ended)
        if not _was_ignored(member):
            raise StartFailedError(_failure_of(member, ended), ended.error)

    def _did_not_start(self, member: Member, ended: Ended) -> None:
        # One that ran before is only as it was, and so is one that has nothing to do, as in OTP.
        member.pauses = False
        member.forgotten = member.incarnation < 2 and not _was_ignored(member)
        self._report(member, ended, "it was not started")
        self._settle(member)
        if not _was_ignored(member):
            self._events.tell("not_started", member, report=member.report)

    def _has_started(self, member: Member) -> None:
        member.starting = False
        if isinstance(member, Branch):
            self._work(member)
            return
        # It may have ended while its start was still being told.
        assert isinstance(member, Child)
        worker = member.worker
        if worker is None or member.at_rest:
            return
        if not worker.alive or (worker.shared and member.exited is not None):
            self._ended(member, _end_of(member, worker))

    async def _start(self, member: Member) -> Ended | None:
        """Start a member; return None once it is ready, else how that failed."""
        if isinstance(member, Branch):
            return await self._start_branch(member)
        assert isinstance(member, Child)
        return await self._starts.start(member)

    async def _start_branch(self, branch: Branch) -> Ended | None:
        branch.begin()
        self._events.tell("started", branch)
        ended = self._renew_members(branch)
        for member in list(branch.members.values()):
            if branch.is_ending or ended is not None:
                break
            if member.is_over:
                # Somebody has stopped it for good since.
                continue
            member.awake()
            if member.incarnation:
                self._events.restarting(member)
            ended = await self._start(member)
            if ended is None:
                self._has_started(member)
            elif _was_ignored(member):
                # As in OTP, the supervisor goes on without it.
                self._did_not_start(member, ended)
                ended = None
            else:
                self._did_not_start_in(branch, member, ended)
        if ended is None and not branch.is_ending:
            branch.state = "running"
            self._events.ready(branch)
            return None
        if branch.stop_reason is None:
            # The supervisor above may start it again.
            branch.pauses = branch.incarnation > 1 and branch.parent is not None
        await self._rest_members(branch, Shutdown("a sibling did not start"))
        return ended or _ended_in_its_start(branch)

    def _did_not_start_in(self, branch: Branch, member: Member, ended: Ended) -> None:
        """Take the failed start of a member with which its supervisor's start fails."""
        report = self._report(member, ended, "its supervisor does not start")
        if isinstance(member, Child):
            self._down(member, report, ended)
        # The supervisor may be started again by the one above.
        member.pauses = branch.incarnation > 1 and branch.parent is not None
        self._settle(member)
        self._events.tell("not_started", member, report=report)

    def _renew_members(self, branch: Branch) -> Ended | None:
        """Bring back what a supervisor starts with and has forgotten: temporary members."""
        if branch.incarnation == 1 or branch.is_dynamic:
            return None
        for wire in branch.wires:
            known = branch.members.pop(wire["id"], None)
            try:
                if known is None:
                    known = self._new(wire)
                elif known.state == "stopped":
                    self._enter(known)
                    # From now on it is being started, and nobody else may do so.
                    known.state = "restarting"
            except NoexError as error:
                failure = InitFailedError(wire["id"], str(error))
                return Ended(InitFailed(str(error)), failure=failure)
            # In the order of the description.
            branch.add(known, own=True)
        return None

    # --- ends --------------------------------------------------------------------------

    def worker_died(self, worker: Worker) -> None:
        """Take the news of a worker's death: every server in it has ended."""
        residents = [worker.residents[sid] for sid in sorted(worker.residents)]
        worker.residents.clear()
        for child in residents:
            if child.starting:
                child.answered("dead")
            else:
                self._ended(child, _end_of(child, worker))

    def server_ended(self, child: Child) -> None:
        """Take a server's word that it has ended."""
        if child.starting:
            child.answered("refused")
        elif child.worker is not None and child.worker.shared:
            self._ended(child, _end_of(child, child.worker))

    def _ended(self, member: Member, ended: Ended) -> None:
        """Take the end of a member that ran."""
        if member.at_rest:
            return
        try:
            if self._comes_back_alone(member, ended):
                self._run(member, self._restart(member), f"restart of {member.title}")
        except Exception as error:
            self._failed(member, error)

    def _comes_back_alone(self, member: Member, ended: Ended) -> bool:
        """Tell all who care of an exit; return whether the member is to be started again, now.

        Where it is not, it is at rest afterwards: for good, or until its group is restarted.
        """
        parent = member.parent
        if parent is None:
            self._tree_ended(member, ended)
            return False
        if self._is_expected(member, parent):
            comes_back = member.pauses
            report = self._take_end(
                member, ended, "starts again with its group" if comes_back else "stays down"
            )
            self._settle(member)
            self._events.ended(member, report)
            return False
        plan = parent.plan(member, ended.reason, ended.worker)
        report = self._take_end(member, ended, plan.next)
        alone = not plan.stop and plan.start == (parent.key_of(member),) and parent.work is None
        if alone:
            member.awake()
            member.state = "restarting"
            self._on_end(member, member.incarnation + 1)
            self._events.ended(member, report)
            return True
        # Also below a supervisor that gives up: the one above may start all of it again.
        member.pauses = bool(plan.start) or (plan.give_up and parent.parent is not None)
        # First, so that whoever hears that it is gone for good may have its name.
        self._settle(member)
        self._events.ended(member, report)
        if plan.start:
            # From now on: what dies of the same cause is not counted again.
            parent.going_down.update(parent.group_of(member))
            parent.exits.append(member)
            self._work(parent)
        elif plan.give_up and parent is self.spawned:
            # Each has a budget of its own, and only this one is gone.
            self._events.tell("gave_up", member, report=report)
        elif plan.give_up:
            self._give_up(parent, member)
        elif plan.shut_down:
            self._end(parent, Shutdown(f"{member.title} has done its work"))
        return False

    def _is_expected(self, member: Member, parent: Branch) -> bool:
        """Whether a member ended because somebody wanted it to, or goes down in any case.

        It then pauses where its supervisor will start it again.
        """
        if member.stop_reason is not None or self._stopping or _was_ignored(member):
            return True
        if parent.is_ending:
            member.pauses = parent.pauses and parent.is_its_own(member)
            return True
        if member in parent.going_down:
            member.pauses = member.restart != "temporary"
            return True
        return False

    def _take_end(self, member: Member, ended: Ended, following: str) -> ExitReport:
        """Make the report of an end, and tell whoever calls the server."""
        report = self._report(member, ended, following)
        if isinstance(member, Child):
            # Whoever calls it from now on waits for its restart, if there is one.
            member.state = "restarting"
            self._down(member, report, ended)
        return report

    def _report(self, member: Member, ended: Ended, following: str) -> ExitReport:
        # A tree that ends by itself stops the rest of the node as its supervisor.
        stops = self._stopping and (self.top is None or self.top.ending is None)
        member.report = report_exit(member, ended.worker, ended.reason, following, node_stops=stops)
        self.exits.keep(member, member.report)
        member.error = ended.error
        return member.report

    def _down(self, child: Child, report: ExitReport, ended: Ended) -> None:
        worker = ended.worker
        if worker is not None:
            self._directory.down(child, worker, report, ended.error)
            if worker.alive:
                worker.residents.pop(child.sid, None)
                worker.connection.post([FORGET, child.sid])

    # --- at rest -----------------------------------------------------------------------

    def _settle(self, member: Member) -> None:
        """Put a member at rest: until its supervisor starts it again, or for good."""
        if member.state == "gone":
            return
        parent = member.parent
        was_to_come_back = member.at_rest and member.state == "restarting"
        if member.pauses:
            member.come_to_rest("restarting")
            self._on_end(member, member.incarnation + 1)
        elif parent is not None and parent.keeps(member):
            if member.state != "stopped":
                self._leave(member)
                member.come_to_rest("stopped")
        else:
            self._let_go(member)
        if was_to_come_back and member.is_over and member.report is not None:
            self._events.tell("exited", member, report=replace(member.report, next="stays down"))
        if isinstance(member, Branch) and not member.pauses:
            self._settle_members(member)

    def _settle_members(self, branch: Branch) -> None:
        for member in list(branch.members.values()):
            member.pauses = False
            member.forgotten = member.forgotten or branch.state == "gone"
            self._settle(member)

    def _leave(self, member: Member) -> None:
        # Before anybody hears that it is gone, its name is free.
        if isinstance(member, Child):
            self._placements.leave(member)
        self._directory.gone(member)
        self._on_end(member, None)

    def _let_go(self, member: Member) -> None:
        if member.parent is not None:
            member.parent.remove(member)
        if member.state != "stopped":
            self._leave(member)
        if isinstance(member, Child):
            member.end()
        else:
            member.come_to_rest("gone")

    # --- restarts ----------------------------------------------------------------------

    async def _restart(self, member: Member) -> None:
        """Start a member again, alone, until that succeeds or its supervisor has had enough."""
        while (ended := await self._try_again(member)) is not None:
            if not self._comes_back_alone(member, ended):
                return
        self._has_started(member)

    async def _try_again(self, member: Member) -> Ended | None:
        delay = member.next_delay()
        if member.stop_reason is None:
            self._events.restarting(member, delay)
        if delay:
            await self._pause_for(member, delay)
        if member.stop_reason is not None:
            return Ended(member.stop_reason)
        return await self._start(member)

    async def _pause_for(self, member: Member, seconds: float) -> None:
        due = self._loop.time() + seconds
        while not member.is_ending and (left := due - self._loop.time()) > 0:
            await member.change(left)

    def _work(self, branch: Branch) -> None:
        """Let the groups of members that have ended be restarted, unless that is under way."""
        if branch.exits and branch.work is None and branch.state == "running":
            work = self._run(branch, self._restart_groups(branch), f"groups of {branch.title}")
            branch.work = work

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
            await self._pause(member, Shutdown("a sibling has ended"))
        delay = first.next_delay() if first.pauses else 0.0
        # Unless somebody has stopped it for good meanwhile.
        if first.pauses and not branch.is_ending:
            self._events.restarting(first, delay)
        if delay:
            await self._pause_for(branch, delay)
        try:
            await self._start_group(branch, first, group, ended_before)
        finally:
            await self._starts.dismiss(m for m in group if isinstance(m, Child))

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
                    self._enter(member)
                    member.pauses = True
            if member is not first and member.pauses:
                self._events.restarting(member)
            for soon in group[place + 1 : place + 1 + AHEAD]:
                if isinstance(soon, Child) and soon.at_rest and soon.pauses:
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
        ended = await self._start(member)
        if ended is None:
            self._has_started(member)
            return True
        if self._comes_back_alone(member, ended):
            # Nobody else has to go down with it: it waits for its turn.
            member.pauses = True
            self._settle(member)
            branch.exits.append(member)
        # Unless it is to be tried again, this one alone stays down: somebody has stopped it for
        # good, or it has nothing to do.
        return not member.pauses

    # --- the end of a supervisor -------------------------------------------------------

    def _give_up(self, branch: Branch, straw: Member) -> None:
        most, seconds = branch.limits
        branch.last_straw = straw.report
        error = MaxRestartsExceededError(branch.title, most, seconds, straw.report)
        self._events.tell(
            "gave_up", branch, report=straw.report, detail=str(error), os_pid=branch.os_pid
        )
        why = f"more than {most} restarts in {seconds:g} s, the last of {straw.title}"
        self._end(branch, Shutdown(f"gave up: {why}"))

    def _end(self, branch: Branch, reason: ExitReason) -> None:
        """End a supervisor that nobody has asked to stop."""
        if branch.is_ending:
            return
        branch.ending = reason
        branch.wind_up()
        branch.pauses = branch.parent is not None and branch.restart != "temporary"
        if branch.parent is None:
            self._stopping = True
        self._run(branch, self._end_in_order(branch, reason), f"end of {branch.title}")

    async def _end_in_order(self, branch: Branch, reason: ExitReason) -> None:
        if branch.parent is None:
            await self._end_of_the_tree(branch)
            return
        await self._rest_members(branch, Shutdown("their supervisor has ended"))
        await self._work_is_over(branch)
        if not branch.starting and branch.stop_reason is None:
            self._ended(branch, Ended(reason))

    async def _end_of_the_tree(self, top: Branch) -> None:
        # The others go in order, and only then does the supervisor itself.
        gave_up = top.last_straw is not None
        await self.stop_all(Shutdown(f"their supervisor {'gave up' if gave_up else 'has ended'}"))
        if not self.ended.done():
            self.ended.set_result(top.last_straw)

    def _tree_ended(self, top: Member, ended: Ended) -> None:
        assert isinstance(top, Branch)
        self._report(top, ended, "")
        self._settle(top)
        if not self._stopping and not self.ended.done():
            # Somebody has stopped it by hand, and whoever waits for the tree has waited.
            self.ended.set_result(None)

    async def _work_is_over(self, branch: Branch) -> None:
        if branch.work is not None:
            await asyncio.wait((branch.work,))

    # --- stopping ----------------------------------------------------------------------

    async def _take_down(self, member: Member, reason: ExitReason, limit: ShutdownLimit) -> None:
        if member.stop_reason is None:
            member.stop_reason = reason
            self._events.tell("stopping", member, reason=reason)
        if isinstance(member, Branch):
            await self._take_down_branch(member, member.stop_reason, limit)
        elif isinstance(member, Child):
            await self._stops.end(member, limit)

    async def _pause(self, member: Member, reason: ExitReason) -> None:
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

    async def _take_down_branch(
        self, branch: Branch, reason: ExitReason, limit: ShutdownLimit
    ) -> None:
        # Of this incarnation: somebody may start the next one at once.
        rest = branch.rest()
        branch.wind_up()
        ending = self._run(branch, self._rest_branch(branch, reason), f"stop of {branch.title}")
        seconds = 0.0 if limit == "brutal_kill" else limit
        if not (await asyncio.wait((ending,), timeout=seconds))[0]:
            if limit != "brutal_kill":
                await ask_all_for_stacks(child.worker for child in branch.children())
            self._kill(branch, "its supervisor did not stop in time")
        await rest

    async def _rest_branch(self, branch: Branch, reason: ExitReason) -> None:
        await self._rest_members(branch, reason)
        await self._work_is_over(branch)
        # One that starts sees its `stop_reason`, and comes to rest by itself.
        if not branch.starting and not branch.at_rest:
            self._comes_back_alone(branch, Ended(reason))

    async def _rest_members(self, branch: Branch, reason: ExitReason) -> None:
        """Take the members of a supervisor down, from right to left; dynamic ones all at once."""
        members = list(branch.members.values())
        if branch.is_dynamic:
            await asyncio.gather(*(self.stop(m, reason, m.shutdown) for m in members))
            return
        for member in reversed(members):
            if branch.pauses and branch.is_its_own(member):
                await self._pause(member, reason)
            else:
                forget = member.forgotten or not branch.is_its_own(member)
                await self.stop(member, reason, member.shutdown, forget=forget)


def _end_of(child: Child, worker: Worker) -> Ended:
    error = child.exited[1] if child.exited else b""
    return Ended(reason_of_death(child, worker), error, worker)


def _ended_in_its_start(branch: Branch) -> Ended:
    reason = branch.stop_reason or InitFailed(str(branch.ending))
    return Ended(reason, failure=InitFailedError(branch.title, "it was stopped in its start"))


def _refuse_child(branch: Branch, wire: dict[str, Any]) -> None:
    if branch.is_ending or branch.state != "running":
        raise NoServerError(branch.title, branch.report)
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


def _was_ignored(member: Member) -> bool:
    return isinstance(member, Child) and member.answer == "ignored"


def _ignored(member: Member) -> InitFailedError:
    return InitFailedError(member.title, "its init returned Ignore()")


def _failure_of(member: Member, ended: Ended) -> StartError:
    return ended.failure or InitFailedError(member.title, "it did not start")
