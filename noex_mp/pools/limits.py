"""What the options of a pool may be, with errors that say so."""

from __future__ import annotations

from noex_mp.pools.lanes import check_count
from noex_mp.pools.recycling import RecyclingRules

__all__ = ["check_grace", "check_initializer", "recycling_rules"]


def check_grace(grace: object) -> float:
    """Return how long a task that is to stop has after each step, in seconds.

    Raises:
        TypeError: It is no number.
        ValueError: It is below 0.

    >>> check_grace(1)
    1.0
    """
    if isinstance(grace, bool) or not isinstance(grace, int | float):
        raise TypeError(f"expected grace to be a number of seconds, got {grace!r:.60}")
    # What is not a number is neither.
    if not grace >= 0:
        raise ValueError(f"expected grace to be 0 seconds or more, got {grace!r}")
    return float(grace)


def check_initializer(initializer: object, initargs: object) -> None:
    """See that this can be called in each process of a pool.

    Raises:
        TypeError: It cannot, or its arguments are no tuple.
    """
    if initializer is not None and not callable(initializer):
        raise TypeError(f"initializer must be a callable, got {initializer!r:.60}")
    if not isinstance(initargs, tuple | list):
        raise TypeError(f"expected initargs to be a tuple, as in (1, 2), got {initargs!r:.60}")


def recycling_rules(
    max_tasks: int | None, max_age: object, memory_limit: object = None
) -> RecyclingRules:
    """Return when the processes of a pool are replaced.

    Raises:
        TypeError: One is no number.
        ValueError: One is too small.

    >>> bool(recycling_rules(None, None)), recycling_rules(2, None).max_tasks
    (False, 2)
    """
    if max_tasks is not None:
        check_count("max_tasks_per_child", max_tasks)
    if max_age is None:
        return RecyclingRules(max_tasks, when_full=memory_limit is not None)
    if isinstance(max_age, bool) or not isinstance(max_age, int | float):
        raise TypeError(f"expected max_age to be a number of seconds, got {max_age!r:.60}")
    if not max_age > 0:
        raise ValueError(f"expected max_age to be above 0 seconds, got {max_age!r}")
    return RecyclingRules(max_tasks, float(max_age), when_full=memory_limit is not None)
