"""`Pool.named("cpu")`: the pool of functions that stands in a tree, in any process of the node."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final, NamedTuple, cast

from typing_extensions import Unpack, override

from noex_mp.client import current
from noex_mp.client.registry import whereis
from noex_mp.core.ref import Ref, SentOperation, route_to
from noex_mp.errors import NodeDownError, NoServerError, ServerExitedError, TaskCancelledError
from noex_mp.pools.dispatcher import Dispatcher, Job
from noex_mp.pools.lane import Lane
from noex_mp.pools.options import NONE, TaskOptionsDict, task_options
from noex_mp.pools.pool import PoolTasks
from noex_mp.pools.requests import SAID, TO_POOL, LaneExitedError, StopTask

if TYPE_CHECKING:
    from noex_mp.client.client import Client
    from noex_mp.client.route import Route
    from noex_mp.pools.seeds import Seeds
    from noex_mp.transport.link import Link

__all__ = ["NamedPool"]

# How many lanes a pool may have, for who does not know how many it has, and will have: so many
# tasks and chunks are on their way to it, or twice as many.
LINES: Final = 64


class NamedPool(PoolTasks):
    """A pool of functions that runs elsewhere in the node; see `Pool.named`.

    It starts nothing and stops nothing, and is good in all event loops of the process.
    """

    def __init__(self, where: str | Ref[Lane], seeds: Seeds | None = None) -> None:
        super().__init__(self, NONE)
        self._where = where
        self._seeds = seeds
        self._dispatchers: dict[Client, Dispatcher] = {}

    def __repr__(self) -> str:
        return f"Pool.named({self._where!r})"

    @property
    def ref(self) -> Ref[Lane]:
        """Its address, for `pool_of`.

        Raises:
            NoServerError: Nobody has the name.
            NoNodeError, NodeDownError: There is no node here, or it has stopped.
        """
        if isinstance(self._where, Ref) and self._where.sid:
            return self._where
        name = (self._where.name or "") if isinstance(self._where, Ref) else self._where
        ref = whereis(name, Lane)
        if ref is None:
            raise NoServerError(repr(name))
        return ref

    @property
    def size(self) -> int:
        """For how many processes to read ahead."""
        return LINES

    @property
    def dispatcher(self) -> Dispatcher:
        """What hands the tasks of this event loop out.

        Raises:
            NoServerError, NoNodeError, NodeDownError: As `ref`.
        """
        client = current.client(self._where.node if isinstance(self._where, Ref) else None)
        known = self._dispatchers.get(client)
        if known is None or not known.refs:
            # None yet, or its pool is gone: another may have the name by now.
            known = _Dispatcher(client, self.ref)
            known.seeds = self._seeds
            kept = {c: d for c, d in self._dispatchers.items() if not c.closed}
            self._dispatchers = {**kept, client: known}
        return known

    def options(self, **options: Unpack[TaskOptionsDict]) -> PoolTasks:
        """Return the same pool for tasks with options; see `Pool.options`."""
        return PoolTasks(self, task_options(options))


class _Dispatcher(Dispatcher):
    """Sends tasks to where the router sees to their time."""

    def __init__(self, client: Client, ref: Ref[Lane]) -> None:
        super().__init__(client)
        self._route = _ToRouter(ref)
        for _ in range(LINES):
            self.add(ref, self._route)

    @override
    def limited(self, job: Job) -> Job:
        return job

    @override
    def stop(self, future: object) -> bool:
        # All lanes are reached on this one way: it is asked once, and not by each.
        return self._route.stop(future, self.stoppable)

    @override
    def down(self, error: BaseException) -> BaseException:
        # The pool is elsewhere, and another may have its name next.
        return error


class _Call(NamedTuple):
    """A task that is on its way, or there.

    Attributes:
        job: The task.
        route: On which it was sent ...
        number: ... and its number there.
    """

    job: Job
    route: Route
    number: int


class _ToRouter:
    """The way to the router of a pool, on which all its lanes are reached."""

    def __init__(self, ref: Ref[Lane]) -> None:
        self._ref = ref
        self._calls: dict[asyncio.Future[Any], _Call] = {}
        # The same by whose tasks they are: to stop one, nobody looks at all others.
        self._by_owner: dict[object, dict[Job, int]] = {}
        # Those that the router was asked to stop.
        self._stopping: set[Job] = set()
        # The error that is just being handed on, if it says what became of a lane.
        self._end: BaseException | None = None
        self.job: Job | None = None
        self.link: Link | None = None

    def invoke(
        self,
        operation: SentOperation,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        timeout: float | None,
    ) -> object:
        """Send a task, with its priority and its time limit."""
        # If the node has stopped, nothing is on its way.
        route = cast("Route", route_to(self._ref))
        job = self.job
        assert job is not None
        priority, limit = job.options.priority, job.options.timeout
        if priority or limit is not None:
            kwargs = {**kwargs, SAID: [priority, None, None, limit]}
        future = route.invoke(operation, args, kwargs, timeout)
        # Not before: one that cannot be sent is not on its way.
        self.job = None
        self._calls[future] = _Call(job, route, route.seq)
        self._by_owner.setdefault(job.owner, {})[job] = route.seq
        future.add_done_callback(self._done)
        return future

    def is_about_lane(self, error: BaseException) -> bool:
        """Return whether an error says what became of a lane, and not what a task has raised."""
        return error is self._end

    def _done(self, future: asyncio.Future[Any]) -> None:
        call = self._calls.pop(future)
        job = call.job
        self._forget(job)
        assert job.line is not None
        error = None if future.cancelled() else future.exception()
        if job in self._stopping:
            self._stopping.discard(job)
            job.line.free()
            # It may have been done when the router was asked.
            job.stopped(
                error if isinstance(error, TaskCancelledError) else TaskCancelledError("token")
            )
        elif future.cancelled():
            job.line.free()
        elif error is None:
            job.set_result(future.result())
        else:
            outer, self._end = self._end, error if _is_end(error, call.route) else None
            job.set_exception(error)
            self._end = outer

    def _forget(self, job: Job) -> None:
        jobs = self._by_owner[job.owner]
        del jobs[job]
        if not jobs:
            del self._by_owner[job.owner]

    def jobs_of(self, future: object) -> list[tuple[int, Job]]:
        """Return the tasks of a future that have no reply yet, each behind its number."""
        if future is None:
            return [(call.number, call.job) for call in self._calls.values() if call.job.is_task]
        return [(number, job) for job, number in self._by_owner.get(future, {}).items()]

    def number_of(self, job: Job) -> int | None:
        """Return the number of a task that has no reply yet."""
        return self._by_owner.get(job.owner, {}).get(job)

    def stop(self, future: object, stoppable: object) -> bool:
        """Have the router stop the tasks of a future; return whether there are any."""
        found = self.jobs_of(future)
        for number, job in found:
            if job not in self._stopping:
                self._stopping.add(job)
                asked = route_to(self._ref).invoke(TO_POOL, (StopTask(number),), {}, None)
                # Should the router die, the task's own call fails as well.
                asked.add_done_callback(lambda answer: answer.exception())
        return bool(found)

    def give_up(self) -> None:
        """Cancel all calls: the router has the tasks stopped."""
        for call in list(self._calls):
            call.cancel()


def _is_end(error: BaseException, route: Route) -> bool:
    """Return whether an error is the end of a lane, or of the router, or of the node.

    A task may raise errors of the same classes, about other servers; those come as replies.

    Args:
        error: What a call has failed with.
        route: On which it was sent, to the router.
    """
    if isinstance(error, LaneExitedError):
        return True
    if isinstance(error, ServerExitedError):
        # What a lane says of a router that has died reaches no other caller of that router.
        return error.report.sid == route.sid
    if isinstance(error, NoServerError | NodeDownError):
        # Made here, when the route came to its end.
        return not route.thread and (error.report is None or error.report is route.report)
    return False
