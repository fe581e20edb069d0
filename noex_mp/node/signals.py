"""Exit signals: what reaches a server when one that it is linked to ends, or by `ref.exit`.

As in OTP, a server that traps exits gets a message. Any other ends with the reason it is given,
unless that is `Normal`; whoever is linked to it is told the same, so that all of a chain know what
began it.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Coroutine
from math import inf
from typing import Any

from noex_mp.core.reasons import (
    ExitReason,
    ExitReport,
    Killed,
    Linked,
    Normal,
    NoServer,
    Replaced,
    is_abnormal,
)
from noex_mp.node.children import Child
from noex_mp.node.directory import Directory
from noex_mp.node.fresh_ends import End
from noex_mp.node.members import Member
from noex_mp.node.stacks import ask_for_stack
from noex_mp.node.workers import Worker
from noex_mp.supervision.shutdown import GRACE
from noex_mp.wire.envelopes import KILL, SIGNAL, STOP

__all__ = ["Links", "Signals"]


class Links:
    """Which incarnations share their ends: pairs of servers, each linked once at most."""

    def __init__(self) -> None:
        # Behind each the first incarnation whose end is meant.
        self._of: dict[int, dict[int, int]] = {}

    def tie(self, one: Member, other: Member, *, next_one: bool = False) -> None:
        """Link two members; with the incarnation of the other that follows, if that is meant."""
        self._of.setdefault(one.sid, {}).setdefault(other.sid, one.incarnation)
        self._of.setdefault(other.sid, {}).setdefault(one.sid, other.incarnation + next_one)

    def untie(self, one: int, other: int) -> None:
        """Undo that, from either side."""
        for near, far in ((one, other), (other, one)):
            peers = self._of.get(near, {})
            peers.pop(far, None)
            if not peers:
                self._of.pop(near, None)

    def ended(self, member: Member, *, for_good: bool) -> list[int]:
        """Return who was linked to one that has ended, in the order of their links; undo these."""
        last = inf if for_good else member.incarnation
        peers = [peer for peer, since in self._of.get(member.sid, {}).items() if since <= last]
        for peer in peers:
            self.untie(member.sid, peer)
        return peers


class Signals:
    """Carries the ends of servers to those that are linked to them."""

    def __init__(self, loop: asyncio.AbstractEventLoop, directory: Directory) -> None:
        self._loop = loop
        self._directory = directory
        self._links = Links()
        self._tasks: set[asyncio.Task[None]] = set()

    def link(self, child: Child, other: Member | None, end: End | None) -> None:
        """Link a server with another, or let it have its signal at once if there is none.

        Args:
            child: The server.
            other: The other, if there is one.
            end: The other's end in this turn of the loop: it is linked to what has ended.
        """
        if end is not None and not _goes_on(end):
            if end.member is not child:
                self._reach(child, end.member, end.reason, end.report)
        elif other is None or other.is_over:
            self._reach(child, other, NoServer(), other.report if other else None)
        elif other is not child:
            # One that was struck, and has not come to heed that, is as good as gone.
            is_struck = isinstance(other, Child) and other.struck is not None
            self._links.tie(child, other, next_one=is_struck)

    def unlink(self, child: Child, other: Member | None) -> None:
        """Undo that."""
        if other is not None:
            self._links.untie(child.sid, other.sid)

    def ended(self, end: End) -> None:
        """Let those that are linked to a member hear of its end."""
        if _goes_on(end):
            return
        for sid in self._links.ended(end.member, for_good=end.restart is None):
            child = self._directory.get(sid)
            if child is not None:
                self._reach(child, end.member, end.reason, end.report)

    def _reach(
        self, child: Child, other: Member | None, reason: ExitReason, report: ExitReport | None
    ) -> None:
        title = other.title if other else "a server"
        its_own = reason if isinstance(reason, Linked) else Linked(title, reason)
        self._signal(child, other, reason, report, its_own)

    def exit(self, child: Child, reason: ExitReason) -> None:
        """Send a server a signal that somebody has asked for."""
        if isinstance(reason, Killed):
            self._end(child, reason, at_once=True)
        else:
            self._signal(child, None, reason, None, reason)

    def _signal(
        self,
        child: Child,
        sender: Member | None,
        reason: ExitReason,
        report: ExitReport | None,
        its_own: ExitReason,
    ) -> None:
        worker = child.worker
        if worker is None or not worker.alive:
            return
        if child.traps:
            about = None if sender is None else [sender.sid, sender.label, sender.role]
            incarnation: list[Any] = [child.sid, child.incarnation]
            worker.connection.post([SIGNAL, *incarnation, about, reason, report])
        elif not isinstance(reason, Normal):
            self._end(child, its_own)

    def _end(self, child: Child, reason: ExitReason, *, at_once: bool = False) -> None:
        worker = child.worker
        if worker is None or not worker.alive:
            return
        if child.stop_reason is not None and not at_once:
            # It ends anyway, in good order.
            return
        if child.struck is None:
            child.struck = reason
        limit = 0.0 if at_once or child.shutdown == "brutal_kill" else child.shutdown
        if limit == 0.0 and not worker.shared:
            worker.signal_group(signal.SIGKILL)
            return
        # Who is linked to one that is shut down is shut down too, and not cut off in its work.
        in_order = child.state == "running" and not is_abnormal(reason)
        worker.connection.post([STOP if in_order else KILL, child.sid, reason])
        if limit is not None:
            # Of those that share a process, only one that does not leave takes the others with it.
            seconds = max(limit, GRACE) if worker.shared else limit
            self._run(self._see_it_end(child, worker, seconds))

    async def _see_it_end(self, child: Child, worker: Worker, limit: float) -> None:
        await asyncio.wait((worker.dead,), timeout=limit)
        if self._still_lives(child, worker):
            await ask_for_stack(worker)
        if self._still_lives(child, worker):
            if worker.shared:
                worker.condemned = f"{child.title} did not end at an exit signal"
            worker.signal_group(signal.SIGKILL)

    def _still_lives(self, child: Child, worker: Worker) -> bool:
        is_there = child.worker is worker and child.exited is None
        return is_there and worker.alive and child.sid in worker.residents

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _goes_on(end: End) -> bool:
    # Nothing has gone wrong, and it is back in a moment: its links are the next one's.
    return isinstance(end.reason, Replaced) and end.restart is not None
