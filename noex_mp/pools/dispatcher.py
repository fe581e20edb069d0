"""`Dispatcher`: hands the tasks of one event loop to the lanes of a pool.

It lives where the tasks come from, so a task and its result take one hop each. What it costs is
what a task costs, so there is no future, no coroutine and no callback of the loop between the reply
and the next task: a `Job` stands where a call's future does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError
from math import inf
from typing import TYPE_CHECKING, Any, Final, Protocol, cast

from noex_mp.client.route import Route
from noex_mp.core.operations import operation_info
from noex_mp.core.reasons import Normal
from noex_mp.errors import (
    NodeDownError,
    NoServerError,
    PoolDownError,
    ServerExitedError,
    UnencodableError,
    WorkerExitedError,
)
from noex_mp.pools.lane import Lane
from noex_mp.pools.options import NONE, TaskOptions
from noex_mp.pools.task_queue import TaskQueue
from noex_mp.wire.codec import Encoder

if TYPE_CHECKING:
    import asyncio

    from noex_mp.client.client import Client
    from noex_mp.core.operations import OperationInfo
    from noex_mp.core.reasons import ExitReport
    from noex_mp.core.ref import Ref, SentOperation
    from noex_mp.errors import TaskCancelledError
    from noex_mp.pools.chunks import Source
    from noex_mp.pools.functions import FunctionCode
    from noex_mp.pools.recycling import Recycler
    from noex_mp.pools.seeds import Seeds
    from noex_mp.pools.short_cut import ShortCut
    from noex_mp.pools.stopping import Stoppable
    from noex_mp.transport.link import Link

__all__ = ["Dispatcher", "Job"]


def _operation(of: object) -> OperationInfo:
    info = operation_info(of)
    assert info is not None
    return info


_READY: Final = _operation(Lane.ready)
RUN: Final = _operation(Lane.run)
RUN_CHUNK: Final = _operation(Lane.run_chunk)

RUN_TIMED: Final = _operation(Lane.run_timed)
RUN_LIMITED: Final = _operation(Lane.run_limited)
RUN_SEEDED: Final = _operation(Lane.run_seeded)

# So much work lies ahead in a lane, in seconds: what it does while a reply and the next task are on
# their way. More would only wait behind a long task, and fail to go where a lane is free.
AHEAD: Final = 300e-6
MAX_DEPTH: Final = 64

# So many bytes of the next task wait in the socket of a lane, if the system lets them. What waits
# with its sender has to be fetched piece by piece, while the lane has nothing to do.
ROOM: Final = 2 * 2**20

# How long a task that is to stop has after each step (see `stopping`), in seconds.
GRACE: Final = 0.5

# One task in so many is timed. By the lane: on a busy machine the way there and back takes longer
# than the task, and then it matters most that several are on their way.
SAMPLE: Final = 16

# Of so many functions it is known how long they take.
_REMEMBERED: Final = 256


class Job:
    """One task, and who waits for it; it stands where the future of a call does.

    Attributes:
        operation: What of the lane it calls.
        code: The function.
        args, kwargs: What it is called with.
        options: What else it was told.
        deaths: How many lanes have died that had begun it.
        line: The lane that has it.
        is_timed: Whether the lane says how long it took.
    """

    __slots__ = ("args", "code", "deaths", "is_timed", "kwargs", "line", "operation", "options")

    def __init__(
        self,
        code: FunctionCode,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        options: TaskOptions = NONE,
        *,
        operation: OperationInfo = RUN,
    ) -> None:
        self.operation = operation
        self.code = code
        self.args = args
        self.kwargs = kwargs
        self.options = options
        self.deaths = 0
        self.line: Line | None = None
        self.is_timed = False

    is_task = True
    may_be_awaited_here = False
    """Whether who waits for it may read its reply: see `short_cut`."""

    def __len__(self) -> int:
        """Return how many tasks it is."""
        return 1

    @property
    def owner(self) -> object:
        """What its result goes into; None if that is nobody else's matter."""
        return None

    @property
    def number(self) -> int:
        """Its number among the tasks of its call, or that of the first if it is several."""
        return 0

    # --- for whoever waits: to be overridden --------------------------------------------

    def begin(self) -> bool:
        """Note that it is about to be sent; return whether anybody waits for it still."""
        return True

    def succeed(self, result: Any) -> None:
        """Take the result."""
        raise NotImplementedError

    def fail(self, error: BaseException) -> None:
        """Take what the task has raised, or why there is no result."""
        raise NotImplementedError

    def split(self, report: ExitReport) -> Job | None:
        """Return what of it had not begun when its lane ended, as another job."""
        return None

    def parts(self) -> Sequence[Job]:
        """Return its tasks, each as a job; none if it is one."""
        return ()

    def cancel(self) -> None:
        """Note that it is not going to be run, as nobody wants it any more."""
        self.fail(CancelledError())

    def stopped(self, error: TaskCancelledError) -> None:
        """Take the news that it was stopped, and how."""
        self.fail(error)

    def is_of(self, future: object) -> bool:
        """Return whether this is the task of a future."""
        return False

    def is_awaited(self) -> bool:
        """Return whether somebody waits who cannot read its reply himself."""
        return False

    # --- as the future of a call ----------------------------------------------------------

    def outlives(self) -> bool:
        """Return whether the next process of its lane is to run it, if this has not begun it."""
        return True

    def done(self) -> bool:
        """Return that its reply is wanted."""
        return False

    def set_result(self, result: Any) -> None:
        """Take the reply."""
        line = self.line
        assert line is not None
        if self.is_timed:
            seconds, result = result
            line.note(seconds)
        line.free()
        self.succeed(result)

    def set_exception(self, error: BaseException) -> None:
        """Take the error."""
        line = self.line
        assert line is not None
        line.failed(self, error)


class _Ready(Job):
    """Asks a lane that has died whether it is back."""

    __slots__ = ()

    is_task = False

    def set_result(self, result: Any) -> None:
        """Give it tasks again."""
        assert self.line is not None
        self.line.came_back()

    def set_exception(self, error: BaseException) -> None:
        """Ask again if it has died once more; else it is gone for good."""
        assert self.line is not None
        if isinstance(error, ServerExitedError):
            self.line.ask()
        else:
            self.line.gone(error)


class _Nobody(Job):
    """Stands for a task whose outcome nobody wants any more."""

    __slots__ = ()

    def set_result(self, result: Any) -> None:
        """Drop it."""
        assert self.line is not None
        self.line.free()

    def fail(self, error: BaseException) -> None:
        """Drop it."""


class JobRoute(Route):
    """A route whose calls have jobs for futures."""

    __slots__ = ("_suspect", "job", "line")

    def __init__(self, client: Client, sid: int, label: str, encoder: Encoder) -> None:
        super().__init__(client, sid, label)
        self.pack_with(encoder)
        self.job: Job | None = None
        self.line: Line | None = None
        # What the last process would have begun next, if that has died and had nothing begun.
        self._suspect: Job | None = None
        make = self._create_future

        def next_future() -> Any:
            job, self.job = self.job, None
            return make() if job is None else job

        self._create_future: Any = next_future

    def _jobs(self) -> list[tuple[int, Job]]:
        waiting = ((seq, cast(object, entry[0])) for seq, entry in self.pending.items())
        return [(seq, job) for seq, job in waiting if isinstance(job, Job)]

    def number_of(self, job: Job) -> int | None:
        """Return the number of a task that has no reply yet."""
        return next((seq for seq, found in self._jobs() if found is job), None)

    def jobs_of(self, future: object) -> list[tuple[int, Job]]:
        """Return the tasks of a future that have no reply yet, each behind its number.

        Args:
            future: Whose tasks; None is everybody's.
        """
        jobs = self._jobs()
        return [(n, j) for n, j in jobs if j.is_of(future) or (future is None and j.is_task)]

    def stop(self, future: object, stoppable: Callable[[Job], Stoppable]) -> bool:
        """Stop the tasks of a future; return whether there are any."""
        found = self.jobs_of(future)
        for seq, job in found:
            stopping = stoppable(job)
            self._stand_in(seq, stopping)
            stopping.stop()
        return bool(found)

    def give_up(self) -> None:
        """Cancel all tasks, before their lane is killed."""
        for seq, job in self.jobs_of(None):
            nobody = _Nobody(job.code, (), {})
            nobody.line, nobody.is_timed = job.line, job.is_timed
            self._stand_in(seq, nobody)
            job.cancel()

    def _stand_in(self, seq: int, job: Job) -> None:
        """Let another job take the reply to a task."""
        self.pending[seq] = (cast(Any, job), *self.pending[seq][1:])

    def located(self, incarnation: int, link: Link, mailbox: tuple[int, int, str, int]) -> None:
        """Note where the lane is, and let all of its next task lie ready there."""
        link.make_room(ROOM)
        super().located(incarnation, link, mailbox)

    def ended(self, begun: int, report: ExitReport, cause: BaseException | None) -> int:
        """Sort the tasks after the death of a process; what was stopped meanwhile is not sent."""
        for seq, job in self._jobs():
            if seq > begun and not job.outlives():
                self._remove(seq)
                assert job.line is not None
                job.line.dropped()
        culprit = self._culprit(begun, report)
        unbegun: list[Job] = []
        if isinstance(report.reason, Normal):
            # It has ended by itself. What others can do does not wait for the next process.
            for seq, job in self.jobs_of(None):
                if seq > begun:
                    self._remove(seq)
                    unbegun.append(job)
        lost = super().ended(begun, report, cause)
        # Also where it had nothing to do.
        has_left = isinstance(report.reason, Normal) or not report.requested
        if self.line is not None and has_left:
            self.line.has_left(unbegun)
        if culprit is not None:
            error = ServerExitedError(report)
            error.__cause__ = cause
            culprit.set_exception(error)
        return lost

    def is_about_lane(self, error: BaseException) -> bool:
        """Return whether an error is the lane's own, and not what a task has raised."""
        if isinstance(error, ServerExitedError):
            return error.report is self.report
        return not self.thread

    def _culprit(self, begun: int, report: ExitReport) -> Job | None:
        """Take out and return the task that ends each process which reads it.

        Such a process dies of the code of an argument, before the task begins, and so would the
        next. So its second death is the task's.
        """
        seq, job = next(((seq, job) for seq, job in self._jobs() if seq > begun), (0, None))
        if report.message is not None or report.requested or self.link is None:
            job = None
        before, self._suspect = self._suspect, job
        if job is None or job is not before:
            return None
        self._remove(seq)
        return job


class JobSender(Protocol):
    """The way to a lane.

    Attributes:
        job: What the next call has for a future.
    """

    job: Job | None

    def invoke(
        self,
        operation: SentOperation,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        timeout: float | None,
    ) -> object:
        """Send a call whose future is the job."""
        ...

    @property
    def link(self) -> Link | None:
        """The link to its process, while there is one."""
        ...

    def is_about_lane(self, error: BaseException) -> bool:
        """Return whether an error says what became of the lane, and not of some other server."""
        ...

    def number_of(self, job: Job) -> int | None:
        """Return the number of a task that has no reply yet."""
        ...

    def jobs_of(self, future: object) -> list[tuple[int, Job]]:
        """Return the tasks of a future that have no reply yet, each behind its number."""
        ...

    def stop(self, future: object, stoppable: Callable[[Job], Stoppable]) -> bool:
        """Stop the tasks of a future; return whether there are any.

        Args:
            stoppable: Makes what stands for a task while it is stopped.
        """
        ...

    def give_up(self) -> None:
        """Cancel all tasks, before their lane is killed."""
        ...


class Line:
    """One lane as its dispatcher sees it.

    Attributes:
        ref: Its address.
        in_flight: How many tasks it has.
        depth: How many it may have.
        is_up: Whether its process runs, as far as is known, and takes tasks.
        is_retired: It gets no further task: another takes its place.
        tasks_left: After how many more tasks that is so; None is never.
        short_cut: By which somebody else reads its replies now.
    """

    __slots__ = (
        "__weakref__",
        "_dispatcher",
        "_idle",
        "_pace",
        "_untimed",
        "depth",
        "in_flight",
        "is_retired",
        "is_up",
        "ref",
        "route",
        "short_cut",
        "tasks_left",
    )

    def __init__(self, dispatcher: Dispatcher, ref: Ref[Lane], route: JobSender) -> None:
        self._dispatcher = dispatcher
        self.ref = ref
        self.route = route
        self.in_flight = 0
        self.depth = 1
        self.is_up = True
        self.is_retired = False
        self.tasks_left: int | None = None
        self.short_cut: ShortCut | None = None
        self._idle: asyncio.Future[None] | None = None
        # How long a task takes there, in seconds.
        self._pace = inf
        self._untimed = SAMPLE

    def send(self, job: Job) -> None:
        """Give it a task, unless nobody wants that any more."""
        if job.options is not NONE and job.options.timeout is not None:
            job = self._dispatcher.limited(job)
        if not job.begin():
            return
        job.line = self
        operation, args = job.operation, (job.code, *job.args)
        self._untimed += 1
        job.is_timed = self._untimed > SAMPLE and operation is RUN
        if job.is_timed:
            operation = RUN_TIMED
            self._untimed = 0
        if job.options is not NONE:
            operation, args = _with_options(job, operation, args)
        if self.short_cut is not None and (self.in_flight or not job.may_be_awaited_here):
            self.short_cut.give_back()
        self.in_flight += 1
        route = self.route
        # Whoever is sending just now may send more: the code of a value that is packed does, or a
        # signal handler.
        outer, route.job = route.job, job
        try:
            route.invoke(operation, args, job.kwargs, None)
        except BaseException as error:
            if route.job is not job:
                # It is on its way.
                raise
            self.in_flight -= 1
            if isinstance(error, UnencodableError):
                error = _as_of_the_task(error, len(args) - len(job.args))
            self._dispatcher.not_sent(job, error)
            if isinstance(error, KeyboardInterrupt):
                raise
        else:
            if self.tasks_left is not None:
                self.tasks_left -= 1
                if not self.tasks_left:
                    self.retire()
        finally:
            route.job = outer

    def retire(self) -> None:
        """Give it no further task, and have it replaced."""
        self.is_retired = True
        self.is_up = False
        self._dispatcher.retired(self)

    def come_out_of_retirement(self) -> None:
        """Go on with it, unless it is gone: it cannot be replaced."""
        if self.ref not in self._dispatcher.refs:
            return
        self.is_retired = False
        self.tasks_left = None
        # It may have ended meanwhile.
        self.ask()

    def idle(self) -> asyncio.Future[None]:
        """Return a future that is done once it has nothing to do; it gets nothing more."""
        self._idle = self._dispatcher.loop.create_future()
        self._note_if_idle()
        return self._idle

    def _note_if_idle(self) -> None:
        if self._idle is not None and not self.in_flight and not self._idle.done():
            self._idle.set_result(None)

    def note(self, seconds: float) -> None:
        """Note how long a task took."""
        # Slower tasks count at once: nothing is to wait behind one like them.
        pace = self._pace
        self._pace = seconds if seconds > pace or pace == inf else (3 * pace + seconds) / 4
        self.depth = depth_for(self._pace)

    def count_anew(self) -> None:
        """Count the tasks it has: to take a reply was interrupted."""
        self.in_flight = len(self.route.jobs_of(None))

    def forget_pace(self) -> None:
        """Give it one task at a time, until it is known again how long they take."""
        self.depth = 1
        self._pace = inf
        self._untimed = SAMPLE

    def free(self) -> None:
        """Note that it has finished a task, and give it more."""
        self.in_flight -= 1
        # Several at a time: they leave in one send, and arrive in one.
        if self.in_flight <= (self.depth >> 1 or 1):
            if self.is_up:
                self._dispatcher.feed(self)
            elif self.is_retired:
                self._note_if_idle()
                self._dispatcher.note_if_idle()

    def failed(self, job: Job, error: BaseException) -> None:
        """Note that a task has failed; that may have been the end of the process."""
        route = self.route
        # Those may also be what the task has raised, of some other server.
        if isinstance(error, ServerExitedError) and route.is_about_lane(error):
            self.in_flight -= 1
            self._note_if_idle()
            self._went_down()
            self._dispatcher.retry_or_fail(job, error)
        elif isinstance(error, (NoServerError, NodeDownError)) and route.is_about_lane(error):
            self.in_flight -= 1
            self._note_if_idle()
            # First this: the lane is not to get it again.
            self.gone(error)
            self._dispatcher.put_back(job)
        else:
            self.free()
            job.fail(error)

    def stop(self, future: object) -> bool:
        """Stop its tasks of a future; return whether there are any."""
        return self.route.stop(future, self._dispatcher.stoppable)

    def dropped(self) -> None:
        """Note that a task that it had is not going to be run."""
        self.in_flight -= 1
        self._note_if_idle()

    def has_left(self, unbegun: list[Job]) -> None:
        """Note that its process has ended by itself, and what it had not begun."""
        self.in_flight -= len(unbegun)
        self._note_if_idle()
        self._went_down()
        for job in reversed(unbegun):
            self._dispatcher.put_back(job)

    def _went_down(self) -> None:
        if self.is_up:
            self.is_up = False
            self.forget_pace()
            if self._dispatcher.has_spare:
                self.retire()
            else:
                self.ask()
                self._dispatcher.want_spare()

    def ask(self) -> None:
        """Have it say when it is back."""
        job = _Ready("", (), {})
        job.line = self
        self.route.job = job
        self.route.invoke(_READY, (), {}, None)

    def came_back(self) -> None:
        """Give it tasks again, unless another takes its place."""
        if not self.is_retired:
            self.is_up = True
            self._dispatcher.feed(self)

    def gone(self, error: BaseException) -> None:
        """Note that it does not come back."""
        self._dispatcher.lost(self, error)


def _with_options(
    job: Job, operation: OperationInfo, args: tuple[Any, ...]
) -> tuple[OperationInfo, tuple[Any, ...]]:
    """Return what of a lane a task calls that has options, and with what."""
    options = job.options
    if options.seed is not None:
        call, first = options.seed
        operation, args = RUN_SEEDED, (call, first + job.number, operation.name, *args)
    if options.memory_limit is not None:
        operation, args = RUN_LIMITED, (options.memory_limit, operation.name, *args)
    return operation, args


def _as_of_the_task(error: UnencodableError, own: int) -> UnencodableError:
    """Return an error that counts the arguments of a task, and not those of the lane before them.

    Args:
        error: Names one of all.
        own: How many of them are the lane's.
    """
    number, bracket, rest = error.path.removeprefix("args[").partition("]")
    if not number.isdecimal() or int(number) < own:
        return error
    return UnencodableError(f"args[{int(number) - own}{bracket}{rest}", error.value, error.reason)


def depth_for(pace: float) -> int:
    """Return how many tasks a lane has at a time.

    Args:
        pace: How long a task takes, in seconds.

    >>> depth_for(0.5), depth_for(100e-6), depth_for(1e-6)
    (1, 4, 64)
    """
    return min(MAX_DEPTH, 1 + int(AHEAD / max(pace, 1e-6)))


class Dispatcher:
    """The tasks that wait, and the lanes that take them.

    Args:
        client: The event loop's; it is called in that loop only.

    Attributes:
        loop: The event loop.
        grace: How long a task that is to stop has after each step, in seconds.
        recycler: Replaces lanes that have done enough; None: nobody does.
        seeds: Those of its tasks, if they have any.
    """

    def __init__(self, client: Client) -> None:
        self.loop = client.loop
        self._client = client
        # What a task is given is code as much as its function is: lambdas may be in it.
        self._encoder = Encoder(allow_pickle=client.encoder.allow_pickle)
        self._encoder.allow_lambdas = True
        self._lines: list[Line] = []
        self._queue: TaskQueue[Job] = TaskQueue()
        self._sources: TaskQueue[Source] = TaskQueue()
        # How long tasks of the functions of sources take, in seconds, and how many bytes come of
        # one. By the hash of their code, which may be large.
        self._paces: dict[int, tuple[float, int]] = {}
        self._error: BaseException | None = None
        # Why the lanes are no longer started, if it is known.
        self._last_straw: BaseException | None = None
        self._idle_waiters: list[asyncio.Future[None]] = []
        self.grace = GRACE
        self.recycler: Recycler | None = None
        self.seeds: Seeds | None = None

    def add(self, ref: Ref[Lane], route: JobSender | None = None) -> None:
        """Give tasks to a lane from now on.

        Args:
            route: The way there, if it is no server of its own.
        """
        if route is None:
            route = to_lane = JobRoute(self._client, ref.sid, ref.label, self._encoder)
            self._client.routes[ref.sid] = to_lane
        line = Line(self, ref, route)
        if isinstance(route, JobRoute):
            route.line = line
        self._lines.append(line)
        if self.recycler is not None:
            self.recycler.watch(line)
        self.feed(line)

    @property
    def error(self) -> BaseException | None:
        """What all tasks fail with, if no lane is left."""
        return self._error

    @property
    def has_spare(self) -> bool:
        """Whether a lane stands by."""
        return self.recycler is not None and self.recycler.has_spare

    def want_spare(self) -> None:
        """Have a lane stand by, if one should."""
        if self.recycler is not None:
            self.recycler.want_spare()

    def retire_one_that_is_down(self) -> None:
        """Have a lane replaced that is not back yet, now that another stands by."""
        for line in self._lines:
            if not line.is_up and not line.is_retired:
                line.retire()
                return

    def retired(self, line: Line) -> None:
        """Have a lane replaced that gets no further task."""
        if self.recycler is not None:
            self.recycler.replace(line)

    def remove(self, line: Line) -> None:
        """Forget a lane that has nothing to do, and gets nothing more."""
        if line in self._lines:
            self._lines.remove(line)
        self.note_if_idle()

    @property
    def refs(self) -> list[Ref[Lane]]:
        """Its lanes."""
        return [line.ref for line in self._lines]

    def put(self, job: Job) -> None:
        """Run a task on the next lane that has room for it."""
        if not self._queue.count and self._error is None and (line := self._roomiest()) is not None:
            line.send(job)
        else:
            self._wait(job)

    def _wait(self, job: Job) -> None:
        if self._error is None:
            self._queue.append(job)
        elif job.begin():
            job.fail(self._error)

    def _roomiest(self) -> Line | None:
        found: Line | None = None
        for line in self._lines:
            if line.is_up and line.in_flight < line.depth:
                if not line.in_flight:
                    return line
                if found is None or line.in_flight < found.in_flight:
                    found = line
        return found

    def put_source(self, source: Source) -> None:
        """Run the tasks of a source, behind those of the ones before it."""
        if self._error is not None:
            source.abandon(self._error)
            return
        # As it was the last time: the first chunks need not be short then.
        source.pace, source.result_weight = self._paces.get(hash(source.code), (0.0, 0))
        self._sources.append(source)
        self.feed_all()

    def feed_all(self) -> None:
        """Give all lanes as many tasks as they may have."""
        if self._sources:
            # First one chunk each: there may be no more.
            for line in self._lines:
                if not line.in_flight:
                    self._feed_from_sources(line, most=1)
        for line in self._lines:
            self.feed(line)

    def feed(self, line: Line) -> None:
        """Give a lane as many tasks as it may have."""
        if self._queue.count:
            self._feed_from_queue(line)
        if self._sources.count and line.is_up:
            self._feed_from_sources(line)
        if self._idle_waiters and not self._queue:
            self.note_if_idle()

    def _feed_from_queue(self, line: Line) -> None:
        queue = self._queue
        while queue.count and line.in_flight < line.depth and line.is_up:
            line.send(queue.popleft())

    def _feed_from_sources(self, line: Line, most: int = MAX_DEPTH) -> None:
        sources = self._sources
        for source in list(sources):
            while line.in_flight < min(most, source.depth(line.depth)) and line.is_up:
                chunk = source.take(len(self._lines))
                if chunk is None:
                    break
                line.send(chunk)
                # What could not be sent is there again, in parts.
                self._feed_from_queue(line)
            # It may be gone: a task that fails at once can have others sent, too.
            if source.is_empty and source in sources:
                sources.remove(source)
                self._remember(source)

    def _remember(self, source: Source) -> None:
        if len(self._paces) >= _REMEMBERED:
            self._paces.clear()
        if source.pace:
            self._paces[hash(source.code)] = source.pace, source.result_weight

    def stop(self, future: object) -> bool:
        """Stop the tasks of a future; return whether one was sent, and has no result yet."""
        found = [line.stop(future) for line in self._lines]
        return any(found)

    def limited(self, job: Job) -> Job:
        """Return what stands for a task that has a time limit."""
        return self.stoppable(job)

    def stoppable(self, job: Job) -> Stoppable:
        """Return what stands for a task that may have to be stopped."""
        # Few tasks are.
        from noex_mp.pools.stopping import Stoppable

        if isinstance(job, Stoppable):
            return job
        return Stoppable(self._client, job, grace=self.grace)

    def retry_or_fail(self, job: Job, error: ServerExitedError) -> None:
        """Run a task again whose lane has died of it, or fail it."""
        job.deaths += 1
        if job.deaths <= job.options.retries and self._error is None:
            self.put_back(job)
        else:
            failure = WorkerExitedError(error.report)
            failure.__cause__ = error.__cause__
            rest = job.split(error.report)
            job.fail(failure)
            if rest is not None:
                self.put_back(rest)
            self.note_if_idle()

    def not_sent(self, job: Job, error: BaseException) -> None:
        """Fail a task that could not be sent; if it is several, try them one by one."""
        parts = job.parts()
        if not parts or self._error is not None or isinstance(error, KeyboardInterrupt):
            job.fail(error)
            return
        # Whoever wanted to send it sends them next.
        for part in reversed(parts):
            self._queue.appendleft(part)

    def put_back(self, job: Job) -> None:
        """Run a task ahead of all others."""
        if self._error is not None:
            job.fail(self._error)
            self.note_if_idle()
            return
        self._queue.appendleft(job)
        self.feed_all()

    def lost(self, line: Line, error: BaseException) -> None:
        """Note that a lane is gone for good."""
        if line in self._lines:
            self._lines.remove(line)
        report = error.report if isinstance(error, NoServerError) else None
        if report is not None and not report.requested:
            # It is why the others are shut down.
            self._last_straw = error
        if not self._lines:
            self.fail_all(self.down(self._last_straw or error))

    def down(self, error: BaseException) -> BaseException:
        """Return what all tasks fail with, as no lane is left.

        Args:
            error: What became of one.
        """
        reason = str(error)
        if isinstance(error, NoServerError) and error.report is not None:
            report = error.report
            what = "are gone" if report.requested else "do not start any more"
            reason = f"its processes {what}: {report.summary}"
        failure = PoolDownError(reason)
        failure.__cause__ = error.with_traceback(None)
        return failure

    def fail_all(self, error: BaseException) -> None:
        """Fail what waits, and whatever comes: no lane is left."""
        # A pool that was stopped before says so.
        self._error = error = self._error or error
        while self._queue:
            job = self._queue.popleft()
            if job.begin():
                job.fail(error)
        while self._sources:
            self._sources.popleft().abandon(error)
        self.note_if_idle()

    def count(self) -> tuple[int, int]:
        """Return how many tasks run, one in each lane that has any, and how many wait."""
        running = sum(bool(line.in_flight) for line in self._lines)
        sent = sum(len(job) for line in self._lines for _, job in line.route.jobs_of(None))
        queued = sum(map(len, self._queue)) + sum(source.left for source in self._sources)
        return running, sent - running + queued

    def cancel_waiting(self) -> list[Job]:
        """Take out what waits, and return it."""
        waiting = list(self._queue)
        self._queue.clear()
        while self._sources:
            self._sources.popleft().abandon(CancelledError())
        self.note_if_idle()
        return waiting

    def give_up(self) -> None:
        """Cancel what waits, and what runs."""
        for job in self.cancel_waiting():
            job.cancel()
        for line in self._lines:
            line.route.give_up()

    def idle(self) -> asyncio.Future[None]:
        """Return a future that is done once no task waits or runs."""
        future: asyncio.Future[None] = self._client.loop.create_future()
        self._idle_waiters.append(future)
        self.note_if_idle()
        return future

    def note_if_idle(self) -> None:
        """Tell whoever waits for it, if no task waits or runs."""
        if self._queue or any(line.in_flight for line in self._lines):
            return
        # Of others nobody takes the results.
        if any(source.is_wanted for source in self._sources):
            return
        waiters, self._idle_waiters = self._idle_waiters, []
        for future in waiters:
            if not future.done():
                future.set_result(None)
