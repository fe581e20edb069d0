"""`ShortCut`: whoever submits one short task at a time reads the reply itself.

The thread of the executor would have to wake up for the reply, and then to wake who waits for it:
that takes as long as a short task. So, after some tasks that were awaited like this, the thread
leaves the link of the lane alone, and who waits looks there, a moment at most.

It is a loan, and goes back as soon as things are different: a task that is not short, a second one
on its way, a callback, a lane that is gone. Who does anything else instead of waiting (`wait`,
`as_completed`) is found out by the thread, which looks now and then; who does so often gets the
loan ever more rarely.

A wait can be interrupted, by Ctrl-C for one, and has then disturbed nothing. What is interrupted in
the midst of reading may be half done: that link is closed, and the lane gets another, as after any
other loss of a link (see `node.directory`).
"""

from __future__ import annotations

import select
from collections.abc import Callable
from contextvars import copy_context
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from noex_mp.pools.dispatcher import Line
    from noex_mp.pools.task_future import FutureJob
    from noex_mp.transport.link import Link
    from noex_mp.transport.shared_loop import SharedLoop

__all__ = ["MOMENT", "ShortCut"]

Poll = Callable[[float], list[tuple[int, int]]]

MOMENT: Final = 2e-3
"""So long, in seconds, a thread looks for a reply; others then do."""

LOOK_EVERY: Final = 5e-3
"""How often the thread looks whether its link is in use, in seconds: longer than a moment."""

PATIENCE: Final = 4
"""So many tasks in a row have to be awaited at once before the first loan."""

MOST: Final = 1024
"""And so many at most after loans that were of no use."""


class ShortCut:
    """The loan of a lane's link.

    Args:
        loop: The loop of the executor's thread; this is made in a context of that thread.

    Attributes:
        line: The lane whose link is lent.
        is_reading: Whether its user reads just now; with the lock of the loop.
        patience: So many tasks in a row have to be awaited at once before the next loan.
    """

    def __init__(self, loop: SharedLoop) -> None:
        self._loop = loop
        # What is read belongs to the node of the thread, whoever reads it.
        self._context = copy_context()
        # What waits for the link, in the hands of one thread at a time. Each loan has its own.
        self._polls: list[Poll] = []
        self.line: Line | None = None
        self._link: Link | None = None
        # The lane of the last task that was awaited at once, and how many these were in a row.
        self._last: Line | None = None
        self._waits = 0
        self.patience = PATIENCE
        self._was_used = False
        self._timer: Any = None
        self.is_reading = False

    def take(self, job: FutureJob, seconds: float) -> None:
        """Wait for a task here, if it is a short one and alone; then there may be a result.

        Args:
            seconds: How long at most.
        """
        line = job.line
        if line is None:
            return
        if line is not self.line and not (self._is_worth_it(line) and self._borrow(line)):
            return
        polls = self._polls
        try:
            poll = polls.pop()
        except IndexError:
            # Another thread waits for the same task.
            return
        try:
            self._wait(job, line, poll, max(0, int(seconds * 1000)))
        finally:
            polls.append(poll)

    def give_back(self) -> None:
        """Let the thread read the link again; with the lock."""
        link = self._link
        if link is None:
            return
        # First this: what is interrupted in here is done again, by the timer for one.
        self._loop.take_back(link.fd)
        self.line = self._link = None
        self._waits = 0
        self._timer.cancel()

    def _is_worth_it(self, line: Line) -> bool:
        if line.in_flight != 1 or line.depth == 1 or line is not self._last:
            # One that may have several at a time has short ones.
            self._last = line
            self._waits = 0
            return False
        self._waits += 1
        return self._waits >= self.patience

    def _borrow(self, line: Line) -> bool:
        with self._loop.lock:
            self.give_back()
            link = line.route.link
            if link is None or link.closed or line.in_flight != 1:
                return False
            poll = select.poll()
            poll.register(link.fd, select.POLLIN)
            self._polls = [poll.poll]
            self._timer = self._loop.call_later(LOOK_EVERY, self._see_if_used)
            self._link, self.line = link, line
            self._loop.lend(link.fd)
            return True

    def _see_if_used(self) -> None:
        line = self.line
        if line is None:
            return
        if self._was_used:
            self._was_used = False
            self._timer = self._loop.call_later(LOOK_EVERY, self._see_if_used)
            return
        if line.in_flight:
            self.patience = min(MOST, 2 * self.patience)
        self.give_back()

    def _wait(self, job: FutureJob, line: Line, poll: Poll, milliseconds: int) -> None:
        link, loop, arrival = self._link, self._loop, job.future.arrival
        while arrival.job is not None:
            self._was_used = True
            is_there = poll(milliseconds)
            with loop.lock:
                if link is None or self._link is not link:
                    return
                if not is_there:
                    self.give_back()
                    return
                self.is_reading = True
                try:
                    self._context.run(link.read)
                except BaseException as error:
                    self._drop(link, job, line, error)
                    raise
                finally:
                    self.is_reading = False
                if link.closed or line.in_flight:
                    self.give_back()
                loop.wake_if_needed()

    def _drop(self, link: Link, job: FutureJob, line: Line, error: BaseException) -> None:
        """Use a link no more whose reading a signal handler has interrupted."""
        self.give_back()
        link.close()
        line.count_anew()
        if job.future.arrival.job is not None and not line.route.jobs_of(job.future):
            # The result was read, and is lost.
            job.lose(error)
        self._loop.wake_if_needed()
