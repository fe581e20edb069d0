"""What happens to servers, as plain data: for the log, and for whoever listens."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from noex_mp.core.reasons import ExitReport

if TYPE_CHECKING:
    from noex_mp.node.members import Member

__all__ = ["Event", "Listener", "lost_in_words"]


@dataclass(frozen=True, kw_only=True)
class Event:
    """One thing that happened to one server, or to a supervisor.

    Attributes:
        kind: `starting`, `started`, `not_started`, `restarted`, `crashed`, `exited`, `stopping`,
            `gave_up`, `messages_lost`, `messages_dropped`, or `waiting`: a restart has to wait,
            since the system has no descriptor, process or memory for a worker.
        server: The server's name or id.
        sid: Its number in the node.
        incarnation: Which start of it.
        os_pid: Its process, or 0.
        time: When, in seconds since the epoch.
        report: How it ended, where it did.
        count: How many messages, where messages were lost or dropped.
        detail: What a supervisor says that gives up; its `report` is that of the last straw.
    """

    kind: str
    server: str
    sid: int
    incarnation: int
    os_pid: int
    time: float
    report: ExitReport | None = None
    count: int = 0
    detail: str = ""

    @classmethod
    def of(
        cls,
        kind: str,
        member: Member,
        report: ExitReport | None = None,
        count: int = 0,
        detail: str = "",
    ) -> Event:
        """Return the event of a server or a supervisor, now."""
        return cls(
            kind=kind,
            server=member.title,
            sid=member.sid,
            incarnation=member.incarnation,
            os_pid=member.os_pid,
            time=time.time(),
            report=report,
            count=count,
            detail=detail,
        )


#: Is called with each event, in order.
Listener = Callable[[Event], None]


def lost_in_words(count: int) -> str:
    """Return what became of casts that a server had not begun; follows the server's name."""
    casts = "1 cast, which was" if count == 1 else f"{count} casts, which were"
    return f"ended before it came to {casts} lost"
