"""How many bytes values have, roughly and quickly: not what it costs to send them.

To look at each would cost more than many a task. So of several the first and the last stand for
all, and of what a value holds likewise.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

__all__ = ["weight", "weight_of_all"]


def weight(value: Any) -> int:
    """Return how many bytes a value has, without what it holds.

    >>> weight(bytes(1000)) >= 1000, weight([bytes(1000)]) < 100
    (True, True)
    """
    # Of what is not computed yet it may be no number.
    return int(getattr(value, "nbytes", 0)) or sys.getsizeof(value)


def weight_of_all(values: Sequence[Any]) -> int:
    """Return how many bytes some values have, with what lies directly in them.

    >>> weight_of_all([("label", bytes(1000))] * 10) >= 10_000, weight_of_all([])
    (True, 0)
    """
    try:
        return len(values) * max(_with_content(values[0]), _with_content(values[-1]))
    except Exception:  # there are none, or the user's own code answers
        return 0


def _with_content(value: Any) -> int:
    content = _content_of(value)
    if not content:
        return weight(value)
    ends = next(iter(content)), next(reversed(content))
    return weight(value) + len(content) * max(map(weight, ends))


def _content_of(value: Any) -> Any:
    cls = value.__class__
    if issubclass(cls, (list, tuple)):
        return value
    if issubclass(cls, dict):
        return value.values()
    return getattr(value, "__dict__", {}).values()
