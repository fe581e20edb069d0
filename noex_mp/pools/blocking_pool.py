"""What threads without an event loop do with a pool of servers: each method blocks."""

from __future__ import annotations

from typing import Any, Generic, TypeVar

from typing_extensions import ParamSpec

from noex_mp.client.blocking import refuse_in_a_loop, this_thread
from noex_mp.core.gen_server import GenServer
from noex_mp.core.messages import Call
from noex_mp.core.operations import Operation
from noex_mp.core.ref import Ref
from noex_mp.errors import UnknownOperationError
from noex_mp.pools.backlog import Discard
from noex_mp.pools.lanes import check_count
from noex_mp.pools.pool_ref import broadcast_of, explained, limit_of
from noex_mp.pools.requests import (
    TO_MEMBERS,
    TO_POOL,
    Drain,
    GetStatistics,
    PoolStatistics,
    Resize,
    RestartAll,
    ToPool,
)

__all__ = ["BlockingPool"]

S = TypeVar("S", bound=GenServer[Any, Any, Any])
P = ParamSpec("P")
R = TypeVar("R")


class BlockingPool(Generic[S]):
    """A pool of servers, in the hands of a thread without an event loop.

    The methods do what those of `PoolRef` do, with the same arguments and errors, and raise
    `NoNodeError` where an event loop runs in this thread.
    """

    def __init__(self, ref: Ref[S]) -> None:
        self._ref = ref

    def resize(self, size: int) -> int:
        """Have so many servers; return how many there were."""
        return self._ask(Resize(check_count("size", size)))

    def restart(self) -> int:
        """Replace all servers by new ones, one by one; return how many."""
        return self._ask(RestartAll())

    def broadcast(
        self, operation: Operation[S, P, R, Any], /, *args: P.args, **kwargs: P.kwargs
    ) -> list[R]:
        """Send an operation to each of its servers; return their replies."""
        request = broadcast_of(operation, args, kwargs)
        replies: list[R] = self._invoke(self._ref, TO_MEMBERS, request)
        return replies

    def drain(self) -> None:
        """Return once all is done that was sent to the pool before."""
        self._ask(Drain())

    def limit(self, limit: int | None, discard: Discard | None = None) -> None:
        """Let no more messages wait than that, from now on."""
        self._ask(limit_of(limit, discard))

    def statistics(self) -> PoolStatistics:
        """Return how the pool is."""
        return self._ask(GetStatistics())

    def _ask(self, request: Call[R]) -> R:
        reply: R = self._invoke(self._ref.within(None), TO_POOL, request)
        return reply

    def _invoke(self, ref: Ref[S], operation: ToPool, request: object) -> Any:
        refuse_in_a_loop("pool_of(ref).sync", "Leave .sync out, and await what the method returns.")
        try:
            return this_thread().invoke(ref, operation, (request,), {})
        except UnknownOperationError as error:
            raise explained(ref, error) from None
