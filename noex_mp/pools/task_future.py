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
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Any, TypeVar

from typing_extensions import override

from noex_mp.pools.dispatcher import RUN, Job
from noex_mp.pools.mapped import as_raised
from noex_mp.pools.short_cut import MOMENT

if TYPE_CHECKING:
    from noex_mp.pools.background import Background
    from noex_mp.pools.functions import FunctionCode
    from noex_mp.pools.options import TaskOptions

__all__ = ["FutureJob", "TaskFuture"]

T = TypeVar("T")


class TaskFuture(Future[T]):
    """The future of a task.

    Args:
        background: Runs the task.

    Attributes:
        arrival: What its waiters wait for.
        is_heard: Whether callbacks hear of the result.
    """

    def __init__(self, background: Background) -> None:
        # As the standard library's, but with another condition: to make that one, and to enter it
        # for each step of a task, takes as long as to send the task.
        self.arrival = arrival = _Arrival()
        arrival.background = self._background = background
        arrival.job = None
        arrival.gates = None
        arrival.is_over = self.is_heard = False
        condition: Any = arrival
        self._condition = condition
        self._state = PENDING
        self._result = self._exception = None
        self._waiters = []
        self._done_callbacks: list[Any] = []

    @override
    def add_done_callback(self, fn: Callable[[Future[T]], object]) -> None:
        """Call back when there is a result; see `concurrent.futures.Future`."""
        self._background.let_hear(self)
        super().add_done_callback(fn)


class _Arrival(RLock):  # type: ignore[misc]  # pyright: ignore[reportGeneralTypeIssues]
    """The condition of a future, which tells its waiters once that there is a result.

    The types say that nobody may inherit from such a lock, and the interpreter allows it: so to
    enter it is no call of Python.

    Attributes:
        background: Runs the task.
        job: The task, until its reply is there.
        is_over: Whether there is a result.
        gates: What the waiters stand at, if there are any.
    """

    __slots__ = ("background", "gates", "is_over", "job")

    background: Background
    job: FutureJob | None
    is_over: bool
    gates: list[LockType] | None

    def notify_all(self) -> None:
        """Note that there is a result."""
        self.is_over = True
        gates, self.gates = self.gates, None
        for gate in gates or ():
            gate.release()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until there is a result; return whether there is one.

        Args:
            timeout: How long at most, in seconds; None is for ever.
        """
        end = None if timeout is None else monotonic() + timeout
        job, short_cut = self.job, self.background.short_cut
        # In here: an interrupt comes behind it at the earliest.
        try:
            self.release()
            if job is not None and short_cut is not None:
                short_cut.take(job, MOMENT if timeout is None else min(timeout, MOMENT))
        finally:
            self.acquire()
        return self.is_over or self._wait(-1 if end is None else max(0.0, end - monotonic()))

    def _wait(self, timeout: float) -> bool:
        gate = allocate_lock()
        gate.acquire()
        self.gates = [*(self.gates or ()), gate]
        try:
            self.release()
            return gate.acquire(timeout=timeout)
        finally:
            self.acquire()


class FutureJob(Job):
    """A task whose result goes into a future of `concurrent.futures`.

    Args:
        future: The future.
        background: Runs it.
        code, args, kwargs, options: As of any job.
    """

    __slots__ = ("_background", "_has_begun", "future")

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
        future.arrival.job = self
        # Its callbacks may do anything: not where tasks are handed out.
        self._background = background
        self._has_begun = False

    @override
    def begin(self) -> bool:
        """Mark the future as running, unless it was cancelled."""
        if not self._has_begun:
            self._has_begun = self.future.set_running_or_notify_cancel()
        if not self._has_begun:
            self.future.arrival.job = None
        return self._has_begun

    @override
    def succeed(self, result: Any) -> None:
        """Complete the future."""
        future, background = self.future, self._background
        short_cut = background.short_cut
        if short_cut is not None and short_cut.is_reading and not future.is_heard:
            future.set_result(result)
        else:
            background.later.append((future.set_result, result))
        future.arrival.job = None

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
        """Fail the future of what came and was lost on the way to it, unless it is there."""
        self._background.later.append((partial(_fail_if_open, self.future), error))
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


def _fail_if_open(future: Future[Any], error: BaseException) -> None:
    with contextlib.suppress(InvalidStateError):
        future.set_exception(error)
