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
    """Tasks that wait.

    Attributes:
        count: How many. (What asks at each result whether there are any asks for this: to call
            `__len__` takes ten times as long.)
    """

    def __init__(self) -> None:
        self.count = 0
        # Those without a priority, which most have none of.
        self._plain: deque[T] = deque()
        # All that are not empty, and the plain one.
        self._levels: dict[int, deque[T]] = {0: self._plain}
        # Highest first.
        self._order = [0]

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[T]:
        for priority in list(self._order):
            yield from self._levels[priority]

    def append(self, task: T) -> None:
        """Put a task behind all others of its priority."""
        self._level(task.options.priority).append(task)
        self.count += 1

    def appendleft(self, task: T) -> None:
        """Put a task before all others of its priority."""
        self._level(task.options.priority).appendleft(task)
        self.count += 1

    def popleft(self) -> T:
        """Take out the next task.

        Raises:
            IndexError: There is none.
        """
        priority = self._order[0]
        level = self._levels[priority]
        if not level and len(self._order) > 1:
            # The plain one is the only one that may be empty.
            priority = self._order[1]
            level = self._levels[priority]
        task = level.popleft()
        self.count -= 1
        if not level:
            self._forget(priority)
        return task

    def remove(self, task: T) -> None:
        """Take out a task that is there."""
        priority = task.options.priority
        self._levels[priority].remove(task)
        self.count -= 1
        if not self._levels[priority]:
            self._forget(priority)

    def clear(self) -> None:
        """Forget all of them."""
        self.count = 0
        for priority in list(self._order):
            self._levels[priority].clear()
            self._forget(priority)

    def _level(self, priority: int) -> deque[T]:
        level = self._levels.get(priority)
        if level is None:
            level = self._levels[priority] = deque()
            self._order = sorted(self._levels, reverse=True)
        return level

    def _forget(self, priority: int) -> None:
        if priority:
            del self._levels[priority]
            self._order.remove(priority)
