"""`ShortCut`: whoever submits one short task at a time reads the reply itself.

The thread of the executor would have to wake up for the reply, and then to wake who waits for it:
that takes as long as a short task. So, after some tasks that were awaited like this, the thread
leaves the link of the lane alone, and who waits looks there, a moment at most.

It is a loan, and goes back as soon as things are different: a task that is not short, a second one
on its way, a `map`, a callback, a lane that is gone. Who does anything else instead of waiting in
`result` (`wait`, `as_completed`) is found out by the thread, which looks now and then, so that one
comes some milliseconds late; who does so often gets the loan ever more rarely.

A signal handler that raises (Ctrl-C) while its thread waits disturbs nothing. In the midst of
reading it may leave anything half done: then that task fails, the link is closed, and the lane gets
another, as after any other loss of a link (see `node.directory`).
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

Arrived = list[tuple["FutureJob", Any]]
"""Tasks that somebody has read the results of, who has still to tell their futures."""

Poll = Callable[[float], list[tuple[int, int]]]

MOMENT: Final = 2e-3
"""So long, in seconds, a thread looks for a reply; others then do."""

LOOK_EVERY: Final = 5e-3
"""How often the thread looks whether its link is in use, in seconds: longer than a moment."""

PATIENCE: Final = 4
"""So many tasks in a row have to be awaited at once before the first loan."""

MOST: Final = 1024
"""And so many at most, after loans that made somebody wait."""


class _Loan:
    """What somebody has who reads a link instead of the thread.

    Attributes:
        line: The lane.
        link: Its link.
        polls: What waits for it, in the hands of one thread at a time.
    """

    __slots__ = ("line", "link", "polls")

    def __init__(self, line: Line, link: Link) -> None:
        self.line = line
        self.link = link
        poll = select.poll()
        poll.register(link.fd, select.POLLIN)
        self.polls: list[Poll] = [poll.poll]


class ShortCut:
    """The loan of a lane's link, if there is one.

    Args:
        loop: The loop of the executor's thread; this is made in a context of that thread.

    Attributes:
        arrived: Takes results while who has the loan reads; with the lock of the loop.
        patience: So many tasks in a row have to be awaited at once before the next loan.
    """

    def __init__(self, loop: SharedLoop) -> None:
        self._loop = loop
        # What is read belongs to the node of the thread, whoever reads it.
        self._context = copy_context()
        self._loan: _Loan | None = None
        # The lane of the last task that was awaited at once, and how many these were in a row.
        self._last_line: Line | None = None
        self._waits = 0
        self.patience = PATIENCE
        self._was_used = False
        self._timer: Any = None
        self.arrived: Arrived | None = None

    @property
    def line(self) -> Line | None:
        """The lane whose link is lent."""
        return None if self._loan is None else self._loan.line

    def take(self, job: FutureJob, seconds: float) -> None:
        """Wait for a task here, if that is worth it; then there may be a result.

        Args:
            seconds: How long at most.
        """
        line, loan = job.line, self._loan
        if line is None:
            return
        if loan is None or loan.line is not line:
            loan = self._borrow(line) if self._is_worth_it(line) else None
            if loan is None:
                return
        try:
            poll = loan.polls.pop()
        except IndexError:
            # Another thread has it: for the same task, or it is about to leave with its own.
            with self._loop.lock:
                self.give_back()
            return
        try:
            self._wait(job, loan, poll, max(0, int(seconds * 1000)))
        finally:
            loan.polls.append(poll)

    def give_back(self) -> None:
        """Let the thread read the link again; with the lock."""
        loan = self._loan
        if loan is None:
            return
        # First this: what is interrupted in here is done again, by the timer for one.
        self._loop.take_back(loan.link.fd)
        loan.line.short_cut = self._loan = None
        self._waits = 0
        self._timer.cancel()

    def give_back_soon(self, line: Line) -> None:
        """Do so soon, if the link is that of a lane; from any thread, and without the lock."""
        if self.line is line:
            self._loop.call_soon_threadsafe(self.give_back)

    def _is_worth_it(self, line: Line) -> bool:
        if line.in_flight != 1 or line.depth == 1 or line is not self._last_line:
            # One that may have several at a time has short ones.
            self._last_line = line
            self._waits = 0
            return False
        self._waits += 1
        return self._waits >= self.patience

    def _borrow(self, line: Line) -> _Loan | None:
        with self._loop.lock:
            self.give_back()
            link = line.route.link
            if link is None or link.closed or line.in_flight != 1:
                return None
            loan = _Loan(line, link)
            self._timer = self._loop.call_later(LOOK_EVERY, self._see_if_used)
            self._loan, line.short_cut = loan, self
            self._loop.lend(link.fd)
            return loan

    def _see_if_used(self) -> None:
        loan = self._loan
        if loan is None:
            return
        if self._was_used:
            self._was_used = False
            self.patience = max(PATIENCE, self.patience - (self.patience >> 4))
            self._timer = self._loop.call_later(LOOK_EVERY, self._see_if_used)
            return
        if any(job.is_awaited() for _, job in loan.line.route.jobs_of(None)):
            self.patience = min(MOST, 2 * self.patience)
        self.give_back()

    def _wait(self, job: FutureJob, loan: _Loan, poll: Poll, milliseconds: int) -> None:
        arrival = job.future.arrival
        while arrival.job is not None:
            self._was_used = True
            is_there = poll(milliseconds)
            arrived: Arrived = []
            try:
                if not self._read(loan, arrived, is_there):
                    return
                for each, result in arrived:
                    # Without the lock: who holds that of the future may want this one.
                    if not each.future.take(result):
                        self._leave(arrived)
                        return
            except BaseException as error:
                self._drop(loan, job, arrived, error)
                raise

    def _leave(self, arrived: Arrived) -> None:
        for each, result in arrived:
            each.leave(result)
        with self._loop.lock:
            self._loop.wake_if_needed()

    def _read(self, loan: _Loan, arrived: Arrived, is_there: object) -> bool:
        """Read once if there is something; return whether the link is still lent."""
        loop, link, line = self._loop, loan.link, loan.line
        with loop.lock:
            if self._loan is not loan:
                return False
            if is_there:
                self.arrived = arrived
                try:
                    self._context.run(link.read)
                finally:
                    self.arrived = None
            if not is_there or link.closed or line.in_flight > 1:
                self.give_back()
            loop.wake_if_needed()
            return bool(is_there)

    def _drop(self, loan: _Loan, job: FutureJob, arrived: Arrived, error: BaseException) -> None:
        """Use a link no more whose reading a signal handler has interrupted."""
        with self._loop.lock:
            if self._loan is loan:
                self.give_back()
            loan.link.close()
            loan.line.count_anew()
            if all(each is not job for each, _ in arrived) and not loan.line.route.jobs_of(
                job.future
            ):
                job.lose(error)
        self._leave(arrived)
