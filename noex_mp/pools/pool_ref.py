"""`pool_of(ref)`: what a program does with a pool of servers, besides sending it messages."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from typing_extensions import ParamSpec

from noex_mp.core.gen_server import GenServer
from noex_mp.core.messages import Call
from noex_mp.core.operations import Operation, operation_info
from noex_mp.core.ref import Ref, route_to
from noex_mp.errors import ConfigError, UnknownOperationError
from noex_mp.pools.backlog import Discard
from noex_mp.pools.lanes import check_count
from noex_mp.pools.options import check_priority
from noex_mp.pools.pool_options import check_discard, check_limit, check_seconds
from noex_mp.pools.requests import (
    SAID,
    TO_MEMBERS,
    TO_POOL,
    Broadcast,
    Drain,
    GetStatistics,
    LimitQueue,
    PoolStatistics,
    Resize,
    RestartAll,
    ToPool,
)

if TYPE_CHECKING:
    from noex_mp.pools.blocking_pool import BlockingPool

__all__ = ["PoolRef", "broadcast_of", "explained", "limit_of", "no_pool", "pool_of"]

S = TypeVar("S", bound=GenServer[Any, Any, Any])
P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class PoolRef(Generic[S]):
    """A pool of servers: a small value, as the `Ref` that it is made of.

    Whatever is asked of it is asked when the method is called; awaiting only waits, as long as it
    takes. Where the address is that of one server, and of no pool, it is a `ConfigError`.

    Attributes:
        ref: The address of the pool.
    """

    ref: Ref[S]

    @property
    def sync(self) -> BlockingPool[S]:
        """The same for threads without an event loop: each method blocks until it is done.

        Example:
            ```python
            before = pool_of(hashers).sync.resize(8)
            ```
        """
        from noex_mp.pools.blocking_pool import BlockingPool

        return BlockingPool(self.ref)

    # --- its servers -----------------------------------------------------------------------

    def resize(self, size: int) -> asyncio.Future[int]:
        """Have so many servers; the future is of how many there were, once it is done.

        Those that leave are the youngest. They get nothing new, and finish what they have.

        Raises:
            InitFailedError, InitTimedOutError: One did not start; those that did are there.
            TypeError, ValueError: That is no number of servers, or not within `min_size` and
                `max_size` of the pool.

        Example:
            ```python
            before = await pool_of(hashers).resize(8)
            ```
        """
        return self._ask(Resize(check_count("size", size)))

    def restart(self) -> asyncio.Future[int]:
        """Replace all servers by new ones, one by one; the future is of how many, when it is done.

        The new one is up before the old one leaves, and that finishes what it has: no message is
        lost, and there are never less than there were.

        Raises:
            InitFailedError, InitTimedOutError: A new one did not start; those that were not
                replaced by then stay.
        """
        return self._ask(RestartAll())

    def broadcast(
        self, operation: Operation[S, P, R, Any], /, *args: P.args, **kwargs: P.kwargs
    ) -> asyncio.Future[list[R]]:
        """Send an operation to each of its servers; the future is of their replies.

        Raises:
            Exception: What the first of them has raised that did.

        Example:
            ```python
            sizes = await pool_of(hashers).broadcast(Hasher.forget, older_than=60)
            ```
        """
        request = broadcast_of(operation, args, kwargs)
        answer = route_to(self.ref).invoke(TO_MEMBERS, (request,), {}, self.ref.timeout)
        return _explained(self.ref, answer)

    # --- its messages ----------------------------------------------------------------------

    def options(self, *, priority: int = 0, ttl: float | None = None, key: object = None) -> Ref[S]:
        """Return the address of the pool, with which to send messages that have these options.

        Args:
            priority: A message of a higher one goes ahead of all that wait with a lower one.
            ttl: How long it may wait for a server, in seconds; None: as the pool says.
            key: What keeps it in its order with all that have the same; None: as the pool says.

        Raises:
            TypeError, ValueError: The priority is no whole number, or the time none above zero.

        Example:
            ```python
            urgent = pool_of(hashers).options(priority=10)
            await Hasher.digest(urgent, data)
            ```
        """
        check_priority(priority)
        check_seconds("ttl", ttl)
        ref, said = self.ref, {SAID: [priority, ttl, key, None]}
        return Ref(ref.node, ref.sid, ref.name, ref.timeout, ref.label, said)

    def drain(self) -> asyncio.Future[None]:
        """Return a future that is done once all is that was sent to the pool before."""
        return self._ask(Drain())

    def limit(self, limit: int | None, discard: Discard | None = None) -> asyncio.Future[None]:
        """Let no more messages wait than that, from now on.

        Args:
            limit: How many; None is without limit.
            discard: Which one goes where more do, of those with the lowest priority; None: as
                before.
        """
        return self._ask(limit_of(limit, discard))

    def statistics(self) -> asyncio.Future[PoolStatistics]:
        """Return the future of how the pool is."""
        return self._ask(GetStatistics())

    def _ask(self, request: Call[R]) -> asyncio.Future[R]:
        return _explained(self.ref, route_to(self.ref).invoke(TO_POOL, (request,), {}, None))


def broadcast_of(operation: object, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Broadcast:
    """Return what is asked of a pool that is to send an operation to each of its servers.

    Raises:
        TypeError: That is no operation.
    """
    info = operation_info(operation)
    if info is None:
        raise TypeError(
            f"expected an operation, got {operation!r:.60}\n"
            f"Write pool_of(ref).broadcast(YourServer.operation, ...)."
        )
    return Broadcast(info.name, list(args), kwargs)


def limit_of(limit: int | None, discard: Discard | None) -> LimitQueue:
    """Return what is asked of a pool that is to have a limit.

    Raises:
        ValueError: That is no limit.
    """
    check_limit(limit)
    if discard is not None:
        check_discard(discard)
    return LimitQueue(limit, discard)


def _explained(ref: Ref[Any], answer: asyncio.Future[R]) -> asyncio.Future[R]:
    """Return a future of the same answer; that of a server which is no pool is explained."""
    future: asyncio.Future[R] = answer.get_loop().create_future()

    def answered(answer: asyncio.Future[R]) -> None:
        if future.done():
            return
        error = None if answer.cancelled() else answer.exception()
        if answer.cancelled():
            future.cancel()
        elif error is None:
            future.set_result(answer.result())
        else:
            future.set_exception(explained(ref, error))

    def given_up(future: asyncio.Future[R]) -> None:
        if future.cancelled():
            answer.cancel()

    answer.add_done_callback(answered)
    future.add_done_callback(given_up)
    return future


def explained(ref: Ref[Any], error: BaseException) -> BaseException:
    """Return an error, or what it means that a server does not know what is asked of a pool."""
    if isinstance(error, UnknownOperationError) and ToPool.name in error.operation:
        return ConfigError(no_pool(ref.name or ref.label))
    return error


def no_pool(server: str) -> str:
    """Return what to say where somebody takes a server for a pool."""
    return (
        f"{server} is one server, and no pool\n"
        f"A pool is what Pool.of(...) and Pool(...) describe, for spawn or a tree."
    )


def pool_of(ref: Ref[S]) -> PoolRef[S]:
    """Return the pool that has an address.

    Args:
        ref: What `spawn(Pool.of(...))` gave you, or `named(...)`.

    Raises:
        TypeError: That is no `Ref`.
    """
    if not isinstance(ref, Ref):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(
            f"expected the Ref of a pool, got {ref!r:.60}\n"
            f"Write pool_of(await spawn(Pool.of(YourServer)))."
        )
    return PoolRef(ref)
