"""`noex-mp scale NAME N`: let a pool of a running node have so many processes."""

from __future__ import annotations

import asyncio
from typing import Final

from noex_mp.cli import statuses
from noex_mp.cli.call import complain, find_server, take_replies_as_they_are
from noex_mp.cli.client import close_all, connect
from noex_mp.cli.results import show
from noex_mp.errors import ConfigError, UnknownOperationError
from noex_mp.pools.pool_ref import no_pool
from noex_mp.pools.requests import TO_POOL

__all__ = ["scale"]

# Where the server stands that has the address of a pool, below the pool.
_ROUTER: Final = "/router"


def scale(pool: str, size: int, *, node: str | None) -> int:
    """Let a pool have so many processes, and wait until it has; return the exit status.

    Args:
        pool: Its name, else its path.
        size: How many.
        node: The node's name; None means whichever has the pool.
    """
    take_replies_as_they_are()
    try:
        before = asyncio.run(_resize(pool, size, node))
    except UnknownOperationError:
        complain(ConfigError(no_pool(pool)), verbose=False)
        return statuses.FAILED
    except Exception as error:
        complain(error, verbose=False)
        return statuses.FAILED
    processes = "1 process" if size == 1 else f"{size} processes"
    show(f"{pool}: {processes}, before {before}" if before != size else f"{pool}: {processes}")
    return statuses.OK


async def _resize(pool: str, size: int, node: str | None) -> int:
    nodes = connect(node)
    if pool.startswith("/") and not pool.endswith(_ROUTER):
        pool += _ROUTER
    try:
        where, found = await find_server(pool, nodes, None)
        route = where.client.route(found["sid"], found["server"])
        before: int = await route.invoke(TO_POOL, (size,), {}, None)
        return before
    finally:
        close_all(nodes)
