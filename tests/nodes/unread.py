"""What the root finds at one look, and reads in the wrong order."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import pytest

from noex_mp import Ref, ServerExitedError
from tests.nodes.observed import ObservedNode
from tests.servers.watching import Watcher

__all__ = ["read_after_the_crash_of"]


@asynccontextmanager
async def read_after_the_crash_of(
    one: Ref[Watcher], neighbour: Ref[Watcher], other: Ref[Watcher], *, node: ObservedNode
) -> AsyncGenerator[None]:
    """Let `one` crash after the body; the root reads of that before what the body has sent.

    Args:
        one: Who crashes.
        neighbour: Lives in the same process.
        other: Does not.
    """
    for each in (one, neighbour, other):
        # From now on the root has nothing to do with calls to it.
        await Watcher.os_pid(each)
    async with node.stalled():
        # The root finds news of the process of `one` first, and reads on to its end there.
        await Watcher.watch(one, other)
        yield
        crashing = asyncio.ensure_future(Watcher.crash(one))
        for _ in range(3):
            await Watcher.os_pid(neighbour)
    with pytest.raises(ServerExitedError):
        await crashing
