"""The last exit reports of a node, for whoever asks later: `noex-mp exits`, `node.exits()`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Final, NamedTuple

from noex_mp.core.reasons import ExitReport

if TYPE_CHECKING:
    from noex_mp.node.members import Member

__all__ = ["ExitLog"]

# A server that dies again and again must not push out what is known of all others.
PER_NODE: Final = 200
PER_SERVER: Final = 10


class _Entry(NamedTuple):
    report: ExitReport
    name: str | None
    path: str | None
    id: str


class ExitLog:
    """Keeps the last reports: 200 of a node, of which at most 10 are of one server."""

    def __init__(self) -> None:
        self._entries: list[_Entry] = []

    def keep(self, member: Member, report: ExitReport) -> None:
        """Take one more report of a server or a supervisor."""
        entries = self._entries
        of_it = [place for place, entry in enumerate(entries) if entry.report.sid == member.sid]
        if len(of_it) >= PER_SERVER:
            del entries[of_it[0]]
        elif len(entries) >= PER_NODE:
            del entries[0]
        entries.append(_Entry(report, member.name, member.path, member.id))

    def lost(self, sid: int, incarnation: int, count: int) -> None:
        """Note that casts to an incarnation were lost: their senders say so after its end."""
        for place, entry in enumerate(self._entries):
            report = entry.report
            if (report.sid, report.incarnation) == (sid, incarnation):
                lost = replace(report, casts_lost=report.casts_lost + count)
                self._entries[place] = entry._replace(report=lost)

    def last_of(self, sid: object) -> ExitReport | None:
        """Return the last report of a server or supervisor, by its number; None if not known."""
        of_it = (entry.report for entry in reversed(self._entries) if entry.report.sid == sid)
        return next(of_it, None)

    def of(self, name: str | None = None) -> list[ExitReport]:
        """Return reports, the newest last.

        Args:
            name: Of which server or supervisor: its name, else its path of ids, else its id, else
                an os pid; None means all.
        """
        if name is None:
            return [entry.report for entry in self._entries]
        ways: tuple[Callable[[_Entry], str | None], ...] = (
            lambda entry: entry.name,
            lambda entry: entry.path,
            lambda entry: entry.id,
            lambda entry: str(entry.report.os_pid or ""),
        )
        for way in ways:
            found = [entry.report for entry in self._entries if way(entry) == name]
            if found:
                return found
        return []
