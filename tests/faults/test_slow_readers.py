"""Callers that do not take their replies: nothing that is finished is lost, nobody else waits."""

from __future__ import annotations

import asyncio
import threading
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from noex_mp import Ref, ServerExitedError, spawn, sync
from noex_mp.client import current
from tests.nodes.observed import (
    ObservedNode,
    on_both_loops,
    shared_node,
)
from tests.servers.answering import Answering

pytestmark = pytest.mark.usefixtures("shared_nodes")

MIB = 2**20


def link_to(ref: Ref[Any]) -> Any:
    return current.client().route(ref.sid, ref.label).link


@on_both_loops
@pytest.mark.parametrize(
    ("operation", "sizes"),
    [("big", [MIB]), ("big", [100_000] * 6), ("big_slowly", [MIB]), ("big_slowly", [100_000] * 6)],
    ids=["one", "six", "one, async", "six, async"],
)
async def test_what_is_finished_is_answered_though_the_next_message_kills(
    operation: str, sizes: list[int]
) -> None:
    async with shared_node():
        ref = await spawn(Answering)
        await Answering.os_pid(ref)
        # The first leaves at once; what follows is one batch over there.
        first = Answering.os_pid(ref)
        answers = [getattr(Answering, operation)(ref, size) for size in sizes]
        end = Answering.die(ref)
        await first
        assert [len(answer) for answer in await asyncio.gather(*answers)] == sizes
        with pytest.raises(ServerExitedError):
            await end


def read_by_hand(link: Any) -> None:
    """Take a link's reader away, as if this program did not read."""
    asyncio.get_running_loop().remove_reader(link.fd)


def read_again(link: Any) -> None:
    asyncio.get_running_loop().add_reader(link.fd, link.read)


@on_both_loops
@pytest.mark.parametrize("operation", ["big", "big_slowly"])
async def test_one_that_does_not_read_delays_no_other_and_costs_no_cpu(operation: str) -> None:
    async with ObservedNode():
        ref = await spawn(Answering)
        process = psutil.Process(await Answering.os_pid(ref))
        link = link_to(ref)
        read_by_hand(link)
        answers = [getattr(Answering, operation)(ref, 100_000) for _ in range(100)]
        link.flush()
        # Another client, with a link of its own, is served all the time.
        for _ in range(20):
            assert await asyncio.to_thread(Answering.count.sync, ref) == 0
        # And there is more to be read over there.
        answers += [getattr(Answering, operation)(ref, 100_000) for _ in range(100)]
        link.flush()
        before = sum(process.cpu_times()[:2])
        await asyncio.sleep(0.5)
        assert sum(process.cpu_times()[:2]) - before < 0.25
        # Nor does it work on: what nobody takes is not even made.
        assert process.memory_info().rss < 100 * MIB
        read_again(link)
        assert {len(answer) for answer in await asyncio.gather(*answers)} == {100_000}


@on_both_loops
async def test_what_it_has_sent_is_handled_before_a_stop(tmp_path: Path) -> None:
    written = tmp_path / "handled"
    async with shared_node() as node:
        ref = await spawn(Answering, str(written))
        await Answering.os_pid(ref)
        link = link_to(ref)
        read_by_hand(link)
        answer = Answering.big_slowly(ref, 4 * MIB)
        for _ in range(50):
            await Answering.put(ref, b"x" * 1000)
        link.flush()
        assert not link.backlog
        stopping = threading.Thread(target=sync.stop, args=(ref,))
        stopping.start()
        # `terminate` comes after all of it, and the answer is still on its way.
        await node.event("stopping", ref)
        await asyncio.to_thread(wait_for, written)
        read_again(link)
        await asyncio.to_thread(stopping.join)
        await asyncio.gather(answer, return_exceptions=True)
        assert written.read_text() == "50"


def wait_for(file: Path) -> None:
    while not file.exists() or not file.read_text():
        time.sleep(0.01)


async def test_a_call_that_is_put_aside_can_be_cancelled() -> None:
    async with shared_node():
        ref = await spawn(Answering)
        await Answering.os_pid(ref)
        link = link_to(ref)
        read_by_hand(link)
        answer, end = Answering.big_slowly(ref, 4 * MIB), Answering.die(ref)
        link.flush()
        assert await asyncio.to_thread(Answering.count.sync, ref) == 0
        end.cancel()
        # The news of it has left once this cast has.
        await asyncio.sleep(0.1)
        read_again(link)
        assert len(await answer) == 4 * MIB
        assert await Answering.count(ref) == 0
