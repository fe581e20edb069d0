"""`Pool.named("cpu")`: the pool of functions that stands in a tree, in any process of the node."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

from typing_extensions import Unpack

from noex_mp.client import current
from noex_mp.client.registry import whereis
from noex_mp.core.ref import Ref, SentOperation, route_to
from noex_mp.errors import ConfigError, NoServerError
from noex_mp.pools.dispatcher import Dispatcher, Job
from noex_mp.pools.lane import Lane
from noex_mp.pools.options import NONE, TaskOptionsDict, task_options
from noex_mp.pools.pool import PoolTasks
from noex_mp.pools.requests import SAID

if TYPE_CHECKING:
    from noex_mp.client.client import Client
    from noex_mp.transport.link import Link

__all__ = ["NamedPool"]

# How many lanes a pool may have, for who does not know how many it has, and will have: so many
# tasks and chunks are on their way to it, or twice as many.
LINES: Final = 64


class NamedPool(PoolTasks):
    """A pool of functions that runs elsewhere in the node; see `Pool.named`.

    It starts nothing and stops nothing, and is good in all event loops of the process.
    """

    def __init__(self, where: str | Ref[Lane]) -> None:
        super().__init__(self, NONE)
        self._where = where
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
            kept = {c: d for c, d in self._dispatchers.items() if not c.closed}
            self._dispatchers = {**kept, client: known}
        return known

    def options(self, **options: Unpack[TaskOptionsDict]) -> PoolTasks:
        """Return the same pool for tasks with options: `retries`, `priority`; see `Pool.options`.

        Raises:
            ConfigError: A time or memory limit, which only a pool of the program's own has.
        """
        checked = task_options(options)
        if checked.timeout is not None or checked.memory_limit is not None:
            raise ConfigError(
                "a pool that the whole node shares takes the options retries and priority\n"
                "For a time or memory limit, use a pool of your own: async with Pool() as pool."
            )
        return PoolTasks(self, checked)


def _dispatcher_to(client: Client, ref: Ref[Lane]) -> Dispatcher:
    dispatcher = Dispatcher(client)
    route = _ToRouter(ref)
    for _ in range(LINES):
        dispatcher.add(ref, route)
    return dispatcher


class _ToRouter:
    """The way to the router of a pool, on which all its lanes are reached."""

    def __init__(self, ref: Ref[Lane]) -> None:
        self._ref = ref
        self._calls: dict[asyncio.Future[Any], Job] = {}
        self.job: Job | None = None
        self.link: Link | None = None

    def invoke(
        self,
        operation: SentOperation,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        timeout: float | None,
    ) -> object:
        """Send a task, with its priority."""
        job, self.job = self.job, None
        assert job is not None
        if job.options.priority:
            kwargs = {**kwargs, SAID: [job.options.priority, None, None]}
        future = route_to(self._ref).invoke(operation, args, kwargs, timeout)
        self._calls[future] = job
        future.add_done_callback(self._done)
        return future

    def is_about_lane(self, error: BaseException) -> bool:
        """Return True: the router hands on what has become of its lanes as of any call."""
        return True

    def _done(self, future: asyncio.Future[Any]) -> None:
        job = self._calls.pop(future)
        if future.cancelled():
            assert job.line is not None
            job.line.free()
        elif (error := future.exception()) is None:
            job.set_result(future.result())
        else:
            job.set_exception(error)

    def jobs_of(self, future: object) -> list[tuple[int, Job]]:
        """Cancel the calls of a future: from there on it is for the router to have them stopped."""
        for call in [call for call, job in self._calls.items() if job.is_of(future)]:
            call.cancel()
        return []

    def number_of(self, job: Job) -> int | None:
        """Return None: its number is known to the router, and to the lane that has it."""
        return None

    def stand_in(self, seq: int, job: Job) -> None:
        """Do nothing: `jobs_of` finds no tasks."""
