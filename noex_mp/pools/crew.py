"""The members of a pool: found, started, replaced, and stopped when they have nothing to do."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from noex_mp.client.supervisors import SupervisorRef
from noex_mp.core.ref import Ref
from noex_mp.errors import ChildNotFoundError
from noex_mp.pools.members import Member

__all__ = ["Crew"]


class Crew:
    """The members of a pool, in the order in which they came.

    One change comes after the other. A member leaves in three steps: it gets no new messages; it
    finishes those that it has; it is stopped.

    Attributes:
        members: All of them, those included that are leaving.

    Args:
        supervisor: Theirs: it starts one more without being told what it is.
        make: Makes a member of an address.
        on_leave: Is told of a member that leaves, when it has done what it had.
    """

    def __init__(
        self,
        supervisor: SupervisorRef,
        make: Callable[[Ref[Any]], Member],
        on_leave: Callable[[Member], None],
    ) -> None:
        self._supervisor = supervisor
        self._make = make
        self._on_leave = on_leave
        self._lock = asyncio.Lock()
        self._waiting: dict[Member, asyncio.Future[None]] = {}
        self.members: list[Member] = []

    @property
    def is_changing(self) -> bool:
        """Whether members come or go."""
        return self._lock.locked()

    @property
    def staying(self) -> list[Member]:
        """Those that are not leaving."""
        return [member for member in self.members if not member.is_leaving]

    async def assemble(self, size: int) -> list[Member]:
        """Find those that are there, after the death of a router, or start so many.

        Returns:
            Those that were there.

        Raises:
            StartError: One does not start.
        """
        for child in await self._supervisor.which_children():
            if isinstance(child.ref, Ref) and child.state != "stopping":
                self.members.append(self._make(child.ref))
        found = list(self.members)
        if not found:
            await self._start(size)
        return found

    async def resize(self, size: int) -> int:
        """Have so many members; return how many there were.

        Raises:
            StartError: One does not start; those that have are members.
        """
        async with self._lock:
            before = len(self.staying)
            await self._start(size - before)
            # The youngest leave.
            await self._dismiss(self.staying[size:])
            return before

    async def restart_all(self) -> int:
        """Replace all members, one by one, each when the new one is up; return how many.

        Raises:
            StartError: A new one does not start; the old one stays then.
        """
        async with self._lock:
            old = self.staying
            for member in old:
                if member in self.members:
                    await self._start(1)
                    await self._dismiss([member])
            return len(old)

    async def _start(self, count: int) -> None:
        starts = [self._supervisor.start_child() for _ in range(count)]
        results = await asyncio.gather(*starts, return_exceptions=True)
        for result in results:
            if isinstance(result, Ref):
                self.members.append(self._make(result))
        for result in results:
            if isinstance(result, BaseException):
                raise result

    async def _dismiss(self, members: list[Member]) -> None:
        for member in members:
            member.is_leaving = True
        await asyncio.gather(*map(self._leave, members))

    async def _leave(self, member: Member) -> None:
        if member.in_flight:
            self._waiting[member] = asyncio.get_running_loop().create_future()
            await self._waiting[member]
        if member in self.members:
            self.members.remove(member)
            self._on_leave(member)
            # It may have ended meanwhile.
            with suppress(ChildNotFoundError):
                await self._supervisor.terminate_child(member.ref)

    def has_nothing(self, member: Member) -> None:
        """Note that a member which is leaving has finished what it had."""
        waiting = self._waiting.pop(member, None)
        if waiting is not None and not waiting.done():
            waiting.set_result(None)

    def lost(self, member: Member) -> None:
        """Note that a member is gone for good, though nobody here wanted that."""
        if member in self.members:
            self.members.remove(member)
        self.has_nothing(member)
