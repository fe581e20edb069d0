"""What is asked of the router of a pool, besides what its servers can do, and what it tells."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from noex_mp.core.messages import Call
from noex_mp.core.operations import MAX_DELIVERIES
from noex_mp.errors import WorkerExitedError
from noex_mp.pools.backlog import Discard

__all__ = [
    "SAID",
    "TO_MEMBERS",
    "TO_POOL",
    "Broadcast",
    "Drain",
    "GetStatistics",
    "LaneExitedError",
    "LimitQueue",
    "PoolRequest",
    "PoolStatistics",
    "Resize",
    "RestartAll",
    "StopTask",
    "ToPool",
]

SAID: Final = "noex_mp.pool"
"""The keyword argument in which a message says what its sender wants of the pool.

That is a list: its priority, how long it may wait, its key, and how long its task may run.
"""


class ToPool:
    """The operation that a pool has, and no server: it takes one of the requests here."""

    name = "noex_mp.pool"

    def __init__(self, *, idempotent: bool) -> None:
        self.idempotent = idempotent
        self.max_deliveries = MAX_DELIVERIES


TO_POOL: Final = ToPool(idempotent=True)
"""For what the next router does once more, if this one dies in the middle of it."""

TO_MEMBERS: Final = ToPool(idempotent=False)
"""For what is passed on to the members."""


@dataclass(frozen=True)
class PoolStatistics:
    """A pool at one moment.

    Attributes:
        size: How many servers it has, without those that are leaving.
        up: How many of them take messages just now; the others start, or start again.
        in_flight: How many messages they have.
        waiting: How many wait for one of them.
        oldest: For how long the oldest of these has waited, in seconds.
        done: How many have left the pool since its router has started, in whichever way.
        discarded: How many of them for want of room, or of time.
    """

    size: int
    up: int
    in_flight: int
    waiting: int
    oldest: float
    done: int
    discarded: int


class Resize(Call[int], frozen=True):
    """Have so many members; the reply is how many there were."""

    size: int


class RestartAll(Call[int], frozen=True):
    """Replace all members, one by one; the reply is how many."""


class Drain(Call[None], frozen=True):
    """Reply when all that was sent before is done."""


class Broadcast(Call[list[Any]], frozen=True):
    """Send an operation to all members; the reply is theirs."""

    operation: str
    args: list[Any]
    kwargs: dict[str, Any]


class LimitQueue(Call[None], frozen=True):
    """Let no more messages wait than that."""

    limit: int | None
    discard: Discard | None


class StopTask(Call[None], frozen=True):
    """Stop a task, wherever it is; its own call says then how far one had to go."""

    number: int


class GetStatistics(Call[PoolStatistics], frozen=True):
    """How the pool is."""


PoolRequest = Resize | RestartAll | Drain | Broadcast | LimitQueue | StopTask | GetStatistics
"""All of these."""


class LaneExitedError(WorkerExitedError):
    """The lane has ended that had begun the task.

    Only the router raises it, and only to who has sent the task, who makes a `WorkerExitedError` of
    it. So it is told from what a task raises, which may be a death that it has heard of.
    """
