"""What the options of a pool may be, with errors that say so."""

from __future__ import annotations

__all__ = ["check_grace"]


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
