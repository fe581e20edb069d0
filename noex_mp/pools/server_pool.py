"""`Pool.of`: several servers of one class that have one address."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeGuard, TypeVar

from noex_mp.core.gen_server import GenServer
from noex_mp.core.specs import ChildSpec, DynamicSupervisor, ServerPool, child
from noex_mp.errors import BadChildSpecError
from noex_mp.pools.backlog import Discard
from noex_mp.pools.functions import pack_function
from noex_mp.pools.lanes import check_count
from noex_mp.pools.pool_options import (
    PoolOptions,
    bounds_of,
    check_discard,
    check_limit,
    check_seconds,
    packed_key,
    packed_routing,
)
from noex_mp.pools.router import MEMBERS, Router
from noex_mp.pools.routing import Routing

__all__ = ["pool_of_servers", "server_pool"]

S = TypeVar("S", bound=GenServer[Any, Any, Any])

# How often within its `max_seconds` the members of a pool may fail in their `init`.
_FAILED_INITS = 3


def pool_of_servers(
    server: ChildSpec[S] | Callable[[], S],
    /,
    *,
    size: int | None = None,
    min_size: int | None = None,
    max_size: int | None = None,
    scale_after: float = 1.0,
    routing: Routing | Callable[..., int] = "least_busy",
    key: Callable[..., object] | None = None,
    in_flight: int = 1,
    limit: int | None = None,
    discard: Discard = "newest",
    ttl: float | None = None,
    id: str | None = None,
    name: str | None = None,
) -> ServerPool[S]:
    """Describe several servers of one class, each in its process, that have one address.

    What is sent to it waits in one queue and goes to one of them; see `docs/server-pools.md`. It is
    started as any server is, with `await spawn(...)` or as an entry of a tree, and its `Ref` is one
    as any other. `pool_of(ref)` is the pool itself: to resize it, to restart it.

    Args:
        server: The class, if its constructor needs no arguments; else `child(...)`, whose options
            are those of each server.
        size: How many there are; by default as many as this process may use CPUs. At most 32,768.
        min_size: How few there may be, where their number follows the load.
        max_size: How many; by default as many as there are CPUs.
        scale_after: How long a message may wait, in seconds, before there is one server more.
        routing: Who gets a message: `"least_busy"`, whoever has the least to do; `"round_robin"`,
            each in turn; `"key"`, for one key always the same; `"sticky"`, for one caller always
            the same. Or a function that is given how many servers there are, and then what the
            operation is given, and returns a number: of which server, counted from 0.
        key: Returns the key of a message, and is given what the operation is given; by default
            the key is what its first parameter gets.
        in_flight: How many messages a server has at a time; more than one where it replies later,
            or has so little to do for each that the way there and back counts.
        limit: How many messages may wait for a server; None is without limit.
        discard: Which one goes where more do, of those with the lowest priority. Its caller gets a
            `MailboxFullError`.
        ttl: How long a message may wait for a server, in seconds; then its caller gets a
            `CallTimedOutError`. None is as long as the caller waits.
        id: What the supervisor calls it; by default its name, or the class's with `-pool`.
        name: What the node calls it: the name of its address.

    Raises:
        BadChildSpecError: A server of the pool has a name, or another `restart` than
            `"permanent"`, or it is no server.
        TypeError, ValueError: An option is not what it should be.
        UnencodableError: A function cannot be sent.

    Example:
        ```python
        hashers = await spawn(Pool.of(Hasher, size=4))
        await Hasher.digest(hashers, data)
        ```
    """
    start, bounds = bounds_of(size, min_size, max_size)
    check_seconds("scale_after", scale_after, may_be_none=False)
    check_limit(limit)
    check_seconds("ttl", ttl)
    check_discard(discard)
    options = PoolOptions(
        size=start,
        bounds=bounds,
        scale_after=scale_after,
        routing=packed_routing(routing),
        key=packed_key(key, routing),
        in_flight=check_count("in_flight", in_flight),
        limit=limit,
        discard=discard,
        ttl=ttl,
    )
    return server_pool(_member_of(server), options, id=id, name=name)


def server_pool(
    member: ChildSpec[S], options: PoolOptions, *, id: str | None, name: str | None
) -> ServerPool[S]:
    """Return the supervisor of a pool: its members, and the router that has its address."""
    label = member.server.__qualname__
    # However often a member ends, the others go on. And the router, which hands out what they do,
    # starts again with them, should their supervisor be started again.
    members = DynamicSupervisor(
        member, id=MEMBERS, max_restarts=None, max_failed_inits=_FAILED_INITS
    )
    router = child(Router, pack_function(member.server), options).options(
        id="router", name=name, shutdown=_patience(member), init_timeout=None
    )
    labelled = replace(router, label=label)
    return ServerPool(members, labelled, strategy="rest_for_one", id=id or name or f"{label}-pool")


def _patience(member: ChildSpec[Any]) -> float | None:
    # It lets its members finish.
    return 5.0 if member.shutdown == "brutal_kill" else member.shutdown


def _member_of(server: Any) -> ChildSpec[Any]:
    spec: ChildSpec[Any] = server if _is_spec(server) else child(server)
    # Whoever runs no type checker may have given anything.
    cls: Any = spec.server
    if not isinstance(cls, type) or not issubclass(cls, GenServer):
        raise BadChildSpecError(
            f"expected a GenServer for the pool, got {cls!r:.60}\n"
            f"Write Pool.of(YourServer), or Pool.of(child(YourServer, ...))."
        )
    if spec.name is not None:
        raise BadChildSpecError(
            f"a server of a pool has no name of its own, got {spec.name!r}\n"
            f'Write Pool.of(..., name="{spec.name}").'
        )
    # What a class says of itself is for where it stands alone.
    if spec.restart not in ("permanent", child(spec.server).restart):
        raise BadChildSpecError(
            f"a server of a pool is always started again, got restart={spec.restart!r}\n"
            f"Leave restart= out; pool_of(ref).resize(n) is how a pool gets smaller."
        )
    return spec.options(restart="permanent")


def _is_spec(server: object) -> TypeGuard[ChildSpec[Any]]:
    return isinstance(server, ChildSpec)
