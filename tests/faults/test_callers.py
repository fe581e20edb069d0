"""Callers that die with calls on their way, and callers that never read their replies."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from noex_mp import Ref, ServerExitedError, spawn
from tests.faults.aftermath import scene
from tests.nodes.observed import ObservedNode, Whistles, on_both_loops
from tests.servers.counters import Counter
from tests.servers.faulty import Faulty
from tests.servers.hostile import MIB, Asker, Hostile

pytestmark = pytest.mark.slow

MANY = 10_000


@on_both_loops
async def test_a_caller_that_dies_with_10000_calls_queued_disturbs_nobody(
    whistles: Whistles,
) -> None:
    started, release, sent = whistles(), whistles(), whistles()
    async with scene() as (node, hostile):
        asker = await spawn(Asker)
        os_pid = await Hostile.os_pid(hostile)
        pausing = Hostile.pause(hostile.within(None), started.path, release.path)
        await started.heard()
        calling = Asker.call_often(asker.within(None), hostile, MANY, sent.path)
        await sent.heard()
        node.kill(asker)
        with pytest.raises(ServerExitedError):
            await calling
        await node.event("restarted", asker)
        release.blow()
        await pausing
        # Each at most once and in order, as far as they had left; a call of ours comes in between.
        await Hostile.step(hostile.within(10), -1)
        items = [item for item in await Hostile.all(hostile) if item != -1]
        assert items == list(range(len(items)))
        assert await Hostile.os_pid(hostile) == os_pid
        assert await Asker.os_pid(asker)


@on_both_loops
async def test_a_caller_that_never_reads_costs_its_server_little_and_others_nothing(
    whistles: Whistles,
) -> None:
    started, release = whistles(), whistles()
    async with scene() as (node, _):
        faulty, asker, counter = await spawn(Faulty), await spawn(Asker), await spawn(Counter)
        before = resident(node, faulty)
        asking = Asker.ask_and_block(
            asker.within(None), faulty, 1000, 100_000, started.path, release.path
        )
        await started.heard()
        for n in range(1, 101):
            assert await Faulty.echo(faulty.within(2), n) == n
            assert await Counter.increment(counter.within(2)) == n
        # Of 100 MB of replies it holds what one batch makes.
        assert resident(node, faulty) - before < 20 * MIB
        release.blow()
        assert await asking == [100_000] * 1000


def resident(node: ObservedNode, server: Ref[Any]) -> int:
    """Return a worker's memory in bytes."""
    os_pid = node.os_pid_of(server)
    status = Path(f"/proc/{os_pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) * 1024
