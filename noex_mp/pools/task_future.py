"""`TaskFuture` and `FutureJob`: a task of an executor, as its caller and its dispatcher see it.

Who waits for a short task reads its reply itself (see `short_cut`), out of the condition that each
future of the standard library has: so no frame of ours is in the traceback of what a task raises.
"""

from __future__ import annotations

import contextlib
from _thread import LockType, RLock, allocate_lock
from collections.abc import Callable
from concurrent.futures import CancelledError, Future, InvalidStateError
from concurrent.futures._base import PENDING
from time import monotonic
from typing import TYPE_CHECKING, Any, TypeVar

from typing_extensions import override

from noex_mp.errors import NoexError
from noex_mp.pools.dispatcher import RUN, Job
from noex_mp.pools.mapped import as_raised
from noex_mp.pools.short_cut import MOMENT

if TYPE_CHECKING:
    from noex_mp.pools.background import Background
    from noex_mp.pools.functions import FunctionCode
    from noex_mp.pools.options import TaskOptions
    from noex_mp.pools.short_cut import ShortCut

__all__ = ["FutureJob", "TaskFuture"]

T = TypeVar("T")


class TaskFuture(Future[T]):
    """The future of a task.

    Attributes:
        arrival: What its waiters wait for.
    """

    def __init__(self) -> None:
        # As the standard library's, but with another condition: to make that one, and to enter it
        # for each step of a task, takes as long as to send the task.
        self.arrival = arrival = _Arrival()
        arrival.job = None
        arrival.gates = []
        arrival.is_over = False
        condition: Any = arrival
        self._condition = condition
        self._state = PENDING
        self._result = self._exception = None
        self._waiters = []
        self._done_callbacks: list[Any] = []

    @override
    def add_done_callback(self, fn: Callable[[Future[T]], object]) -> None:
        """Call back when there is a result; see `concurrent.futures.Future`."""
        super().add_done_callback(fn)
        job = self.arrival.job
        if job is not None:
            job.give_link_back()

    def take(self, result: T) -> bool:
        """Take the result, unless callbacks are to hear of it; return whether that was so."""
        with self._condition:
            if self._done_callbacks:
                return False
            self.set_result(result)
            return True

    def take_if_open(self, result: T) -> None:
        """Take the result, unless that is done."""
        self._unless_done(self.set_result, result)

    def fail_if_open(self, error: BaseException) -> None:
        """Take the error, unless there is a result."""
        self._unless_done(self.set_exception, error)

    def _unless_done(self, complete: Callable[[Any], None], outcome: object) -> None:
        with contextlib.suppress(InvalidStateError):
            complete(outcome)
        with self._condition:
            # Who has completed it may have been interrupted before this.
            self._condition.notify_all()

    def is_awaited(self) -> bool:
        """Return whether somebody waits by `wait` or `as_completed`."""
        return bool(self._waiters)


class _Arrival(RLock):  # type: ignore[misc]  # pyright: ignore[reportGeneralTypeIssues]
    """The condition of a future, which tells its waiters once that there is a result.

    The types say that nobody may inherit from such a lock, and the interpreter allows it: so to
    enter it is no call of Python.

    Attributes:
        job: The task, once it is sent and until its reply is there.
        is_over: Whether there is a result.
        gates: What the waiters stand at.
    """

    __slots__ = ("gates", "is_over", "job")

    job: FutureJob | None
    is_over: bool
    gates: list[LockType]

    def notify_all(self) -> None:
        """Note that there is a result."""
        self.is_over = True
        gates, self.gates = self.gates, []
        for gate in gates:
            gate.release()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until there is a result; return whether there is one.

        Args:
            timeout: How long at most, in seconds; None is for ever.
        """
        end = None if timeout is None else monotonic() + timeout
        job = self.job
        short_cut = None if job is None else job.short_cut
        if job is not None and short_cut is not None:
            # In here: an interrupt comes behind it at the earliest.
            try:
                self.release()
                short_cut.take(job, MOMENT if timeout is None else min(timeout, MOMENT))
            finally:
                self.acquire()
        return self.is_over or self._wait(-1 if end is None else max(0.0, end - monotonic()))

    def _wait(self, timeout: float) -> bool:
        gate = allocate_lock()
        gate.acquire()
        self.gates.append(gate)
        try:
            self.release()
            return gate.acquire(timeout=timeout)
        finally:
            self.acquire()
            if gate in self.gates:
                self.gates.remove(gate)


class FutureJob(Job):
    """A task whose result goes into a future of `concurrent.futures`.

    Args:
        future: The future.
        background: Runs it.
        code, args, kwargs, options: As of any job.
    """

    __slots__ = ("_background", "_has_begun", "future")

    may_be_awaited_here = True

    def __init__(
        self,
        future: TaskFuture[Any],
        background: Background,
        code: FunctionCode,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        options: TaskOptions,
    ) -> None:
        # As that of a job, without the call.
        self.operation = RUN
        self.code = code
        self.args = args
        self.kwargs = kwargs
        self.options = options
        self.deaths = 0
        self.line = None
        self.is_timed = False
        self.future = future
        # Its callbacks may do anything: not where tasks are handed out.
        self._background = background
        self._has_begun = False

    @property
    def short_cut(self) -> ShortCut | None:
        """The way on which its reply may be read."""
        return self._background.short_cut

    def give_link_back(self) -> None:
        """Let the thread of the executor read the reply, which calls back."""
        if self.line is not None and (short_cut := self.short_cut) is not None:
            short_cut.give_back_soon(self.line)

    @override
    def is_awaited(self) -> bool:
        """Return whether somebody waits by `wait` or `as_completed`."""
        return self.future.is_awaited()

    @override
    def begin(self) -> bool:
        """Mark the future as running, unless it was cancelled."""
        # Not asked of the future each time: that would take as long as to pack the task.
        if not self._has_begun:
            self._has_begun = self.future.set_running_or_notify_cancel()
            if self._has_begun:
                # Not before: one that is refused would hold itself.
                self.future.arrival.job = self
        return self._has_begun

    @override
    def succeed(self, result: Any) -> None:
        """Complete the future."""
        short_cut = self._background.short_cut
        if short_cut is not None and short_cut.arrived is not None:
            short_cut.arrived.append((self, result))
        else:
            self._background.later.append((self.future.set_result, result))
        self.future.arrival.job = None

    def leave(self, result: Any) -> None:
        """Leave it to the thread of the executor to complete the future, if it is open."""
        self._background.later.append((self.future.take_if_open, result))

    @override
    def fail(self, error: BaseException) -> None:
        """Fail the future."""
        self._background.later.append((self.future.set_exception, as_raised(error)))
        self.future.arrival.job = None

    @override
    def cancel(self) -> None:
        """Cancel the future, and tell whoever waits for it."""
        self._background.later.append((_cancel, self.future))
        self.future.arrival.job = None

    def lose(self, error: BaseException) -> None:
        """Fail the future, if it has no result: that came, and its reading was interrupted."""
        lost = NoexError(f"the result was lost: {type(error).__name__} came while it was read")
        self._background.later.append((self.future.fail_if_open, lost))
        self.future.arrival.job = None

    @override
    def is_of(self, future: object) -> bool:
        """Return whether this is the task of a future."""
        return self.future is future


def _cancel(future: Future[Any]) -> None:
    if future.cancel():
        future.set_running_or_notify_cancel()
    elif not future.done():
        # It had begun, and was to be run again.
        future.set_exception(CancelledError())
