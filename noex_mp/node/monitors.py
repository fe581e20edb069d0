"""Who is told of whose end: `monitor` and `watch`."""

from __future__ import annotations

from noex_mp.core.reasons import ExitReport, NoServer
from noex_mp.node.connection import Connection
from noex_mp.node.fresh_ends import End
from noex_mp.node.members import Member
from noex_mp.wire.envelopes import MONITORED

__all__ = ["Monitors"]

# What stands for a monitor that ends with its first `Down`.
_ONCE = -1


class Monitors:
    """The monitors of a node, by who is watched and who watches; each has a number there.

    A monitor means the incarnation that runs when it is asked for; where the server is just
    being restarted, the one that comes.
    """

    def __init__(self) -> None:
        # Behind each the last incarnation whose end it was told of, if it lasts.
        self._of: dict[int, dict[Connection, dict[int, int]]] = {}
        self._by: dict[Connection, dict[int, int]] = {}

    def add(
        self,
        connection: Connection,
        number: int,
        member: Member | None,
        report: ExitReport | None,
        *,
        end: End | None,
        is_lasting: bool,
    ) -> None:
        """Watch a member; one that is gone is answered at once.

        Args:
            connection: Who wants to hear of it.
            number: What the answer is to carry.
            member: Who is watched, or None if nobody was found.
            report: How it ended last, if that is known.
            end: Its end in this turn of the loop: that, too, is what was to be heard of.
            is_lasting: Whether to tell of further ends, until it is gone for good.
        """
        if end is not None:
            self._post(connection, [number], end)
            if end.restart is None or not is_lasting:
                return
            member = end.member
        elif member is None or member.is_over:
            sid = member.sid if member else 0
            connection.post([MONITORED, [number], sid, NoServer(), report, None])
            return
        told = member.report.incarnation if member.report else 0
        watchers = self._of.setdefault(member.sid, {})
        watchers.setdefault(connection, {})[number] = told if is_lasting else _ONCE
        self._by.setdefault(connection, {})[number] = member.sid

    def remove(self, connection: Connection, number: int) -> None:
        """Watch no more."""
        sid = self._by.get(connection, {}).pop(number, 0)
        watchers = self._of.get(sid, {})
        numbers = watchers.get(connection, {})
        numbers.pop(number, None)
        if not numbers:
            watchers.pop(connection, None)
        if not watchers:
            self._of.pop(sid, None)

    def ended(self, end: End) -> None:
        """Tell all that watch a member that its incarnation has ended."""
        member = end.member
        for connection, numbers in list(self._of.get(member.sid, {}).items()):
            told = self._tell(connection, numbers, member.incarnation, end.restart)
            if told:
                # One frame for all: the report is the largest part of it.
                self._post(connection, told, end)

    def _post(self, connection: Connection, numbers: list[int], end: End) -> None:
        sid = end.member.sid
        connection.post([MONITORED, numbers, sid, end.reason, end.report, end.restart])

    def _tell(
        self,
        connection: Connection,
        numbers: dict[int, int],
        incarnation: int,
        restart: int | None,
    ) -> list[int]:
        """Return the monitors of a process that are to be told; note that they have been."""
        told: list[int] = []
        for number, last in list(numbers.items()):
            if restart is not None and last >= incarnation:
                continue
            told.append(number)
            if restart is None or last == _ONCE:
                self.remove(connection, number)
            else:
                numbers[number] = incarnation
        return told

    def forget(self, connection: Connection) -> None:
        """Note that a process is gone: nobody there watches any more."""
        for number in list(self._by.get(connection, ())):
            self.remove(connection, number)
        self._by.pop(connection, None)
