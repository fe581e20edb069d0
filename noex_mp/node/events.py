"""How the control plane tells what happens: it makes the events, for the log and for listeners."""

from __future__ import annotations

import asyncio
import time
from typing import Any, Final

from noex_mp.client.events import Event, EventKind, Listener, Wants
from noex_mp.client.supervisors import SupervisorRef
from noex_mp.core.reasons import ExitReport, is_abnormal
from noex_mp.core.ref import Ref
from noex_mp.node.branches import Branch
from noex_mp.node.children import Child
from noex_mp.node.members import Member

__all__ = ["Events", "lost_in_words"]

# A full mailbox is worth an event once in so many seconds.
FULL_AGAIN: Final = 1.0

_LIFE: Final = frozenset(
    ("started", "ready", "not_started", "stopping", "exited", "crashed", "restarting", "restarted")
)


class Events:
    """Tells one listener what happens in a node.

    Args:
        node: The node's id.
        listener: Hears of everything that it wants, in the thread of the control plane.
        wants: What that is: a hundred thousand names may come and go, and nobody listen.
    """

    def __init__(
        self, node: str, loop: asyncio.AbstractEventLoop, listener: Listener, wants: Wants
    ) -> None:
        self._node = node
        self._loop = loop
        self._listener = listener
        self._wants = wants
        # The servers whose mailbox was full a moment ago, and the messages that were refused since.
        self._full: dict[Child, int] = {}
        self._timers: dict[Child, asyncio.TimerHandle] = {}

    # --- the life of a server or supervisor --------------------------------------------

    def ready(self, member: Member) -> None:
        """Tell that an incarnation is ready, and so its restart is done, if it was one."""
        self.tell("ready", member)
        if member.incarnation > 1:
            self.tell("restarted", member)
        member.attempt = 0

    def ended(self, member: Member, report: ExitReport) -> None:
        """Tell that an incarnation has ended; if it was the last, when it is at rest."""
        crashed = is_abnormal(report.reason) and not report.requested
        self.tell("crashed" if crashed else "exited", member, report=report)

    def restarting(self, member: Member, delay: float = 0.0) -> None:
        """Tell that one that has ended is to be started again.

        Args:
            member: Who.
            delay: How long that waits, in seconds.
        """
        self.tell(
            "restarting",
            member,
            incarnation=member.incarnation + 1,
            attempt=member.attempt + 1,
            reason=member.report and member.report.reason,
            delay=delay,
        )

    def tell(self, kind: EventKind, member: Member, **more: Any) -> None:
        """Tell that something happened to a server or a supervisor, now.

        Args:
            kind: What happened.
            member: To whom.
            more: Fields of the event that are not just the member's own.
        """
        if not self._wants(kind):
            return
        if kind in _LIFE and isinstance(member, Branch) and member.parent is None:
            # What becomes of the topmost is what becomes of the node, and that says it.
            return
        report = more.get("report")
        known: dict[str, Any] = {
            "server": member.title,
            "name": member.name,
            "incarnation": member.incarnation,
            "attempt": member.attempt,
            "reason": report and report.reason,
            "time": time.time(),
            # After the end it has no process any more.
            "os_pid": report.os_pid if report else member.os_pid,
        }
        event = Event(kind=kind, ref=self._ref_of(member), **{**known, **more})
        try:
            self._listener(event)
        except Exception as error:
            # The listener's bug, which must not become a server's.
            self._loop.call_exception_handler({"message": "a listener failed", "exception": error})

    def _ref_of(self, member: Member) -> Ref[Any] | SupervisorRef:
        if isinstance(member, Child):
            # Not Ref[Any](...): that takes five times as long.
            ref: Ref[Any] = Ref(self._node, member.sid, label=member.label)
            return ref
        return SupervisorRef(self._node, member.sid, label=member.label)

    # --- full mailboxes ----------------------------------------------------------------

    def mailbox_full(self, child: Child, count: int) -> None:
        """Tell that a mailbox is full: at once, and then once a second as long as it is.

        Args:
            child: Whose mailbox.
            count: How many messages were refused or dropped; 0 where they wait.
        """
        child.dropped += count
        if child in self._full:
            self._full[child] += count
        else:
            self._tell_full(child, count)

    def _tell_full(self, child: Child, count: int) -> None:
        self.tell("mailbox_full", child, count=count)
        self._full[child] = 0
        self._timers[child] = self._loop.call_later(FULL_AGAIN, self._full_still, child)

    def _full_still(self, child: Child) -> None:
        del self._timers[child]
        count = self._full.pop(child)
        if count:
            self._tell_full(child, count)

    def close(self) -> None:
        """Tell what has not been told: the node has stopped."""
        for child, timer in list(self._timers.items()):
            timer.cancel()
            if self._full[child]:
                self.tell("mailbox_full", child, count=self._full[child])
        self._full.clear()
        self._timers.clear()


def lost_in_words(count: int) -> str:
    """Return what became of casts that a server had not begun; follows the server's name."""
    casts = "1 cast, which was" if count == 1 else f"{count} casts, which were"
    return f"ended before it came to {casts} lost"
