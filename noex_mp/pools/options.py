"""What a task may be told besides its arguments."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from typing import Final, TypedDict, TypeGuard

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
    check_priority(checked.priority)
    _check_timeout(checked.timeout)
    _check_retries(checked.retries)
    return replace(checked, memory_limit=_checked_memory_limit(checked.memory_limit))


def _check_timeout(timeout: object) -> None:
    text = f"expected timeout to be seconds above 0, or None, got {timeout!r:.60}"
    if timeout is None:
        return
    if isinstance(timeout, bool) or not isinstance(timeout, int | float):
        raise TypeError(text)
    # What is not a number is not above 0 either.
    if not timeout > 0:
        raise ValueError(text)


def _check_retries(retries: object) -> None:
    text = f"expected retries to be a whole number from 0 on, got {retries!r:.60}"
    if not _is_int(retries):
        raise TypeError(text)
    if retries < 0:
        raise ValueError(text)


def _checked_memory_limit(given: object) -> int | None:
    if given is None:
        return None
    text = f'expected memory_limit as bytes or "500MB", got {given!r:.60}'
    if isinstance(given, bool) or not isinstance(given, int | str):
        raise TypeError(text)
    if sys.platform != "linux":
        raise ValueError("only Linux has memory_limit=; leave it out")
    limit = in_bytes(given)
    if limit is None or limit <= 0:
        raise ValueError(text)
    return limit


def check_priority(priority: object) -> None:
    """See that this is a priority.

    Raises:
        TypeError: It is no whole number.
    """
    if not _is_int(priority):
        raise TypeError(f"expected priority to be a whole number, got {priority!r:.60}")


def _is_int(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)
