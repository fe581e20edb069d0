"""`Ladder`: the way to the end of one task that was sent, step by step.

The root is asked for one rung after the other (see `core.stop_requests`), with a grace between
them, and does nothing if the task has ended meanwhile: then its result is on the way here. Whatever
a task returns or raises that somebody wanted to stop, it counts as stopped.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final, Protocol

from noex_mp.core.stop_requests import EXCEPTION, TOKEN, next_rung
from noex_mp.errors import (
    NodeDownError,
    Rung,
    TaskCancelledError,
    TaskTimedOutError,
    WorkerExitedError,
)
from noex_mp.pools.current_task import rung_name

if TYPE_CHECKING:
    from noex_mp.client.client import Client
    from noex_mp.transport.link import Link

__all__ = ["Climber", "Ladder", "rung_reached", "time_left"]

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


class Climber(Protocol):
    """Who has sent the task."""

    def position(self) -> tuple[int, Link | None, int] | None:
        """Return the server that has it, on which link it went and its number there.

        None is: there is an answer by now.
        """
        ...

    def what(self) -> str:
        """Return what the task does, for people."""
        ...

    def is_stopping(self) -> None:
        """It is stopped from here on, and never run again."""
        ...

    def is_dropped(self) -> None:
        """It does not begin any more: its lane says so when it comes to it."""
        ...


class Ladder:
    """Stops one task, because somebody says so, or because its time is over.

    Attributes:
        rung: How far its stopping has got; 0 if nobody stops it.
    """

    __slots__ = ("_client", "_climber", "_grace", "_limit", "_request", "_timer", "rung")

    def __init__(
        self, client: Client, climber: Climber, *, grace: float, limit: float | None
    ) -> None:
        self.rung = 0
        self._client = client
        self._climber = climber
        self._grace = grace
        # The time limit, once it is exceeded, and until then too.
        self._limit = limit
        self._timer: asyncio.TimerHandle | None = None
        self._request: asyncio.Future[Any] | None = None

    def watch(self) -> None:
        """Let its time run: it was sent."""
        self.rest()
        if self._limit is not None:
            self._timer = self._client.loop.call_later(self._limit, self._look)

    def stop(self) -> None:
        """Stop the task: somebody does not want it any more."""
        if not self.rung:
            # Its limit is of no interest any more.
            self.rest()
            self._limit = None
            self._climb()

    def rest(self) -> None:
        """Do nothing more: it has ended, or nobody has it."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def dropped(self) -> TaskCancelledError:
        """Return the error of a task that was stopped before it had begun."""
        return self._error("dropped")

    def outcome(self, error: BaseException | None) -> BaseException | None:
        """Return what became of the task: that it was stopped, if somebody wanted that.

        Args:
            error: What it has raised, or its lane's end; None if it has returned something.
        """
        self.rest()
        if self._request is not None and isinstance(error, TaskCancelledError) and not self.rung:
            # Its token was faster than the root's answer.
            self.rung = TOKEN
        if not self.rung:
            return error
        stopped = self._error(rung_reached(self.rung, error))
        # Another `ServerExitedError` is of a server that the task has called.
        if isinstance(error, WorkerExitedError):
            stopped.__cause__ = _as_people_know_it(error)
        elif error is not None:
            stopped.__cause__ = error.__cause__
        return stopped

    def _error(self, rung: Rung) -> TaskCancelledError:
        if self._limit is None:
            return TaskCancelledError(rung)
        return TaskTimedOutError(rung, self._limit)

    def _look(self) -> None:
        # It may have waited behind another, and not have run for so long.
        assert self._limit is not None
        self._ask(TOKEN, self._limit)

    def _climb(self) -> None:
        self._climber.is_stopping()
        self.rung = next_rung(self.rung)
        self._ask(self.rung, 0.0)

    def _ask(self, rung: int, at_least: float) -> None:
        position = self._climber.position()
        if position is None:
            return
        server, link, number = position
        if link is None:
            # Its process has just ended.
            self._timer = self._client.loop.call_later(self._grace, self._ask, rung, at_least)
            return
        what = self._climber.what()
        self._request = self._client.request_soon(
            "interrupt", server, link.state, number, rung, at_least, what
        )
        self._request.add_done_callback(self._answered)

    def _answered(self, answer: asyncio.Future[Any]) -> None:
        # One that was asked because of its limit may come when somebody has stopped it.
        if answer is not self._request or isinstance(answer.exception(), NodeDownError):
            return
        state, age = answer.result()
        if self._climber.position() is None:
            return
        loop = self._client.loop
        if not self.rung:
            assert self._limit is not None
            left = time_left(state, age, self._limit)
            if left > 0:
                self._timer = loop.call_later(max(EARLY, left), self._look)
                return
            self._climber.is_stopping()
            self.rung = TOKEN
        elif state == "waiting" and self.rung == TOKEN:
            self._climber.is_dropped()
        self._timer = loop.call_later(self._grace, self._climb)


def _as_people_know_it(error: WorkerExitedError) -> WorkerExitedError:
    if type(error) is WorkerExitedError:
        return error
    failure = WorkerExitedError(error.report)
    failure.__cause__ = error.__cause__
    return failure
