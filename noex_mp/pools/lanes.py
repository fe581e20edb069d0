"""The lanes of a pool: a supervisor of their own, and how they are described."""

from __future__ import annotations

import os
from collections.abc import Collection
from typing import TYPE_CHECKING, Any, Final, TypedDict

from typing_extensions import Unpack

from noex_mp.client.supervisors import start_supervisor
from noex_mp.core.ref import Ref
from noex_mp.core.specs import ChildSpec, DynamicSupervisor, child
from noex_mp.core.thread_variables import THREAD_VARIABLES
from noex_mp.pools.lane import Lane

if TYPE_CHECKING:
    from noex_mp.client.supervisors import SupervisorRef
    from noex_mp.pools.functions import FunctionCode

__all__ = ["LaneOptions", "Lanes", "check_count", "check_size", "default_size", "lane_options"]

# Linux gives processes numbers up to that, unless it is told otherwise.
_MOST: Final = 32_768


def default_size() -> int:
    """Return how many lanes a pool has if nobody says: as many as this process may use CPUs."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def check_size(option: str, size: object) -> int:
    """Return the size of a pool; None is that of one of which nobody says it.

    Raises:
        TypeError: It is no whole number.
        ValueError: It is below 1, or more than there can be processes.
    """
    if size is None:
        return default_size()
    size = check_count(option, size)
    if size > _MOST:
        raise ValueError(f"{option} must be at most {_MOST:,} processes, got {size:,}")
    return size


def check_count(option: str, count: object) -> int:
    """Return a number of things.

    Raises:
        TypeError: It is no whole number.
        ValueError: It is below 1.
    """
    if isinstance(count, bool) or not isinstance(count, int):
        raise TypeError(f"expected {option} to be a whole number, got {count!r:.60}")
    if count < 1:
        raise ValueError(f"{option} must be greater than 0, got {count}")
    return count


class LaneOptions(TypedDict, total=False):
    """What the process of a lane is to be like: options of a child."""

    memory_limit: int | str
    nice: int
    init_timeout: float | None
    cpu_affinity: Collection[int]
    env: dict[str, str | None]


def lane_options(
    *,
    size: int,
    memory_limit: int | str | None = None,
    nice: int | None = None,
    cpu_affinity: Collection[int] | None = None,
    threads: int | None = None,
) -> LaneOptions:
    """Return what the process of each lane is to be like.

    Args:
        size: How many lanes there are.
        memory_limit, nice, cpu_affinity: As of a child; None leaves it as it is.
        threads: How many threads numerical libraries may have; None shares the CPUs among lanes,
            unless the environment says it already.

    Raises:
        TypeError: The threads are no whole number.
        ValueError: They are below 1.
        BadChildSpecError: The other options are not those of a child.
    """
    from noex_mp.supervision.validate import validate_child

    # An initializer may load for minutes, as in the standard library.
    options: LaneOptions = {"init_timeout": None}
    if memory_limit is not None:
        options["memory_limit"] = memory_limit
    if nice is not None:
        options["nice"] = nice
    if cpu_affinity is not None:
        options["cpu_affinity"] = cpu_affinity
    if threads is None:
        share = str(max(1, default_size() // size))
        options["env"] = {name: os.environ.get(name, share) for name in THREAD_VARIABLES}
    else:
        options["env"] = dict.fromkeys(THREAD_VARIABLES, str(check_count("threads", threads)))
    # Now, and not at the first task.
    validate_child(child(Lane, None, ()).options(**options))
    return options


class Lanes:
    """The processes of a pool, under one supervisor, which starts each again when it dies."""

    def __init__(
        self,
        size: int,
        initializer: FunctionCode | None = None,
        initargs: tuple[Any, ...] = (),
        **options: Unpack[LaneOptions],
    ) -> None:
        """Describe them.

        Args:
            size: How many.
            initializer: Is called first in each, with its arguments.
            initargs: These.
            options: What each process is to be like, as of any child.
        """
        self._options = options
        self._next = size
        self._size = size
        self._initializer = initializer
        self._initargs = initargs
        self._supervisor: SupervisorRef | None = None

    async def start(self) -> list[Ref[Lane]]:
        """Start all of them on the current node, and return their addresses."""
        # A task that ends its process is no reason to give up, however often it comes. A dynamic
        # one stops its children at once.
        self._supervisor = await start_supervisor(
            DynamicSupervisor(max_restarts=None, max_failed_inits=3)
        )
        try:
            # All at once: unlike children of a tree, they do not need each other.
            return await self._supervisor.start_children([self._spec(n) for n in range(self._size)])
        except BaseException:
            await self._supervisor.stop()
            raise

    def _spec(self, number: int) -> ChildSpec[Lane]:
        lane = child(Lane, self._initializer, self._initargs)
        return lane.options(id=f"lane-{number}", **self._options)

    async def add(self) -> Ref[Lane]:
        """Start one more, and return its address once it can run tasks."""
        assert self._supervisor is not None
        number, self._next = self._next, self._next + 1
        ref: Ref[Lane] = await self._supervisor.start_child(self._spec(number))
        return ref

    async def remove(self, ref: Ref[Lane]) -> None:
        """Stop one for good; it has nothing to do any more."""
        assert self._supervisor is not None
        await self._supervisor.terminate_child(ref)

    async def stop(self, *, at_once: bool = False) -> None:
        """Stop all of them, and return once they have ended.

        Args:
            at_once: Kill them; else each finishes what it is at.
        """
        if self._supervisor is not None:
            await self._supervisor.stop(timeout=0.0 if at_once else None)
