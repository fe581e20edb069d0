"""Which member of a pool gets a message, and how many members there are to be: pure decisions."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from inspect import Parameter, signature
from typing import TYPE_CHECKING, Final, Literal, Protocol, TypeAlias, TypeVar
from zlib import crc32

if TYPE_CHECKING:
    from noex_mp.core.operations import OperationInfo

__all__ = [
    "ROUTINGS",
    "Routing",
    "by_key",
    "first_parameter",
    "least_busy",
    "next_in_turn",
    "scaled",
]

Routing: TypeAlias = Literal["least_busy", "round_robin", "key", "sticky"]
"""Who gets a message: a member that has the least to do; each in turn; always the same for one key;
always the same for one caller."""

ROUTINGS: Final[tuple[Routing, ...]] = ("least_busy", "round_robin", "key", "sticky")


class Seat(Protocol):
    """What a decision needs to know of a member."""

    @property
    def number(self) -> int:
        """No other has it."""
        ...

    @property
    def in_flight(self) -> int:
        """How many messages it has."""
        ...

    @property
    def has_room(self) -> bool:
        """Whether it may have one more."""
        ...


M = TypeVar("M", bound=Seat)


def least_busy(members: Sequence[M]) -> M | None:
    """Return the member with room that has the least to do; of several, the first."""
    free = [member for member in members if member.has_room]
    return min(free, key=lambda member: member.in_flight, default=None)


def next_in_turn(members: Sequence[M], last: int) -> M | None:
    """Return the member with room whose turn it is, behind the one that was the last."""
    turns = [member.number for member in members]
    start = turns.index(last) + 1 if last in turns else 0
    ahead = [*members[start:], *members[:start]]
    return next((member for member in ahead if member.has_room), None)


def by_key(key: bytes, numbers: Sequence[int]) -> int:
    """Return which of some members a key belongs to.

    When one comes, it takes over some keys; when one goes, its keys go to the others; all other
    keys stay where they are.

    >>> before = [by_key(b"%d" % n, (1, 2, 3)) for n in range(100)]
    >>> after = [by_key(b"%d" % n, (1, 2, 3, 4)) for n in range(100)]
    >>> {new for old, new in zip(before, after) if old != new}
    {4}
    """
    # Mixed once more: of such short texts the checksums differ too little.
    return max(numbers, key=lambda number: (_mixed(crc32(key) ^ _mixed(number)), number))


@cache
def first_parameter(info: OperationInfo) -> Parameter | None:
    """Return the first parameter of an operation, of those that its callers give; None if none."""
    parameters = [*signature(info.function).parameters.values()]
    return next(iter(parameters[1 + info.wants_sender :]), None)


def _mixed(number: int) -> int:
    # The finish of murmur3: each bit of what comes in decides on half of what goes out.
    number &= 0xFFFFFFFF
    number = (number ^ (number >> 16)) * 0x85EBCA6B & 0xFFFFFFFF
    number = (number ^ (number >> 13)) * 0xC2B2AE35 & 0xFFFFFFFF
    return number ^ (number >> 16)


def scaled(
    size: int,
    bounds: tuple[int, int],
    *,
    age: float,
    idle: float,
    has_free: bool,
    scale_after: float,
) -> int:
    """Return how many members there are to be.

    One more where a message has waited too long, unless a member has nothing to do: what waits
    then is for another, and one more would not get it either. One less where nothing waits that
    long, and the youngest has had nothing to do for ten times as long: to start one costs more
    than to keep one.

    >>> scaled(4, (2, 8), age=2.0, idle=0.0, has_free=False, scale_after=1.0)
    5
    >>> scaled(4, (2, 8), age=0.0, idle=10.0, has_free=True, scale_after=1.0)
    3

    Args:
        size: How many there are.
        bounds: How few and how many there may be.
        age: For how long the oldest message has waited, in seconds.
        idle: For how long the youngest has had nothing to do, in seconds.
        has_free: Whether one of them has nothing to do.
        scale_after: How long is too long, in seconds.
    """
    low, high = bounds
    if age >= scale_after:
        size += not has_free
    elif idle >= 10 * scale_after:
        size -= 1
    return max(low, min(high, size))
