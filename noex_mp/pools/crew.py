"""The members of a pool: found, started, replaced, and stopped when they have nothing to do."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

from noex_mp.client.supervisors import SupervisorRef
from noex_mp.core.ref import Ref
from noex_mp.errors import ChildNotFoundError, PreloadError, StartError
from noex_mp.pools.members import Member

__all__ = ["Crew"]

# Who asks for another size meanwhile does not have to wait for more starts than these.
_AT_A_TIME: Final = 32


class Crew:
    """The members of a pool, in the order in which they came.

    One start comes after the other. A member leaves in three steps: it gets no new messages; it
    finishes those that it has; it is stopped.

    Attributes:
        members: All of them, those included that are leaving.

    Args:
        supervisor: Theirs: it starts one more without being told what it is.
        make: Makes a member of an address.
        is_idle: Returns whether a member that leaves has done all that is its to do.
        on_leave: Is told of one that leaves, when that is so.
    """

    def __init__(
        self,
        supervisor: SupervisorRef,
        make: Callable[[Ref[Any]], Member],
        is_idle: Callable[[Member], bool],
        on_leave: Callable[[Member], None],
    ) -> None:
        self._supervisor = supervisor
        self._make = make
        self._is_idle = is_idle
        self._on_leave = on_leave
        self._lock = asyncio.Lock()
        self._waiting: dict[Member, asyncio.Future[None]] = {}
        self._dismissed: list[Member] = []
        self._spare: Ref[Any] | None = None
        self._preparing = asyncio.Lock()
        self._wanted = 0
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
        self._wanted = size
        for child in await self._supervisor.which_children():
            if isinstance(child.ref, Ref) and child.state != "stopping":
                self.members.append(self._make(child.ref))
        found = list(self.members)
        if not found:
            await self._start_missing()
        return found

    async def resize(self, size: int) -> int:
        """Have so many members; return how many there were to be.

        Another resize that is under way goes no further: it is this size that counts.

        Raises:
            StartError: One does not start; those that have are members.
        """
        before, self._wanted = self._wanted, size
        async with self._lock:
            excess = await self._fit()
        await self._dismiss(excess)
        return before

    async def _fit(self) -> list[Member]:
        """Start those that are missing; return those that are too many, the youngest.

        Those that were before are among them, as long as they have something to finish.
        """
        await self._start_missing()
        excess = self.staying[self._wanted :]
        for member in excess:
            member.is_leaving = True
        self._dismissed = [each for each in self._dismissed if each in self.members] + excess
        return list(self._dismissed)

    async def restart_all(self) -> int:
        """Replace all members, one by one, each when the new one is up; return how many.

        Raises:
            StartError: A new one does not start; the old one stays then.
        """
        await self._renew_spare()
        old = self.staying
        for member in old:
            async with self._lock:
                # It may have gone, or been replaced.
                if member not in self.staying:
                    continue
                await self._start(1)
                member.is_leaving = True
            await self._leave(member)
        return len(old)

    # --- when one is due ------------------------------------------------------------------

    async def prepare(self) -> None:
        """Start one that stands by, to take the place of one that leaves."""
        async with self._preparing:
            if self._spare is None:
                await self._start_spare()

    async def _renew_spare(self) -> None:
        async with self._preparing:
            spare, self._spare = self._spare, None
            if spare is not None:
                await self._start_spare()
                await self._stop(spare)

    async def _start_spare(self) -> None:
        # If it does not start, that is tried again for the next that leaves or dies; what it has
        # raised is in the log.
        with suppress(StartError, PreloadError):
            self._spare = await self._supervisor.start_child()

    def retire(self, member: Member) -> None:
        """Give a member no new messages; who stands by takes its place at once."""
        member.is_leaving = True
        self._use_spare()

    def _use_spare(self) -> None:
        spare, self._spare = self._spare, None
        if spare is not None:
            self.members.append(self._make(spare))

    async def replace(self, member: Member) -> None:
        """Stop a member that was retired, once another has its place.

        If the other does not start, or this is cancelled before it has, the member goes on.
        """
        try:
            async with self._lock:
                if len(self.staying) < self._wanted:
                    # One may be on its way already.
                    await self.prepare()
                    self._use_spare()
                excess = await self._fit()
        except BaseException as error:
            member.is_leaving = False
            member.begin_life()
            if isinstance(error, StartError):
                return
            raise
        await asyncio.gather(self.prepare(), self._dismiss([member, *excess]))

    # --- coming and going -----------------------------------------------------------------

    async def _start_missing(self) -> None:
        while (missing := self._wanted - len(self.staying)) > 0:
            await self._start(min(missing, _AT_A_TIME))

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
        await asyncio.gather(*map(self._leave, members))

    async def _leave(self, member: Member) -> None:
        if not self._is_idle(member):
            # One that is due in the middle of a restart leaves for two reasons.
            future = asyncio.get_running_loop().create_future()
            await self._waiting.setdefault(member, future)
        if member in self.members:
            self.members.remove(member)
            self._on_leave(member)
            await self._stop(member.ref)

    async def _stop(self, ref: Ref[Any]) -> None:
        # It may have ended meanwhile.
        with suppress(ChildNotFoundError):
            await self._supervisor.terminate_child(ref)

    def stay(self) -> None:
        """Let nobody leave: who waits for that is there no more."""
        self._waiting.clear()
        self._dismissed.clear()
        for member in self.members:
            member.is_leaving = False

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
