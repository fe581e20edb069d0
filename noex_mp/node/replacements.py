"""Takes servers down in good order and starts them again at once, to have other code.

What has arrived is handled first, and whoever calls meanwhile waits: a server that is replaced
*pauses*, as one whose group restarts. It uses no restart budget, and its siblings do not notice.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from contextlib import AsyncExitStack
from typing import NamedTuple

from noex_mp.core.reasons import Replaced
from noex_mp.node.branches import Branch
from noex_mp.node.children import Child
from noex_mp.node.ends import Ends
from noex_mp.node.events import Events
from noex_mp.node.member_starts import MemberStarts
from noex_mp.node.member_stops import MemberStops
from noex_mp.node.restarts import Restarts
from noex_mp.node.starts import Ended

__all__ = ["FailedReplacement", "Replacements"]


class FailedReplacement(NamedTuple):
    """Which server did not start with its new code, and how that ended."""

    child: Child
    ended: Ended


class Replacements:
    """Replaces servers, one worker at a time."""

    def __init__(
        self,
        ends: Ends,
        stops: MemberStops,
        starts: MemberStarts,
        restarts: Restarts,
        events: Events,
    ) -> None:
        self._ends = ends
        self._stops = stops
        self._starts = starts
        self._restarts = restarts
        self._events = events

    async def replace(
        self, child: Child, *, go_back: Callable[[], object]
    ) -> FailedReplacement | None:
        """Replace a server, and those that share its worker; return the one that failed, if any.

        Args:
            child: One that runs.
            go_back: Is called when one did not start: all of them are started once more then. One
                that fails at that as well is its supervisor's, as after any other end.
        """
        async with AsyncExitStack() as locks:
            # A group that restarts is not joined in the middle. Only one who replaces holds more
            # than one of them, so nobody waits in a circle.
            for parent in _parents_of(_sharing(child)):
                await locks.enter_async_context(parent.lock)
            members = _sharing(child)
            if any(map(_stays, members)):
                return None
            try:
                await self._pause(members)
                failed = await self._start(members)
                if failed is not None:
                    self._ends.take_failed_replacement(*failed)
                    go_back()
                    await self._pause(members)
                    await self._start_in_any_case(members)
            finally:
                await self._starts.dismiss(members)
        return failed

    async def _pause(self, members: Sequence[Child]) -> None:
        placement = members[0].placement
        worker = placement.worker if placement else None
        if worker is not None:
            # First: who joins the group from now on starts in the next worker.
            worker.leaving = True
        elif not members[0].at_rest:
            self._starts.prepare(members[0])
        for member in reversed(members):
            await _start_is_over(member)
            await self._stops.pause(member, Replaced())
        if worker is not None and worker.alive:
            worker.retire()

    async def _start(self, members: Sequence[Child]) -> FailedReplacement | None:
        for member in members:
            ended = await self._start_one(member)
            if ended is not None:
                return FailedReplacement(member, ended)
        return None

    async def _start_in_any_case(self, members: Sequence[Child]) -> None:
        for member in members:
            ended = await self._start_one(member)
            if ended is not None:
                self._restarts.ended(member, ended)

    async def _start_one(self, child: Child) -> Ended | None:
        """Start a server that pauses; return how that failed, unless somebody wanted it so."""
        parent = child.parent
        if not (child.at_rest and child.pauses) or parent is None or parent.is_ending:
            # Somebody has stopped it for good meanwhile, or it waits for its supervisor's restart.
            return None
        self._events.restarting(child)
        child.awake()
        child.state = "restarting"
        ended = await self._starts.start(child)
        if ended is None:
            self._restarts.has_started(child)
        elif child.stop_reason is not None or child.was_ignored or parent.is_ending:
            self._ends.take(child, ended)
            ended = None
        return ended


def _stays(child: Child) -> bool:
    """Return whether a server runs on with the code that it has.

    A temporary one never starts again. And what runs an application's own functions does so when
    that starts and stops: its tree runs on, so `stop` and `start` would come in the middle of it.
    """
    is_hook = child.parent is not None and child.parent.is_application
    return child.restart == "temporary" or is_hook


def _sharing(child: Child) -> list[Child]:
    """Return the servers that share a worker with one, in the order of their first starts."""
    if child.placement is None:
        return [child]
    return sorted(child.placement.members, key=lambda member: member.sid)


def _parents_of(children: Iterable[Child]) -> list[Branch]:
    parents = {child.parent for child in children if child.parent is not None}
    return sorted(parents, key=lambda parent: parent.sid)


async def _start_is_over(child: Child) -> None:
    """Wait until a server that starts in its worker is ready, or has failed, or is dead."""
    while child.starting and child.worker is not None and child.worker.alive:
        either = (child.settled(), child.worker.dead)
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
