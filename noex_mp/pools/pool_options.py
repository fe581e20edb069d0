"""What can be said of a pool of servers, as its router is told it: plain data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from inspect import iscoroutinefunction
from typing import Any

from noex_mp.pools.backlog import Discard
from noex_mp.pools.functions import FunctionCode, pack_function
from noex_mp.pools.lanes import check_size
from noex_mp.pools.recycling import NEVER, RecyclingRules
from noex_mp.pools.routing import ROUTINGS, Routing

__all__ = ["PoolOptions", "check_bounds", "check_limit", "check_seconds"]


@dataclass(frozen=True)
class PoolOptions:
    """How a pool is run.

    Attributes:
        size: How many members it starts with.
        bounds: How few and how many it may have, or None if it is not for the pool to say.
        scale_after: How long a message may wait before there is one member more, in seconds.
        routing: Who gets a message: a rule by its name, or a function of the user's.
        key: Returns the key of a message; None: it is what the operation's first parameter gets.
        in_flight: How many messages a member has at a time.
        limit: How many messages may wait.
        discard: Which goes where more do.
        ttl: How long a message may wait, in seconds.
        grace: How long a task that is to stop has after each step, in seconds; None where members
            run no tasks.
        rules: When a member is replaced.
    """

    size: int
    bounds: tuple[int, int] | None = None
    scale_after: float = 1.0
    routing: Routing | FunctionCode = "least_busy"
    key: FunctionCode | None = None
    in_flight: int = 1
    limit: int | None = None
    discard: Discard = "newest"
    ttl: float | None = None
    grace: float | None = None
    rules: RecyclingRules = NEVER


def packed_routing(routing: object) -> Routing | FunctionCode:
    """Return a rule as it travels.

    Raises:
        TypeError: The function is `async`.
        ValueError: There is no such rule.
        UnencodableError: The function cannot be sent.
    """
    if callable(routing):
        return _packed("routing", routing)
    if routing in ROUTINGS:
        found: Any = routing
        return found  # type: ignore[no-any-return]
    rules = ", ".join(f'"{each}"' for each in ROUTINGS)
    raise ValueError(f"expected routing to be {rules} or a function, got {routing!r:.60}")


def packed_key(key: Callable[..., object] | None, routing: object) -> FunctionCode | None:
    """Return what finds the key of a message, as it travels.

    Raises:
        ValueError: The pool has no use for keys.
        TypeError: That cannot be called, or is `async`.
        UnencodableError: The function cannot be sent.
    """
    if key is None:
        return None
    if routing != "key":
        raise ValueError(f'key= is for routing="key", got routing={routing!r:.60}')
    return _packed("key", key)


def _packed(option: str, function: Callable[..., object]) -> FunctionCode:
    if iscoroutinefunction(function):
        raise TypeError(
            f"expected {option} to be a plain function, got the async {function!r:.60}\n"
            f"The pool cannot wait while it decides."
        )
    return pack_function(function)


def bounds_of(
    size: int | None, min_size: int | None, max_size: int | None
) -> tuple[int, tuple[int, int] | None]:
    """Return how many members a pool starts with, and its bounds.

    Raises:
        TypeError: One of them is no whole number.
        ValueError: One of them is below 1, or more than there can be processes; or they contradict
            each other.
    """
    if min_size is None and max_size is None:
        return check_size("size", size), None
    low = check_size("min_size", 1 if min_size is None else min_size)
    high = check_size("max_size", max_size)
    start = low if size is None else check_size("size", size)
    check_bounds(start, low, high)
    return start, (low, high)


def check_bounds(size: int, low: int, high: int) -> None:
    """See that a pool may have so many members.

    Raises:
        ValueError: It may not.
    """
    if not low <= size <= high:
        raise ValueError(f"expected min_size <= size <= max_size, got {low}, {size}, {high}")


def check_limit(limit: object) -> None:
    """See that so many messages may wait.

    Raises:
        ValueError: It is no whole number above zero, nor None.
    """
    _check("limit", limit, (int,), "a whole number of messages")


def check_seconds(option: str, seconds: object, *, may_be_none: bool = True) -> None:
    """See that this is a time.

    Raises:
        ValueError: It is no number above zero, nor None where that has a meaning.
    """
    _check(option, seconds, (int, float), "seconds", may_be_none=may_be_none)


def _check(
    option: str, value: Any, kinds: tuple[type[float], ...], unit: str, *, may_be_none: bool = True
) -> None:
    if value is None and may_be_none:
        return
    # Not the other way round: nothing is above nan, nor below.
    if not isinstance(value, kinds) or isinstance(value, bool) or not value > 0:
        rest = ", or None" if may_be_none else ""
        raise ValueError(f"expected {option} to be {unit} above zero{rest}, got {value!r:.60}")


def check_discard(discard: object) -> None:
    """See that this says which message goes.

    Raises:
        ValueError: It does not.
    """
    if discard not in ("oldest", "newest"):
        raise ValueError(f'expected discard to be "oldest" or "newest", got {discard!r:.60}')
