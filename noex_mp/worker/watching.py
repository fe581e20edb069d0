"""A server that watches others, and is linked to them: `client.monitors` asks this of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from noex_mp.core.messages import Down, Exit, Monitor
from noex_mp.core.ref import Address
from noex_mp.wire.envelopes import TIE, TRAP, UNTIE

if TYPE_CHECKING:
    from noex_mp.worker.host import Host
    from noex_mp.worker.mailbox import Mailbox

__all__ = ["WatchingServer"]


class WatchingServer:
    """What a server hears of others, in its mailbox, and what it says to the root for that.

    Args:
        mailbox: The server's.
        host: How to get at the root.
    """

    __slots__ = ("_host", "_mailbox", "_traps")

    def __init__(self, mailbox: Mailbox, host: Host) -> None:
        self._mailbox = mailbox
        self._host = host
        self._traps = False

    @property
    def sid(self) -> int:
        """Its number in the node."""
        return self._mailbox.sid

    @property
    def incarnation(self) -> int:
        """Which start of it this is."""
        return self._mailbox.incarnation

    def hear(self, messages: Sequence[Down | Exit]) -> None:
        """Queue the news of an end, behind what the ended server had sent."""
        if not self._mailbox.has_ended:
            self._host.put_behind_all(self._mailbox, messages)

    def unhear(self, monitor: Monitor) -> bool:
        """Drop the `Down` of a monitor that waits; return whether there was one."""
        queue = self._mailbox.queue
        for place, (target, item) in enumerate(queue):
            if target is None and isinstance(item, Down) and item.monitor == monitor:
                del queue[place]
                return True
        return False

    def node_down(self) -> None:
        """Nothing more comes; the process ends in a moment."""

    def link(self, other: Address) -> None:
        """Share the end of another."""
        self._tell_root(TIE, other.sid or other.name)

    def unlink(self, other: Address) -> None:
        """Undo that."""
        self._tell_root(UNTIE, other.sid or other.name)

    def trap_exits(self, on: bool) -> bool:
        """Let exit signals come as messages, or not; return what was set before."""
        before, self._traps = self._traps, on
        if on != before:
            self._tell_root(TRAP, on)
        return before

    def _tell_root(self, kind: int, what: object) -> None:
        self._host.tell_root([kind, self._mailbox.sid, self._mailbox.incarnation, what])
