"""Replaces the processes of a pool after some tasks, or some time: what leaks, leaks no further.

One process more than the pool has lanes stands by, its initializer included. A lane that is due
gets no further task, and the one that stands by takes its place at once; the old one is stopped
when it has finished what it had, and another is started to stand by. So there are never fewer
processes than the pool has lanes, also when one ends by itself since it has too much memory.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import weakref
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from noex_mp.errors import NoexError, PreloadError, StartError

if TYPE_CHECKING:
    from noex_mp.core.ref import Ref
    from noex_mp.pools.dispatcher import Dispatcher, Line
    from noex_mp.pools.lane import Lane
    from noex_mp.pools.lanes import Lanes

__all__ = ["JITTER", "NEVER", "Recycler", "RecyclingRules", "age_of", "tasks_of"]

JITTER: Final = 0.1
"""So much earlier, as a part of its age, one process is replaced than another, at most."""


@dataclass(frozen=True)
class RecyclingRules:
    """When the processes of a pool are replaced.

    Attributes:
        max_tasks: After so many tasks; None is never. Tasks that travel together count as one.
        max_age: After so many seconds; None is never.
        when_full: They end by themselves when they have too much memory.
    """

    max_tasks: int | None = None
    max_age: float | None = None
    when_full: bool = False

    def __bool__(self) -> bool:
        return self.max_tasks is not None or self.max_age is not None or self.when_full

    def tasks_of_one(self) -> int | None:
        """Return after how many tasks one of them is replaced, as chance has it; None is never."""
        return None if self.max_tasks is None else tasks_of(self.max_tasks, random.random())

    def age_of_one(self) -> float | None:
        """Return after how many seconds one of them is replaced, likewise."""
        return None if self.max_age is None else age_of(self.max_age, random.random())


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


def tasks_of(max_tasks: int, chance: float) -> int:
    """Return after how many tasks a process is replaced: not all of them at the same time.

    >>> tasks_of(1000, chance=0.0), tasks_of(1000, chance=0.5), tasks_of(2, chance=0.9)
    (1000, 950, 2)
    """
    return max_tasks - int(max_tasks * JITTER * chance)


class Recycler:
    """Replaces the lanes of a dispatcher, by one that stands by.

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
        run: Callable[[Coroutine[Any, Any, None]], asyncio.Future[None]],
    ) -> None:
        self._dispatcher = dispatcher
        self._lanes = lanes
        self._rules = rules
        self._run = run
        # What is on its way, so that nobody collects it.
        self._running: set[asyncio.Future[None]] = set()
        self._spare: Ref[Lane] | None = None
        self._starting = 0
        # Since the last start began.
        self._is_wanted = False
        # The lanes that get no further task, and have nobody yet to take their place.
        self._waiting: list[Line] = []

    @property
    def has_spare(self) -> bool:
        """Whether one stands by."""
        return self._spare is not None

    def watch(self, line: Line) -> None:
        """Replace a lane when it is due."""
        line.tasks_left = self._rules.tasks_of_one()
        age = self._rules.age_of_one()
        if age is not None:
            # The pool may have been stopped long before, and is not to be kept for that.
            self._dispatcher.loop.call_later(age, _retire, weakref.ref(line))

    def prepare(self) -> None:
        """Start one that stands by, and one for each lane that waits for another."""
        while self._starting < len(self._waiting) + (self._spare is None):
            self._is_wanted = False
            self._starting += 1
            self._keep(self._start())

    # From here they go on in the loop's own thread, and not in the midst of handing out tasks.

    def want_spare(self) -> None:
        """Try once more to have one stand by, should the last one not have started."""
        self._dispatcher.loop.call_soon_threadsafe(self._try_again)

    def _try_again(self) -> None:
        self._is_wanted = True
        self.prepare()

    def replace(self, line: Line) -> None:
        """Let another take the place of a lane that gets no further task."""
        self._dispatcher.loop.call_soon_threadsafe(self._begin, line)

    def _begin(self, line: Line) -> None:
        self._waiting.append(line)
        spare, self._spare = self._spare, None
        if spare is not None:
            self._is_there(spare)
        self.prepare()

    async def _start(self) -> None:
        try:
            ref = await self._lanes.add()
        except (StartError, PreloadError):
            # The old ones are better than none; what the initializer has raised is in the log.
            self._starting -= 1
            waiting, self._waiting = self._waiting, []
            for line in waiting:
                line.come_out_of_retirement()
            if self._is_wanted:
                self.prepare()
        except NoexError:
            # The pool has been stopped.
            return
        else:
            self._starting -= 1
            self._is_there(ref)

    def _is_there(self, ref: Ref[Lane]) -> None:
        if self._waiting:
            line = self._waiting.pop(0)
            self._dispatcher.add(ref)
            self._keep(self._dismiss(line))
        elif self._spare is None:
            self._spare = ref
            self._dispatcher.retire_one_that_is_down()
        else:
            # The lane for which it was started goes on, since another did not start.
            self._keep(self._remove(ref))

    async def _dismiss(self, line: Line) -> None:
        await line.idle()
        self._dispatcher.remove(line)
        await self._remove(line.ref)

    async def _remove(self, ref: Ref[Lane]) -> None:
        # The pool may have been stopped.
        with contextlib.suppress(NoexError):
            await self._lanes.remove(ref)

    def _keep(self, work: Coroutine[Any, Any, None]) -> None:
        running = self._run(work)
        self._running.add(running)
        running.add_done_callback(self._running.discard)


def _retire(old: weakref.ref[Line]) -> None:
    line = old()
    if line is not None and not line.is_retired:
        line.retire()
