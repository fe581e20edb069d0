"""`TaskQueue`: what waits, the highest priority first, and in its order within one."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Generic, Protocol, TypeVar

from noex_mp.pools.options import TaskOptions

__all__ = ["TaskQueue"]


class _WithOptions(Protocol):
    options: TaskOptions


T = TypeVar("T", bound=_WithOptions)


class TaskQueue(Generic[T]):
    """Tasks that wait."""

    def __init__(self) -> None:
        self._levels: dict[int, deque[T]] = {0: deque()}
        # Highest first.
        self._order = [self._levels[0]]

    def __len__(self) -> int:
        return sum(len(level) for level in self._order)

    def __bool__(self) -> bool:
        return any(self._order)

    def __iter__(self) -> Iterator[T]:
        for level in self._order:
            yield from level

    def append(self, task: T) -> None:
        """Put a task behind all others of its priority."""
        self._level(task.options.priority).append(task)

    def appendleft(self, task: T) -> None:
        """Put a task before all others of its priority."""
        self._level(task.options.priority).appendleft(task)

    def popleft(self) -> T:
        """Take out the next task.

        Raises:
            IndexError: There is none.
        """
        for level in self._order:
            if level:
                return level.popleft()
        raise IndexError("no task waits")

    def remove(self, task: T) -> None:
        """Take out a task that is there."""
        self._level(task.options.priority).remove(task)

    def clear(self) -> None:
        """Forget all of them."""
        for level in self._order:
            level.clear()

    def _level(self, priority: int) -> deque[T]:
        level = self._levels.get(priority)
        if level is None:
            level = self._levels[priority] = deque()
            self._order = [self._levels[p] for p in sorted(self._levels, reverse=True)]
        return level
