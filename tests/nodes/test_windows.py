"""Bounded mailboxes: what becomes of messages that nobody takes, and of everybody else."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import signal
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from noex_mp import CallTimedOutError, MailboxFullError, Ref, child, spawn, stop
from noex_mp.client import current, route
from tests.nodes.observed import (
    ObservedNode,
    Whistles,
    on_both_loops,
    shared_node,
    stuck_in_its_restart,
)
from tests.servers.busy import Busy, DropsNewest, DropsOldest, Rejects
from tests.servers.faulty import Start

pytestmark = pytest.mark.usefixtures("shared_nodes")

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


async def until_over(busy: Ref[Busy], seconds: float) -> None:
    """Let the time go by that a message had: one of ours had as much."""
    with pytest.raises(CallTimedOutError):
        await Busy.count(busy.within(seconds))


async def until_dropped(node: ObservedNode, count: int) -> None:
    while (await node.ps())[0]["dropped"] < count:  # noqa: ASYNC110 - in another process
        await asyncio.sleep(0.005)


async def until_count(busy: Ref[Busy], count: int) -> None:
    while await Busy.count(busy.within(None)) < count:  # noqa: ASYNC110 - in another process
        await asyncio.sleep(0.01)


@pytest.mark.slow
@pytest.mark.timeout(60)
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
            patient = busy.within(None)
            for n in range(1_000_000):
                try:
                    Busy.note(patient, n)
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
    async with shared_node() as node:
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
    async with shared_node() as node:
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
async def test_what_is_cancelled_while_it_waits_is_not_sent_when_there_is_room(
    whistles: Whistles,
) -> None:
    coming, going = whistles(), whistles()
    async with shared_node():
        busy = await spawn(child(Busy).options(max_messages=10))
        await Busy.count(busy)
        blocked = Busy.block(busy.within(None), coming.path, going.path)
        await coming.heard()
        sent = nowait_until_full(busy)
        patient = busy.within(None)
        waiting = [Busy.note(patient, "cast"), Busy.echo(patient, "call")]
        going.blow()
        # Room comes long before anybody looks which messages are out of time.
        for message in waiting:
            message.cancel()
        await blocked
        assert await Busy.notes(busy) == list(range(sent))


@on_both_loops
@pytest.mark.parametrize("bound", [1, 10, 10_000])
async def test_nowait_raises_when_the_window_is_used_up(bound: int, whistles: Whistles) -> None:
    coming, going = whistles(), whistles()
    async with shared_node():
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
    async with shared_node():
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
    async with shared_node():
        busy = await spawn(child(Busy).options(max_bytes=1000))
        big = bytes(100_000)
        echoes = [Busy.echo(busy, big) for _ in range(5)]
        assert await asyncio.gather(*echoes) == [big] * 5


async def test_a_call_has_no_nowait() -> None:
    async with shared_node():
        busy = await spawn(Busy)
        with pytest.raises(TypeError, match="count is a call and has a reply"):
            Busy.count.nowait(busy)


@on_both_loops
async def test_a_server_that_rejects_lets_nobody_wait(whistles: Whistles) -> None:
    coming, going = whistles(), whistles()
    async with shared_node() as node:
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
        await node.event("mailbox_full", rejects)


async def test_a_server_may_keep_the_oldest(whistles: Whistles) -> None:
    coming, going = whistles(), whistles()
    async with shared_node() as node:
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
    async with shared_node() as node:
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
        await node.event("mailbox_full", drops)
        notes = await DropsOldest.notes(drops)
        assert notes[0] == "cancelled"
        assert notes[1:] == list(range(last - len(notes) + 2, last + 1))
        assert 9 <= len(notes) - 1 <= 10
        going.blow()


@on_both_loops
async def test_a_full_server_does_not_stall_its_neighbour(whistles: Whistles) -> None:
    coming = whistles()
    async with shared_node():
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
    async with shared_node():
        one, two = await spawn(Busy), await spawn(Busy)
        count = 30_000
        await Busy.flood(one.within(None), two, count)
        await Busy.flood(two.within(None), one, count)
        for server in (one, two):
            await until_count(server, count)


async def test_many_senders_share_a_mailbox(whistles: Whistles) -> None:
    coming = whistles()
    async with shared_node():
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
    async with shared_node() as node:
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


@on_both_loops
async def test_a_cast_that_need_not_wait_any_more_is_not_given_up_for_want_of_time() -> None:
    async with shared_node() as node:
        busy = await spawn(child(Busy).options(max_messages=10))
        await Busy.count(busy)
        with stopped(node, busy):
            sent = nowait_until_full(busy)
            taken = [Busy.note(busy.within(0.05), n) for n in range(2)]
            # As when its sender and the server flood each other.
            way = current.client().route(busy.sid, busy.label)
            assert way.overdraw(way.seq)
            taken.append(Busy.note(busy.within(0.05), 2))
            assert all(future.done() for future in taken)
            await until_over(busy, 0.2)
        assert await Busy.notes(busy) == [*range(sent), 0, 1, 2]


@on_both_loops
async def test_what_a_server_has_taken_that_drops_the_oldest_is_handled_or_counted() -> None:
    async with shared_node() as node:
        drops = await spawn(DropsOldest)
        await DropsOldest.count(drops)
        with stopped(node, drops):
            for n in range(50):
                await DropsOldest.note(drops.within(0.05), n)
            await until_over(drops, 0.2)
        await current.client().drained(drops)
        notes = await DropsOldest.notes(drops)
        # The ten that waited here were a call of ours and the newest.
        assert notes[-9:] == list(range(41, 50))
        await until_dropped(node, 50 - len(notes))
        (shown,) = await node.ps()
        assert shown["dropped"] == 50 - len(notes)


@on_both_loops
async def test_what_nobody_waits_for_outlasts_a_long_restart_or_is_counted(
    tmp_path: Path, whistles: Whistles
) -> None:
    async with shared_node() as node:
        start = await stuck_in_its_restart(node, tmp_path, whistles)
        for n in range(3):
            Start.note.nowait(start.within(0.05), n)
        with pytest.raises(CallTimedOutError):
            await Start.os_pid(start.within(0.2))
        await stop(start)
        dropped = [event async for event in _dropped(node, start, 3)]
        assert sum(dropped) == 3


async def _dropped(node: ObservedNode, ref: Ref[Any], count: int) -> AsyncIterator[int]:
    nth = 0
    while count > 0:
        nth += 1
        event = await node.event("mailbox_full", ref, nth)
        count -= event.count
        yield event.count


@on_both_loops
async def test_nowait_never_lets_a_heavy_message_wait(whistles: Whistles) -> None:
    coming, going = whistles(), whistles()
    async with shared_node():
        busy = await spawn(child(Busy).options(max_bytes=MIB))
        await Busy.count(busy)
        blocked = Busy.block(busy.within(None), coming.path, going.path)
        await coming.heard()
        for _ in range(10):
            Busy.note.nowait(busy, bytes(100_000))
        with pytest.raises(MailboxFullError, match=f"11 messages wait .* of {MIB} bytes"):
            Busy.note.nowait(busy, bytes(100_000))
        # There is still room for a small one.
        Busy.note.nowait(busy, "small")
        going.blow()
        await blocked
        assert await Busy.count(busy) == 11


@on_both_loops
async def test_the_newest_are_kept_within_the_bytes_too(whistles: Whistles) -> None:
    coming = whistles()
    size, count = 100_000, 100
    async with shared_node() as node:
        drops = await spawn(child(Busy).options(when_full="drop_oldest", max_bytes=MIB))
        waiting = Busy.wait(drops.within(None), coming.path)
        await coming.heard()
        for n in range(count):
            await Busy.note(drops, [n, bytes(size)])
        await current.client().drained(drops)
        waiting.cancel()
        notes = (await Busy.notes(drops))[1:]
        assert [n for n, _ in notes] == list(range(count - 10, count))
        (shown,) = await node.ps()
        assert shown["dropped"] == count - 10


async def test_what_waits_at_its_sender_for_a_server_that_drops_is_bounded_in_bytes_too() -> None:
    async with shared_node() as node:
        drops = await spawn(child(Busy).options(when_full="drop_oldest", max_bytes=MIB))
        await Busy.count(drops)
        with stopped(node, drops):
            for _ in range(50):
                await Busy.note(drops, bytes(100_000))
            # Ten are on their way, ten wait here.
            await until_dropped(node, 30)
            (shown,) = await node.ps()
            assert shown["dropped"] == 30


@on_both_loops
async def test_what_was_dropped_is_not_lost_once_more(whistles: Whistles) -> None:
    coming = whistles()
    async with shared_node() as node:
        drops = await spawn(DropsOldest)
        waiting = DropsOldest.wait(drops.within(None), coming.path)
        await coming.heard()
        for n in range(100):
            await DropsOldest.note(drops, n)
        await until_dropped(node, 90)
        node.kill(drops)
        lost = await node.event("messages_lost", drops)
        assert lost.count == 10
        (shown,) = await node.ps()
        assert shown["dropped"] == 90
        await asyncio.gather(waiting, return_exceptions=True)


@on_both_loops
async def test_calls_that_were_given_up_are_no_lost_casts_of_a_server_that_drops(
    whistles: Whistles,
) -> None:
    coming = whistles()
    async with shared_node() as node:
        drops = await spawn(DropsOldest)
        waiting = DropsOldest.wait(drops.within(None), coming.path)
        await coming.heard()
        calls = [DropsOldest.count(drops.within(0.02)) for _ in range(5)]
        await asyncio.gather(*calls, return_exceptions=True)
        for n in range(8):
            await DropsOldest.note(drops, n)
        way = current.client().route(drops.sid, drops.label)
        # Until it has been told that the calls are on nobody's way any more.
        while way._window.on_their_way >= 8:  # pyright: ignore[reportPrivateUsage] # noqa: ASYNC110
            await asyncio.sleep(0)
        node.kill(drops)
        lost = await node.event("messages_lost", drops)
        assert lost.count == 8
        await asyncio.gather(waiting, return_exceptions=True)


@on_both_loops
@pytest.mark.parametrize("bound", [1, 5, 10, 100])
async def test_the_first_message_leaves_room_for_as_many_as_the_mailbox_holds(
    bound: int, whistles: Whistles
) -> None:
    coming, going = whistles(), whistles()
    async with shared_node():
        rejects = await spawn(child(Busy).options(max_messages=bound, when_full="reject"))
        blocked = Busy.block(rejects.within(None), coming.path, going.path)
        await coming.heard()
        assert nowait_until_full(rejects) == bound - 1
        with pytest.raises(MailboxFullError, match=f"{bound} messages wait for Busy already"):
            await Busy.note(rejects, "too much")
        going.blow()
        await blocked


async def test_new_senders_get_shares_of_a_full_mailbox(whistles: Whistles) -> None:
    coming, going = whistles(), whistles()
    async with shared_node():
        busy = await spawn(child(Busy).options(max_messages=64, max_bytes=MIB))
        blocked = Busy.block(busy.within(None), coming.path, going.path)
        await coming.heard()
        taken: list[int] = []

        def send() -> None:
            with contextlib.suppress(CallTimedOutError):
                for n in itertools.count():
                    Busy.note.sync(busy.within(0.5), n)
                    taken.append(n)

        await asyncio.gather(*[asyncio.to_thread(send) for _ in range(4)])
        # 64 / 2 + 64 / 3 + 64 / 4 + 64 / 5
        assert len(taken) <= 81
        going.blow()
        await blocked


async def test_senders_that_are_gone_have_no_share() -> None:
    async with shared_node():
        busy = await spawn(child(Busy).options(max_messages=20))

        def ask() -> None:
            thread = threading.Thread(target=Busy.count.sync, args=(busy,))
            thread.start()
            thread.join()

        for _ in range(10):
            await asyncio.to_thread(ask)
        # What it starts with is the root's word; then the worker's counts.
        for _ in range(20):
            await Busy.count(busy)
        way = current.client().route(busy.sid, busy.label)
        while way._window.messages < 20:  # pyright: ignore[reportPrivateUsage]
            await Busy.count(busy)


@pytest.fixture
def few_may_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(route, "MAX_WAITING", 10)


@on_both_loops
@pytest.mark.usefixtures("few_may_wait")
@pytest.mark.parametrize("server", [Busy, DropsOldest])
async def test_what_is_over_does_not_count_as_waiting(server: type[Busy]) -> None:
    async with shared_node() as node:
        busy = await spawn(child(server).options(max_messages=10))
        await Busy.count(busy)
        with stopped(node, busy):
            for _ in range(10):
                Busy.note.nowait(busy, "on its way")
            old = Busy.count(busy.within(None))
            for _ in range(3):
                calls = [Busy.count(busy.within(0.01)) for _ in range(6)]
                ends = await asyncio.gather(*calls, return_exceptions=True)
                assert {type(end) for end in ends} == {CallTimedOutError}
            way = current.client().route(busy.sid, busy.label)
            assert len(way._waiting) == 1  # pyright: ignore[reportPrivateUsage]
        assert await old == 10


async def test_who_waits_until_all_is_sent_does_not_wait_for_what_is_over() -> None:
    async with shared_node() as node:
        busy = await spawn(child(Busy).options(max_messages=10))
        await Busy.count(busy)
        with stopped(node, busy):
            nowait_until_full(busy)
            late = Busy.note(busy.within(0.05), "late")
            all_sent = current.client().route(busy.sid, busy.label).all_sent()
            with pytest.raises(CallTimedOutError):
                await late
            await all_sent


async def test_a_cast_that_finds_no_room_in_time_says_its_name(whistles: Whistles) -> None:
    coming, going = whistles(), whistles()
    async with shared_node():
        busy = await spawn(child(Busy).options(max_messages=2))
        blocked = Busy.block(busy.within(None), coming.path, going.path)
        await coming.heard()
        casts = [Busy.note(busy.within(0.05), n) for n in range(10)]
        results = await asyncio.gather(*casts, return_exceptions=True)
        errors = [result for result in results if isinstance(result, CallTimedOutError)]
        assert {str(error) for error in errors} == {
            "Busy.note was not sent: there was no room for it within 0.05 s"
        }
        going.blow()
        await blocked
