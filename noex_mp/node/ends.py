"""What follows from the end of a member: it is reported, told, and decided by its supervisor."""

from __future__ import annotations

from typing import Literal

from noex_mp.core.reasons import ExitReport, Replaced
from noex_mp.node.branches import Branch
from noex_mp.node.children import Child
from noex_mp.node.directory import Directory
from noex_mp.node.events import Events
from noex_mp.node.exit_log import ExitLog
from noex_mp.node.exits import reason_of_death, report_exit
from noex_mp.node.members import Member
from noex_mp.node.starts import Ended
from noex_mp.node.tree import Tree
from noex_mp.node.workers import Worker
from noex_mp.wire.envelopes import FORGET

__all__ = ["Ends", "Following", "end_of"]

Following = Literal["rest", "restart", "group", "give_up", "shut_down"]
"""What is to be done after an end.

`rest`: nothing more. `restart`: the member is to be started again alone, now. `group`: it waits in
the `exits` of its supervisor, to be restarted with its group. `give_up`: the exit was one too many
for its supervisor. `shut_down`: with it, the work of its supervisor is done.
"""


class Ends:
    """Takes the ends of members.

    Attributes:
        log: The last exit reports.
    """

    def __init__(self, tree: Tree, directory: Directory, events: Events) -> None:
        self._tree = tree
        self._directory = directory
        self._events = events
        self.log = ExitLog()

    def take(self, member: Member, ended: Ended) -> Following:
        """Tell all who care of an end; return what is to be done.

        Unless it is to be restarted alone, the member is at rest afterwards: for good, or until
        its group is restarted.
        """
        parent = member.parent
        if parent is None:
            self._take_end_of_tree(member, ended)
            return "rest"
        if self._is_expected(member, parent):
            self._come_to_rest(member, ended, _expected_next(member))
            return "rest"
        return self._take_unexpected(member, parent, ended)

    def take_failed_replacement(self, member: Member, ended: Ended) -> None:
        """Tell of a start with new code that failed; the member pauses until it has the old."""
        member.pauses = True
        self._come_to_rest(member, ended, "goes back to the old code")

    def _come_to_rest(self, member: Member, ended: Ended, following: str) -> None:
        report = self._take_end(member, ended, following)
        self._tree.settle(member)
        self._events.ended(member, report)

    def _take_unexpected(self, member: Member, parent: Branch, ended: Ended) -> Following:
        plan = parent.plan(member, ended.reason, ended.worker)
        report = self._take_end(member, ended, plan.next)
        alone = not plan.stop and plan.start == (parent.key_of(member),) and parent.work is None
        if alone:
            member.awake()
            member.state = "restarting"
            self._tree.on_end(member, member.incarnation + 1)
            self._events.ended(member, report)
            return "restart"
        # Also below a supervisor that gives up: the one above may start all of it again.
        member.pauses = bool(plan.start) or (plan.give_up and parent.parent is not None)
        # First, so that whoever hears that it is gone for good may have its name.
        self._tree.settle(member)
        self._events.ended(member, report)
        if plan.start:
            # From now on: what dies of the same cause is not counted again.
            parent.going_down.update(parent.group_of(member))
            parent.exits.append(member)
            return "group"
        if plan.give_up and parent is self._tree.spawned:
            # Each has a budget of its own, and only this one is gone.
            self._events.tell("gave_up", member, report=report)
            return "rest"
        if plan.give_up:
            return "give_up"
        return "shut_down" if plan.shut_down else "rest"

    def _is_expected(self, member: Member, parent: Branch) -> bool:
        """Whether a member ended because somebody wanted it to, or goes down in any case.

        It then pauses where its supervisor will start it again.
        """
        if member.stop_reason is not None or self._tree.is_stopping or member.was_ignored:
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
        report = self.report(member, ended, following)
        if isinstance(member, Child):
            # Whoever calls it from now on waits for its restart, if there is one.
            member.state = "restarting"
            self.down(member, report, ended)
        return report

    def _take_end_of_tree(self, top: Member, ended: Ended) -> None:
        tree = self._tree
        self.report(top, ended, "")
        tree.settle(top)
        if not (tree.is_stopping or tree.is_changing or tree.ended.done()):
            # Somebody has stopped it by hand, and whoever waits for the tree has waited.
            tree.ended.set_result(None)

    def report(self, member: Member, ended: Ended, following: str) -> ExitReport:
        """Make the report of an end, and keep it."""
        tree = self._tree
        # A tree that ends by itself stops the rest of the node as its supervisor.
        stops = tree.is_stopping and (tree.top is None or tree.top.ending is None)
        member.report = report_exit(member, ended.worker, ended.reason, following, node_stops=stops)
        self.log.keep(member, member.report)
        member.error = ended.error
        return member.report

    def down(self, child: Child, report: ExitReport, ended: Ended) -> None:
        """Tell whoever calls a server that this incarnation has ended."""
        worker = ended.worker
        if worker is not None:
            self._directory.down(child, worker, report, ended.error)
            if worker.alive:
                worker.residents.pop(child.sid, None)
                worker.connection.post([FORGET, child.sid])


def _expected_next(member: Member) -> str:
    if not member.pauses:
        return "stays down"
    replaced = isinstance(member.stop_reason, Replaced)
    return "starts again" if replaced else "starts again with its group"


def end_of(child: Child, worker: Worker) -> Ended:
    """Return how an incarnation ended that lived in a worker."""
    error = child.exited[1] if child.exited else b""
    return Ended(reason_of_death(child, worker), error, worker)
