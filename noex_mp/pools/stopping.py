"""A task of this program's own pool that is to be stopped, or may have to be.

`Stoppable` takes the place of a task's `Job` in the route to its lane, when somebody wants to stop
it, and from the beginning if it has a time limit. So tasks that nobody stops pay nothing. What
there is to do is the `Ladder`'s.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from typing_extensions import override

from noex_mp.errors import TaskCancelledError
from noex_mp.pools.dispatcher import Job
from noex_mp.pools.functions import name_of_code
from noex_mp.pools.ladder import Ladder
from noex_mp.pools.options import NONE

if TYPE_CHECKING:
    from noex_mp.client.client import Client
    from noex_mp.core.reasons import ExitReport
    from noex_mp.transport.link import Link

__all__ = ["Stoppable"]


class Stoppable(Job):
    """Stands for a task that may have to be stopped.

    Attributes:
        job: The task.
    """

    __slots__ = ("_is_over", "_ladder", "job")

    def __init__(self, client: Client, job: Job, *, grace: float) -> None:
        super().__init__(job.code, job.args, job.kwargs, operation=job.operation)
        self.options = replace(job.options, timeout=None)
        self.deaths = job.deaths
        self.is_timed = job.is_timed
        self.line = job.line
        self.job = job
        self._is_over = False
        self._ladder = Ladder(client, self, grace=grace, limit=job.options.timeout)

    @override
    def __len__(self) -> int:
        return len(self.job)

    @property
    @override
    def number(self) -> int:
        return self.job.number

    @override
    def is_of(self, future: object) -> bool:
        return self.job.is_of(future)

    @override
    def begin(self) -> bool:
        if self._ladder.rung:
            # It comes back into the queue, since its lane is gone.
            self._ladder.rest()
            self._tell(self._ladder.dropped())
            return False
        if not self.job.begin():
            return False
        self._ladder.watch()
        return True

    def stop(self) -> None:
        """Stop the task: somebody does not want it any more."""
        self._ladder.stop()

    @override
    def set_result(self, result: Any) -> None:
        stopped = self._ladder.outcome(None)
        if stopped is None:
            self.job.line, self.job.is_timed = self.line, self.is_timed
            self.job.set_result(result)
        else:
            assert self.line is not None
            self.line.free()
            self._tell(stopped)

    @override
    def fail(self, error: BaseException) -> None:
        outcome = self._ladder.outcome(error)
        if outcome is not error:
            self._tell(outcome)
        elif not self._is_over:
            self.job.fail(error)

    @override
    def split(self, report: ExitReport) -> Job | None:
        return None if self._ladder.rung else self.job.split(report)

    @override
    def cancel(self) -> None:
        self._ladder.rest()
        if not self._is_over:
            self._is_over = True
            self.job.cancel()

    @override
    def outlives(self) -> bool:
        if not self._ladder.rung:
            return True
        self._ladder.rest()
        self._tell(self._ladder.dropped())
        return False

    def _tell(self, stopped: BaseException | None) -> None:
        assert isinstance(stopped, TaskCancelledError)
        if not self._is_over:
            self._is_over = True
            self.job.stopped(stopped)

    # --- as the ladder knows it ---------------------------------------------------------------

    def position(self) -> tuple[int, Link | None, int] | None:
        """Return where it is; None once there is an answer."""
        line = self.line
        assert line is not None
        number = line.route.number_of(self)
        return None if number is None else (line.ref.sid, line.route.link, number)

    def what(self) -> str:
        """Return what it does."""
        return name_of_code(self.code)

    def is_stopping(self) -> None:
        """Never run it again, and let nothing more wait behind it."""
        self.options = NONE
        if self.line is not None:
            self.line.forget_pace()

    def is_dropped(self) -> None:
        """Tell whoever waits, at once."""
        self._tell(self._ladder.dropped())
