"""What a task may be told besides its arguments."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from typing import Final, TypedDict

from noex_mp.core.memory_sizes import in_bytes

__all__ = ["NONE", "TaskOptions", "TaskOptionsDict", "check_priority", "task_options"]


class TaskOptionsDict(TypedDict, total=False):
    """The options of a task, as keyword arguments; see `TaskOptions`."""

    timeout: float | None
    retries: int
    priority: int
    memory_limit: int | str | None


@dataclass(frozen=True, slots=True)
class TaskOptions:
    """The options of a task.

    Attributes:
        timeout: How long it may run, in seconds; None is for ever.
        retries: How often it is run again after the death of a process that had begun it.
        priority: Tasks of a higher one begin before those of a lower one that wait.
        memory_limit: How much memory it may take, beyond what its process has, in bytes or as
            `"500MB"`: a task that asks for more fails with `MemoryError`. None sets no limit.
        seed: Set by a pool with a seed: which of its calls the task belongs to, and the number of
            the first task there.
    """

    timeout: float | None = None
    retries: int = 0
    priority: int = 0
    memory_limit: int | str | None = None
    seed: tuple[str, int] | None = None


NONE: Final = TaskOptions()
"""Those of a task without any."""


def task_options(options: TaskOptionsDict) -> TaskOptions:
    """Return options, checked.

    Raises:
        TypeError: There is no such option, or its value is of another type.
        ValueError: Its value is out of range.
    """
    known = tuple(TaskOptionsDict.__annotations__)
    if unknown := [name for name in options if name not in known]:
        raise TypeError(f"a task has no option {', '.join(unknown)}; there are: {', '.join(known)}")
    checked = TaskOptions(**options)
    timeout, retries, priority = checked.timeout, checked.retries, checked.priority
    if timeout is not None and not (_is_number(timeout) and timeout > 0):
        raise ValueError(f"expected timeout to be seconds above 0, or None, got {timeout!r:.60}")
    if not _is_int(retries) or retries < 0:
        raise ValueError(f"expected retries to be a whole number from 0 on, got {retries!r:.60}")
    if checked.memory_limit is not None:
        if sys.platform != "linux":
            raise ValueError("only Linux has memory_limit=; leave it out")
        given = checked.memory_limit
        limit = in_bytes(given)
        if limit is None or limit <= 0:
            raise ValueError(f'expected memory_limit as bytes or "500MB", got {given!r:.60}')
        checked = replace(checked, memory_limit=limit)
    check_priority(priority)
    return checked


def check_priority(priority: object) -> None:
    """See that this is a priority.

    Raises:
        TypeError: It is no whole number.
    """
    if not _is_int(priority):
        raise TypeError(f"expected priority to be a whole number, got {priority!r:.60}")


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
