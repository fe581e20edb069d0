"""A server that dies while its mailbox is full: calls are made again, casts are counted exactly."""

from __future__ import annotations

import asyncio

import pytest

from noex_mp import Killed, ServerExitedError, child
from tests.faults.aftermath import scene
from tests.nodes.observed import Whistles, on_both_loops
from tests.servers.hostile import Hostile

pytestmark = pytest.mark.slow

ROOM = 100


@on_both_loops
async def test_a_death_with_a_full_mailbox_loses_the_casts_in_it_and_nothing_else(
    whistles: Whistles,
) -> None:
    started, release = whistles(), whistles()
    async with scene() as (node, _):
        full = await node.spawn(child(Hostile).options(max_messages=ROOM))
        await Hostile.echo(full, 1)
        pausing = Hostile.pause(full.within(None), started.path, release.path)
        await started.heard()
        calls = list[asyncio.Future[int]]()
        casts = list[asyncio.Future[None]]()
        for n in range(3 * ROOM):
            calls.append(Hostile.step(full.within(None), n))
            casts.append(Hostile.note(full.within(None), -n))
        # Full: those that came last wait at their sender.
        await full.is_running()
        assert not casts[-1].done()
        node.kill(full)
        with pytest.raises(ServerExitedError) as failure:
            await pausing
        assert failure.value.report.reason == Killed("SIGKILL")
        assert await asyncio.gather(*calls) == list(range(3 * ROOM))
        await asyncio.gather(*casts)
        items = await Hostile.all(full)
        assert [n for n in items if n > 0] == list(range(1, 3 * ROOM))
        lost = (await node.event("messages_lost", full)).count
        # The first ones are lost; the others come in their order.
        assert 0 < lost <= ROOM
        assert [n for n in items if n < 0] == [-n for n in range(lost, 3 * ROOM)]
