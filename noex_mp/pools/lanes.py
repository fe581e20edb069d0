"""The lanes of a pool: a supervisor of their own, and how they are described."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from noex_mp.client.supervisors import start_supervisor
from noex_mp.core.ref import Ref
from noex_mp.core.specs import ChildSpec, Supervisor, child
from noex_mp.pools.lane import Lane

if TYPE_CHECKING:
    from noex_mp.client.supervisors import SupervisorRef
    from noex_mp.pools.functions import FunctionCode

__all__ = ["Lanes", "check_size", "default_size"]


def default_size() -> int:
    """Return how many lanes a pool has if nobody says: as many as this process may use CPUs."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def check_size(option: str, size: object) -> int:
    """Return the size of a pool.

    Raises:
        TypeError: It is no whole number.
        ValueError: It is below 1.
    """
    if size is None:
        return default_size()
    if isinstance(size, bool) or not isinstance(size, int):
        raise TypeError(f"expected {option} to be a whole number of processes, got {size!r:.60}")
    if size < 1:
        raise ValueError(f"{option} must be greater than 0, got {size}")
    return size


class Lanes:
    """The processes of a pool, under one supervisor, which starts each again when it dies."""

    def __init__(
        self,
        size: int,
        initializer: FunctionCode | None = None,
        initargs: tuple[Any, ...] = (),
    ) -> None:
        self._size = size
        self._initializer = initializer
        self._initargs = initargs
        self._supervisor: SupervisorRef | None = None

    async def start(self) -> list[Ref[Lane]]:
        """Start all of them on the current node, and return their addresses."""
        # A task that ends its process is no reason to give up, however often it comes.
        self._supervisor = await start_supervisor(Supervisor(max_restarts=None, max_failed_inits=3))
        try:
            # All at once: unlike children of a tree, they do not need each other.
            return await self._supervisor.start_children([self._spec(n) for n in range(self._size)])
        except BaseException:
            await self._supervisor.stop()
            raise

    def _spec(self, number: int) -> ChildSpec[Lane]:
        return child(Lane, self._initializer, self._initargs).options(id=f"lane-{number}")

    async def stop(self, *, at_once: bool = False) -> None:
        """Stop all of them, and return once they have ended.

        Args:
            at_once: Kill them; else each finishes what it is at.
        """
        if self._supervisor is not None:
            await self._supervisor.stop(timeout=0.0 if at_once else None)
