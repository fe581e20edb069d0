"""How a task is stopped that was sent already: step by step, until it has ended.

`Stoppable` takes the place of a task's `Job` in the route to its lane, when somebody wants to stop
it, and from the beginning if it has a time limit. So tasks that nobody stops pay nothing.

The root is asked for one rung after the other (see `core.stop_requests`), with a grace between
them, and does nothing if the task has ended meanwhile: then its result is on the way here. Whatever
a task returns or raises that somebody wanted to stop, it counts as stopped.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from noex_mp.core.stop_requests import EXCEPTION, TOKEN, next_rung
from noex_mp.errors import (
    NodeDownError,
    NoServerError,
    Rung,
    TaskCancelledError,
    TaskTimedOutError,
    WorkerExitedError,
)
from noex_mp.pools.current_task import rung_name
from noex_mp.pools.dispatcher import Job
from noex_mp.pools.functions import name_of_code
from noex_mp.pools.options import NONE

if TYPE_CHECKING:
    from noex_mp.client.client import Client
    from noex_mp.core.reasons import ExitReport

__all__ = ["Stoppable", "rung_reached", "time_left"]

# How early a timer may come, in seconds.
EARLY: Final = 0.001


def rung_reached(asked: int, error: BaseException | None) -> Rung:
    """Return which rung it took to stop a task.

    Args:
        asked: The last rung that was asked for.
        error: What came of the task; None if it has returned something.

    >>> rung_reached(TOKEN, None), rung_reached(TOKEN, TaskCancelledError("exception"))
    ('token', 'exception')
    """
    if isinstance(error, TaskCancelledError):
        return error.rung
    if isinstance(error, WorkerExitedError) and error.report.rule == "task_stop":
        return "kill"
    return rung_name(min(asked, EXCEPTION))


def time_left(state: str, age: float, limit: float) -> float:
    """Return how many more seconds a task has, at most; 0 if its time is over.

    >>> time_left("running", 0.5, 2.0), time_left("running", 2.5, 2.0), time_left("waiting", 0, 2.0)
    (1.5, 0.0, 2.0)
    """
    return max(0.0, limit - age) if state == "running" else limit


class Stoppable(Job):
    """Stands for a task that may have to be stopped.

    Attributes:
        job: The task.
        rung: How far its stopping has got; 0 if nobody stops it.
    """

    __slots__ = ("_client", "_grace", "_is_over", "_limit", "_request", "_timer", "job", "rung")

    def __init__(self, client: Client, job: Job, *, grace: float) -> None:
        super().__init__(job.code, job.args, job.kwargs, operation=job.operation)
        self.options = replace(job.options, timeout=None)
        self.deaths = job.deaths
        self.is_timed = job.is_timed
        self.line = job.line
        self.job = job
        self.rung = 0
        self._client = client
        self._grace = grace
        self._is_over = False
        # The time limit, once it is exceeded, and until then too.
        self._limit = job.options.timeout
        self._timer: asyncio.TimerHandle | None = None
        self._request: asyncio.Future[Any] | None = None

    def is_of(self, future: object) -> bool:
        """Return whether this is the task of a future."""
        return self.job.is_of(future)

    def begin(self) -> bool:
        """Let its time run; return whether anybody waits for it."""
        if self.rung:
            # It comes back into the queue, since its lane is gone.
            self._over("dropped")
            return False
        if not self.job.begin():
            return False
        self._watch()
        return True

    def stop(self) -> None:
        """Stop the task: somebody does not want it any more."""
        if not self.rung:
            self._limit = None
            self._climb()

    def set_result(self, result: Any) -> None:
        """Take the reply."""
        self._rest()
        if self.rung:
            line = self.line
            assert line is not None
            line.free()
            self._over(rung_reached(self.rung, None))
        else:
            self.job.line, self.job.is_timed = self.line, self.is_timed
            self.job.set_result(result)

    def fail(self, error: BaseException) -> None:
        """Take an error: that it was stopped, or one of its own."""
        self._rest()
        if self._request is not None and isinstance(error, TaskCancelledError) and not self.rung:
            # Its token was faster than the root's answer.
            self.rung = TOKEN
        is_gone = isinstance(error, NoServerError | NodeDownError)
        if self.rung and not is_gone:
            cause = error if isinstance(error, WorkerExitedError) else error.__cause__
            self._over(rung_reached(self.rung, error), cause)
        elif not self._is_over:
            self.job.fail(error)

    def split(self, report: ExitReport) -> Job | None:
        """Return what of it had not begun when its lane ended, as another job."""
        return None if self.rung else self.job.split(report)

    def cancel(self) -> None:
        """Note that it is not going to be run."""
        self._rest()
        if not self._is_over:
            self._is_over = True
            self.job.cancel()

    def outlives(self) -> bool:
        """Return whether it is to be run by the next process of its lane, not having begun."""
        if not self.rung:
            return True
        self._over("dropped")
        return False

    def _over(self, rung: Rung, cause: BaseException | None = None) -> None:
        self._rest()
        self._tell(rung, cause)

    def _tell(self, rung: Rung, cause: BaseException | None = None) -> None:
        if self._is_over:
            return
        self._is_over = True
        error: TaskCancelledError
        if self._limit is None:
            error = TaskCancelledError(rung)
        else:
            error = TaskTimedOutError(rung, self._limit)
        error.__cause__ = cause
        self.job.stopped(error)

    def _rest(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # --- its time ---------------------------------------------------------------------------

    def _watch(self) -> None:
        if self._limit is not None:
            self._timer = self._client.loop.call_later(self._limit, self._look)

    def _look(self) -> None:
        # It may have waited behind another, and not have run for so long.
        assert self._limit is not None
        self._ask(TOKEN, self._limit)

    # --- the ladder -------------------------------------------------------------------------

    def _climb(self) -> None:
        self._never_again()
        self.rung = next_rung(self.rung)
        self._ask(self.rung, 0.0)

    def _never_again(self) -> None:
        self.options = NONE

    def _ask(self, rung: int, at_least: float) -> None:
        line = self.line
        assert line is not None
        route, link = line.route, line.route.link
        seq = route.number_of(self)
        if seq is None:
            return
        if link is None:
            # Its process has just ended.
            self._timer = self._client.loop.call_later(self._grace, self._ask, rung, at_least)
            return
        what = name_of_code(self.code)
        self._request = self._client.request_soon(
            "interrupt", line.ref.sid, link.state, seq, rung, at_least, what
        )
        self._request.add_done_callback(self._answered)

    def _answered(self, answer: asyncio.Future[Any]) -> None:
        line = self.line
        if isinstance(answer.exception(), NodeDownError):
            return
        state, age = answer.result()
        if line is None or line.route.number_of(self) is None:
            return
        loop = self._client.loop
        if not self.rung:
            assert self._limit is not None
            left = time_left(state, age, self._limit)
            if left > 0:
                self._timer = loop.call_later(max(EARLY, left), self._look)
                return
            self._never_again()
            self.rung = TOKEN
        elif state == "waiting" and self.rung == TOKEN:
            # It does not begin any more. Its lane says so when it comes to it.
            self._tell("dropped")
        self._timer = loop.call_later(self._grace, self._climb)
