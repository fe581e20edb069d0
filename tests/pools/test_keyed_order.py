"""Messages of one key keep their order, whatever happens to the servers of their pool meanwhile."""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections import defaultdict
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from noex_mp import InitFailedError, Pool, ServerExitedError, child, pool_of, spawn
from tests.nodes.observed import ObservedNode
from tests.servers.hashing import Hasher

MESSAGES = 120
KEYS = 7


# A dozen servers start, one after the other, which takes its time on a machine with much to do.
@pytest.mark.timeout(60)
async def test_a_key_keeps_its_order_across_deaths_resizes_and_restarts(tmp_path: Path) -> None:
    async with ObservedNode() as node:
        for seed in range(2):
            await run(seed, node, tmp_path / f"diary{seed}")


async def run(seed: int, node: ObservedNode, diary: Path) -> None:
    chance = random.Random(seed)
    ref = (await spawn(Pool.of(child(Hasher, str(diary)), size=2, routing="key"))).within(None)
    pool = pool_of(ref)
    notes: list[asyncio.Future[int]] = []
    deaths: list[asyncio.Future[None]] = []
    changes: list[asyncio.Future[int]] = []
    kills = 0
    for number in range(MESSAGES):
        key = f"{chance.randrange(KEYS)}"
        notes.append(Hasher.note(ref, key, number))
        match chance.randrange(60):
            case 0:
                deaths.append(Hasher.die(pool.options(key=key)))
            case 1 | 2:
                changes.append(pool.resize(chance.randint(1, 4)))
            case 3:
                changes.append(pool.restart())
            # A death in the start of a server counts as one of its `init`: more than three in 5 s
            # would be the end of all.
            case 4 if kills < 3:
                kills += await kill_one(node, chance)
            case other if other > 45:
                await asyncio.sleep(chance.random() * 0.005)
            case _:
                pass
    results = await asyncio.gather(*notes, return_exceptions=True)
    await fail(deaths, ServerExitedError, len(deaths))
    # Those that have started are there.
    await fail(changes, InitFailedError, kills)

    written = defaultdict[str, list[int]](list)
    lines = await asyncio.to_thread(diary.read_text)
    for line in lines.splitlines():
        key, value, _ = line.split()
        written[key].append(int(value))
    for key, values in written.items():
        assert values == sorted(set(values)), (seed, key)
    lost = {number for number, result in enumerate(results) if isinstance(result, BaseException)}
    assert all(isinstance(results[each], ServerExitedError) for each in lost), seed
    assert len(lost) <= kills, seed
    done = {value for values in written.values() for value in values}
    assert {*range(MESSAGES)} - done <= lost, seed


async def kill_one(node: ObservedNode, chance: random.Random) -> int:
    servers = [each["os_pid"] for each in await node.ps() if each["id"] == "Hasher"]
    os_pid = chance.choice(servers)
    if os_pid is not None:
        with suppress(ProcessLookupError):
            os.kill(os_pid, signal.SIGKILL)
            return 1
    return 0


async def fail(calls: list[asyncio.Future[Any]], error: type[Exception], at_most: int) -> None:
    """Check that no more calls have failed, and only in this way."""
    results = await asyncio.gather(*calls, return_exceptions=True)
    failed = [each for each in results if isinstance(each, BaseException)]
    assert all(isinstance(each, error) for each in failed), failed
    assert len(failed) <= at_most
