"""Bounded mailboxes: what becomes of messages that nobody takes, and of everybody else."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import signal
from collections.abc import Callable
from typing import Any

import psutil
import pytest

from noex_mp import CallTimedOutError, MailboxFullError, Ref, child, spawn
from tests.nodes.observed import ObservedNode, Whistles, on_both_loops
from tests.servers.busy import Busy, DropsNewest, DropsOldest, Rejects

MIB = 2**20


@contextlib.contextmanager
def stopped(node: ObservedNode, ref: Ref[Any]) -> Any:
    os_pid = node.os_pid_of(ref)
    os.kill(os_pid, signal.SIGSTOP)
    try:
        yield os_pid
    finally:
        os.kill(os_pid, signal.SIGCONT)


def nowait_until_full(ref: Ref[Busy], limit: int = 50_000) -> int:
    for n in range(limit):
        try:
            Busy.note.nowait(ref, n)
        except MailboxFullError:
            return n
    return limit


async def when_free(operation: Callable[[Ref[Any]], Any], ref: Ref[Any]) -> tuple[Any, int]:
    """Call until the mailbox has room again; return the reply, and how often it had none."""
    for refused in itertools.count():
        with contextlib.suppress(MailboxFullError):
            return await operation(ref.within(None)), refused
        await asyncio.sleep(0.005)
    raise AssertionError


async def until_count(busy: Ref[Busy], count: int) -> None:
    while await Busy.count(busy.within(None)) < count:  # noqa: ASYNC110 - in another process
        await asyncio.sleep(0.01)


@pytest.mark.slow
@on_both_loops
async def test_a_million_casts_to_a_stopped_server_cost_no_more_than_the_bounds() -> None:
    async with ObservedNode() as node:
        busy = await spawn(Busy)
        await Busy.note(busy, -1)
        await Busy.count(busy)
        with stopped(node, busy) as os_pid:
            own, theirs = psutil.Process(), psutil.Process(os_pid)
            before = own.memory_info().rss, theirs.memory_info().rss
            sent = refused = 0
            for n in range(1_000_000):
                try:
                    Busy.note(busy.within(None), n)
                    sent += 1
                except MailboxFullError:
                    refused += 1
            assert sent + refused == 1_000_000
            # The window, and what may wait in this process.
            assert 100_000 <= sent <= 110_000
            grown = own.memory_info().rss - before[0], theirs.memory_info().rss - before[1]
            assert max(grown) < 128 * MIB
        # Nothing of what was taken is lost, and the order is kept.
        notes, _ = await when_free(Busy.notes, busy)
        assert notes == [-1, *range(sent)]


@on_both_loops
async def test_a_sender_that_waits_goes_on_with_the_server() -> None:
    async with ObservedNode() as node:
        busy = await spawn(child(Busy).options(max_messages=100))
        await Busy.count(busy)
        sent = 0

        async def send() -> None:
            nonlocal sent
            for n in range(1000):
                await Busy.note(busy.within(None), n)
                sent += 1

        with stopped(node, busy):
            sending = asyncio.create_task(send())
            await asyncio.sleep(0.2)
            assert 90 <= sent <= 100
        await sending
        assert await Busy.notes(busy) == list(range(1000))


async def test_a_cast_that_waits_has_a_deadline() -> None:
    async with ObservedNode() as node:
        busy = await spawn(child(Busy).options(max_messages=10))
        await Busy.count(busy)
        with stopped(node, busy):
            sent = nowait_until_full(busy)
            with pytest.raises(CallTimedOutError):
                await Busy.note(busy.within(0.05), "late")
            cancelled = Busy.note(busy.within(None), "cancelled")
            cancelled.cancel()
            kept = Busy.note(busy.within(None), "kept")
            await asyncio.sleep(0.1)
        await kept
        assert await Busy.notes(busy) == [*range(sent), "kept"]


@on_both_loops
@pytest.mark.parametrize("bound", [1, 10, 10_000])
async def test_nowait_raises_when_the_window_is_used_up(bound: int, whistles: Whistles) -> None:
    coming, going = whistles(), whistles()
    async with ObservedNode():
        busy = await spawn(child(Busy).options(max_messages=bound))
        await Busy.count(busy)
        blocked = Busy.block(busy.within(None), coming.path, going.path)
        await coming.heard()
        sent = nowait_until_full(busy)
        # The message that is being handled may count until its handler is done.
        assert bound - 1 <= sent <= bound
        going.blow()
        await blocked
        assert await Busy.notes(busy) == list(range(sent))


@pytest.mark.parametrize("size", [10_000, MIB])
async def test_the_bytes_are_bounded_too(size: int, whistles: Whistles) -> None:
    coming, going = whistles(), whistles()
    async with ObservedNode():
        busy = await spawn(child(Busy).options(max_bytes=8 * MIB))
        await Busy.count(busy)
        blocked = Busy.block(busy.within(None), coming.path, going.path)
        await coming.heard()
        sent = 0
        with contextlib.suppress(MailboxFullError):
            while sent < 10_000:
                # Until it raises.
                Busy.note.nowait(busy, bytes(size))
                sent += 1
        assert 6 * MIB <= sent * size <= 9 * MIB
        going.blow()
        await blocked
        assert await Busy.count(busy.within(None)) == sent


async def test_a_message_above_the_bound_goes_alone() -> None:
    async with ObservedNode():
        busy = await spawn(child(Busy).options(max_bytes=1000))
        big = bytes(100_000)
        echoes = [Busy.echo(busy, big) for _ in range(5)]
        assert await asyncio.gather(*echoes) == [big] * 5


async def test_a_call_has_no_nowait() -> None:
    async with ObservedNode():
        busy = await spawn(Busy)
        with pytest.raises(TypeError, match="count is a call and has a reply"):
            Busy.count.nowait(busy)


@on_both_loops
async def test_a_server_that_rejects_lets_nobody_wait(whistles: Whistles) -> None:
    coming, going = whistles(), whistles()
    async with ObservedNode() as node:
        rejects = await spawn(Rejects)
        await Rejects.count(rejects)
        blocked = Rejects.block(rejects.within(None), coming.path, going.path)
        await coming.heard()
        sent = refused = 0
        for n in range(20):
            try:
                await Rejects.note(rejects, n)
                sent += 1
            except MailboxFullError:
                refused += 1
        with pytest.raises(MailboxFullError, match="10 messages wait for Rejects"):
            await Rejects.count(rejects)
        assert 9 <= sent <= 10
        going.blow()
        await blocked
        notes, tries = await when_free(Rejects.notes, rejects)
        assert notes == list(range(sent))
        (shown,) = await node.ps()
        assert shown["dropped"] == refused + 1 + tries
        await node.event("messages_dropped", rejects)


async def test_a_server_may_keep_the_oldest(whistles: Whistles) -> None:
    coming, going = whistles(), whistles()
    async with ObservedNode() as node:
        drops = await spawn(DropsNewest)
        await DropsNewest.count(drops)
        blocked = DropsNewest.block(drops.within(None), coming.path, going.path)
        await coming.heard()
        for n in range(100):
            await DropsNewest.note(drops, n)
        with pytest.raises(MailboxFullError):
            await DropsNewest.count(drops)
        going.blow()
        await blocked
        notes, tries = await when_free(DropsNewest.notes, drops)
        assert notes == list(range(len(notes)))
        assert 9 <= len(notes) <= 10
        (shown,) = await node.ps()
        assert shown["dropped"] == 100 - len(notes) + 1 + tries


async def test_a_server_may_keep_the_newest(whistles: Whistles) -> None:
    coming, going = whistles(), whistles()
    async with ObservedNode() as node:
        drops = await spawn(DropsOldest)
        await DropsOldest.count(drops)
        waiting = DropsOldest.wait(drops.within(None), coming.path)
        await coming.heard()
        for n in range(1000):
            await DropsOldest.note(drops, n)
        oldest = DropsOldest.echo(drops.within(None), "a call, and the oldest")
        last = 1000
        while not oldest.done():
            last += 1
            await DropsOldest.note(drops, last)
            await asyncio.sleep(0.001)
        assert isinstance(oldest.exception(), MailboxFullError)
        waiting.cancel()
        await node.event("messages_dropped", drops)
        notes = await DropsOldest.notes(drops)
        assert notes[0] == "cancelled"
        assert notes[1:] == list(range(last - len(notes) + 2, last + 1))
        assert 9 <= len(notes) - 1 <= 10
        going.blow()


@on_both_loops
async def test_a_full_server_does_not_stall_its_neighbour(whistles: Whistles) -> None:
    coming = whistles()
    async with ObservedNode():
        full = await spawn(child(Busy).options(placement="both", max_messages=100))
        neighbour = await spawn(child(Busy).options(placement="both"))
        waiting = Busy.wait(full.within(None), coming.path)
        await coming.heard()
        flood = [Busy.note(full.within(None), n) for n in range(5000)]
        assert [await Busy.echo(neighbour, n) for n in range(200)] == list(range(200))
        assert not flood[-1].done()
        waiting.cancel()
        await flood[-1]
        assert await Busy.count(full) == 5001


@pytest.mark.slow
@on_both_loops
async def test_two_servers_that_flood_each_other_do_not_deadlock() -> None:
    async with ObservedNode():
        one, two = await spawn(Busy), await spawn(Busy)
        count = 30_000
        await Busy.flood(one.within(None), two, count)
        await Busy.flood(two.within(None), one, count)
        for server in (one, two):
            await until_count(server, count)


async def test_many_senders_share_a_mailbox(whistles: Whistles) -> None:
    coming = whistles()
    async with ObservedNode():
        busy = await spawn(child(Busy).options(max_messages=1000))
        senders = [await spawn(Busy) for _ in range(4)]
        # Each has sent something, and knows its share.
        for sender in senders:
            await Busy.flood(sender, busy, 1)
        await until_count(busy, 4)
        waiting = Busy.wait(busy.within(None), coming.path)
        await coming.heard()
        for sender in senders:
            await Busy.flood(sender.within(None), busy, 5000)
        await asyncio.sleep(0.3)
        waiting.cancel()
        await until_count(busy, 20_005)


async def test_a_full_mailbox_is_counted_exactly_at_a_death() -> None:
    async with ObservedNode() as node:
        busy = await spawn(child(Busy).options(max_messages=100))
        await Busy.count(busy)
        with stopped(node, busy):
            sent = nowait_until_full(busy)
            waiting = [Busy.note(busy.within(None), n) for n in range(50)]
            calls = [Busy.echo(busy.within(None), n) for n in range(10)]
            node.kill(busy)
        lost = await node.event("messages_lost", busy)
        assert lost.count == sent
        # What waited here had never left: the next incarnation gets it, in its order.
        await asyncio.gather(*waiting)
        assert await asyncio.gather(*calls) == list(range(10))
        assert await Busy.notes(busy) == [*range(50), *range(10)]
