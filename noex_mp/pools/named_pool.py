"""`Pool.named("cpu")`: the pool of functions that stands in a tree, in any process of the node."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

from typing_extensions import Unpack, override

from noex_mp.client import current
from noex_mp.client.registry import whereis
from noex_mp.core.ref import Ref, SentOperation, route_to
from noex_mp.errors import NoServerError, TaskCancelledError
from noex_mp.pools.dispatcher import Dispatcher, Job
from noex_mp.pools.lane import Lane
from noex_mp.pools.options import NONE, TaskOptionsDict, task_options
from noex_mp.pools.pool import PoolTasks
from noex_mp.pools.requests import SAID, TO_POOL, StopTask

if TYPE_CHECKING:
    from noex_mp.client.client import Client
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
        if isinstance(self._where, Ref):
            return self._where
        ref = whereis(self._where, Lane)
        if ref is None:
            raise NoServerError(repr(self._where))
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
            known = _dispatcher_to(client, self.ref)
            known.seeds = self._seeds
            kept = {c: d for c, d in self._dispatchers.items() if not c.closed}
            self._dispatchers = {**kept, client: known}
        return known

    def options(self, **options: Unpack[TaskOptionsDict]) -> PoolTasks:
        """Return the same pool for tasks with options; see `Pool.options`."""
        return PoolTasks(self, task_options(options))


class _Dispatcher(Dispatcher):
    """Sends tasks to where the router sees to their time."""

    @override
    def limited(self, job: Job) -> Job:
        return job

    @override
    def down(self, error: BaseException) -> BaseException:
        # The pool is elsewhere, and another may have its name next.
        return error


def _dispatcher_to(client: Client, ref: Ref[Lane]) -> Dispatcher:
    dispatcher = _Dispatcher(client)
    route = _ToRouter(client, ref)
    for _ in range(LINES):
        dispatcher.add(ref, route)
    return dispatcher


class _ToRouter:
    """The way to the router of a pool, on which all its lanes are reached."""

    def __init__(self, client: Client, ref: Ref[Lane]) -> None:
        self._client = client
        self._ref = ref
        self._calls: dict[asyncio.Future[Any], Job] = {}
        # Those that the router was asked to stop.
        self._stopping: set[Job] = set()
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
        route = route_to(self._ref)
        job = self.job
        assert job is not None
        priority, limit = job.options.priority, job.options.timeout
        if priority or limit is not None:
            kwargs = {**kwargs, SAID: [priority, None, None, limit]}
        future = route.invoke(operation, args, kwargs, timeout)
        # Not before: one that cannot be sent is not on its way.
        self.job = None
        self._calls[future] = job
        future.add_done_callback(self._done)
        return future

    def is_about_lane(self, error: BaseException) -> bool:
        """Return True: the router hands on what has become of its lanes as of any call."""
        return True

    def _done(self, future: asyncio.Future[Any]) -> None:
        job = self._calls.pop(future)
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
            job.set_exception(error)

    def jobs_of(self, future: object) -> list[tuple[int, Job]]:
        """Return the tasks of a future that have no reply yet, each behind its number."""
        calls = ((seq, self._calls.get(call)) for seq, call in self._pending())
        return [(n, j) for n, j in calls if j is not None and (future is None or j.is_of(future))]

    def number_of(self, job: Job) -> int | None:
        """Return the number of a task that has no reply yet."""
        return next((seq for seq, call in self._pending() if self._calls.get(call) is job), None)

    def _pending(self) -> Iterator[tuple[int, asyncio.Future[Any]]]:
        pending: dict[int, tuple[Any, ...]] = {**self._client.way_to(self._ref).pending}
        yield from ((seq, entry[0]) for seq, entry in pending.items())

    def stop(self, future: object, stoppable: object) -> bool:
        """Have the router stop the tasks of a future; return whether there are any."""
        found = self.jobs_of(future)
        for number, job in found:
            # All lanes are reached on this one way, and each asks for it.
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
