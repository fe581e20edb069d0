"""What every fault is followed by: the node answers, in the process of the fault and elsewhere."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

from noex_mp import Ref, child
from tests.nodes.observed import ObservedNode
from tests.servers.counters import Counter
from tests.servers.hostile import Hostile

SERVERS = ("tests.servers.counters", "tests.servers.faulty", "tests.servers.hostile")


@asynccontextmanager
async def scene(
    server: type[Hostile] = Hostile, **arguments: Any
) -> AsyncGenerator[tuple[ObservedNode, Ref[Hostile]]]:
    """Give a node with a hostile server; look afterwards whether life goes on."""
    async with ObservedNode(preload=SERVERS) as node:
        counter = await node.spawn(Counter)
        os_pid = await Counter.os_pid(counter)
        spec = child(server, **arguments).options(shutdown=0.1)
        hostile: Ref[Hostile] = await node.spawn(spec)
        yield node, hostile
        # The neighbour has not noticed, the server itself is there, and more may be started.
        assert await Counter.increment(counter) == 1
        assert await Counter.os_pid(counter) == os_pid
        if await hostile.is_running():
            assert await Hostile.step(hostile, 7) == 7
        assert await Counter.increment(await node.spawn(Counter)) == 1
