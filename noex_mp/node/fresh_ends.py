"""The ends of this turn of the loop: what was sent before them may only be read after them.

Who monitors or links a server first, and then sends it what ends it, is owed the reason of that
end. Both come to the root by different sockets, and one look at these may find the two at once: the
order in which they are read says nothing then.
"""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from contextlib import contextmanager
from typing import NamedTuple

from noex_mp.core.reasons import ExitReason, ExitReport, NoServer
from noex_mp.node.members import Member

__all__ = ["End", "FreshEnds"]


class End(NamedTuple):
    """The end of an incarnation.

    Attributes:
        member: Whose it is.
        restart: The incarnation that follows, or None if it is gone for good.
    """

    member: Member
    restart: int | None

    @property
    def report(self) -> ExitReport | None:
        """How it ended, if that is known."""
        return self.member.report

    @property
    def reason(self) -> ExitReason:
        """Why."""
        return self.member.report.reason if self.member.report else NoServer()


class FreshEnds:
    """Keeps each end that was read until what the loop has found together with it is read.

    No others: what was sent before a task ends a server, or before the zygote's word of a process
    is acted on a turn later, has been read by then. And uvloop looks once more before it forgets
    those ends: it might find somebody who has heard of one, and watches what follows.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._is_reading = False
        self._of: dict[int | str, End] = {}

    @contextmanager
    def reading(self) -> Generator[None]:
        """Keep the ends that what is just being read leads to."""
        self._is_reading = True
        try:
            yield
        finally:
            self._is_reading = False

    def add(self, end: End) -> None:
        """Keep an end, if it was read."""
        if not self._is_reading:
            return
        for target in _targets(end.member):
            self._of[target] = end
        # It runs before the loop looks again.
        self._loop.call_soon(self._forget, end)

    def _forget(self, end: End) -> None:
        for target in _targets(end.member):
            if self._of.get(target) is end:
                del self._of[target]

    def of(self, target: int | str) -> End | None:
        """Return how somebody has just ended, by number or name."""
        return self._of.get(target)


def _targets(member: Member) -> list[int | str]:
    return [member.sid, member.name] if member.name else [member.sid]
