"""Replaces the processes of a pool after some tasks, or some time: what leaks, leaks no further.

A lane that is due gets no further task. Its replacement is started first, its initializer
included; then the old one, which has finished what it had, is stopped. So there are never fewer
processes than the pool has lanes.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from noex_mp.errors import NoexError, StartError

if TYPE_CHECKING:
    from noex_mp.pools.dispatcher import Dispatcher, Line
    from noex_mp.pools.lanes import Lanes

__all__ = ["JITTER", "NEVER", "Recycler", "RecyclingRules", "age_of"]

JITTER: Final = 0.1
"""So much earlier, as a part of its age, one process is replaced than another, at most."""


@dataclass(frozen=True)
class RecyclingRules:
    """When the processes of a pool are replaced.

    Attributes:
        max_tasks: After so many tasks; None is never. Tasks that travel together count as one.
        max_age: After so many seconds; None is never.
    """

    max_tasks: int | None = None
    max_age: float | None = None

    def __bool__(self) -> bool:
        return self.max_tasks is not None or self.max_age is not None


NEVER: Final = RecyclingRules()
"""Processes stay as long as they live."""


def age_of(max_age: float, chance: float) -> float:
    """Return after how many seconds a process is replaced: not all of them at the same time.

    Args:
        max_age: After how many at most.
        chance: From 0 to 1.

    >>> age_of(100.0, chance=0.0), age_of(100.0, chance=0.5)
    (100.0, 95.0)
    """
    return max_age * (1 - JITTER * chance)


class Recycler:
    """Replaces the lanes of a dispatcher.

    Args:
        dispatcher: Gives them their tasks.
        lanes: Starts and stops them.
        rules: When to replace them.
        run: Runs a coroutine on the loop of the dispatcher.
    """

    def __init__(
        self,
        dispatcher: Dispatcher,
        lanes: Lanes,
        rules: RecyclingRules,
        run: Callable[[Coroutine[Any, Any, None]], object],
    ) -> None:
        self._dispatcher = dispatcher
        self._lanes = lanes
        self._rules = rules
        self._run = run
        # What is on its way, so that nobody collects it.
        self._running: set[object] = set()

    def watch(self, line: Line) -> None:
        """Replace a lane when it is due."""
        line.tasks_left = self._rules.max_tasks
        if self._rules.max_age is not None:
            age = age_of(self._rules.max_age, random.random())
            self._dispatcher.loop.call_later(age, self._is_too_old, line)

    def _is_too_old(self, line: Line) -> None:
        if not line.is_retired:
            line.retire()

    def replace(self, line: Line) -> None:
        """Begin to replace a lane that gets no further task."""
        # From the loop's own thread, and not in the midst of handing out tasks.
        self._dispatcher.loop.call_soon_threadsafe(self._begin, line)

    def _begin(self, line: Line) -> None:
        self._running.add(self._run(self._replace(line)))

    async def _replace(self, line: Line) -> None:
        dispatcher = self._dispatcher
        try:
            ref = await self._lanes.add()
        except StartError:
            # The old one is better than none; what its initializer has raised is in the log.
            line.come_out_of_retirement()
            return
        except NoexError:
            # The pool has been stopped.
            return
        dispatcher.add(ref)
        await line.idle()
        dispatcher.remove(line)
        # Likewise.
        with contextlib.suppress(NoexError):
            await self._lanes.remove(line.ref)
