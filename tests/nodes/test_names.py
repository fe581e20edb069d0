"""The first messages to a name: sent before it is known who has it, and messages like others."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any, cast

import numpy as np
import pytest

from noex_mp import (
    CallCycleError,
    CallTimedOutError,
    Node,
    NoServerError,
    Ref,
    ServerExitedError,
    UnencodableError,
    child,
    named,
    spawn,
    sync,
)
from noex_mp.client.blocking import this_thread
from tests.nodes.observed import SERVERS, ObservedNode, Whistles, on_both_loops
from tests.servers.busy import Busy
from tests.servers.counters import Counter, Journal

JOURNAL = named("journal", Journal)


def journal_spec() -> Any:
    return child(Journal).options(name="journal")


# --- in an event loop ---


@on_both_loops
async def test_a_first_call_that_is_cancelled_tells_the_server(whistles: Whistles) -> None:
    coming = whistles()
    async with ObservedNode():
        ref = await spawn(child(Busy).options(name="busy"))
        call = Busy.wait(named("busy", Busy).within(None), coming.path)
        await coming.heard()
        call.cancel()
        # The news goes out with the next look at the deadlines.
        while True:
            if await Busy.notes(ref) == ["cancelled"]:
                break


@on_both_loops
async def test_each_first_call_has_the_time_of_its_own_caller() -> None:
    async with ObservedNode():
        await spawn(child(Busy).options(name="asked"))
        specs = [child(Busy).options(id=name, placement="both") for name in ("one", "two")]
        one, two = [await spawn(spec) for spec in specs]
        asked = named("asked", Busy)
        # They share a client, and the second asks while the first one's question is out.
        little, much = await asyncio.gather(
            Busy.ask_time_left(one.within(20.0), asked, first_wait=False),
            Busy.ask_time_left(two.within(None), asked, first_wait=False),
        )
        assert little is not None
        assert 10 < little <= 20
        assert much is not None
        assert 20 < much <= 60


@on_both_loops
async def test_a_circle_of_first_calls_is_found() -> None:
    async with ObservedNode():
        refs = [await spawn(child(Busy).options(name=name)) for name in ("one", "two")]
        one, two = named("one", Busy), named("two", Busy)
        for ref, other in (refs, reversed(refs)):
            # So that there is a way already that the message to the name turns into.
            assert await Busy.pass_on(ref, [other]) == ["on", "end"]
        with pytest.raises(CallCycleError):
            await Busy.pass_on(one.within(None), [two, one])


@pytest.mark.parametrize("send", [Journal.note, Journal.record, Journal.note.nowait])
async def test_a_first_message_that_cannot_be_sent_says_so_at_once(
    send: Callable[[Ref[Journal], object], object],
) -> None:
    async with ObservedNode():
        await spawn(journal_spec())
        with pytest.raises(UnencodableError):
            send(JOURNAL, threading.Lock())
        assert await Journal.all(JOURNAL) == []


@on_both_loops
async def test_a_first_message_arrives_as_it_was_when_it_was_sent() -> None:
    async with ObservedNode():
        await spawn(journal_spec())
        items = ["before"]
        note = Journal.note(JOURNAL, items)
        items.append("after")
        await note
        assert await Journal.all(JOURNAL) == [["before"]]


@on_both_loops
@pytest.mark.parametrize("earlier", [0, 1, 200, 70_000])
async def test_first_messages_come_behind_what_was_sent_by_ref(earlier: int) -> None:
    async with ObservedNode():
        journal = await spawn(journal_spec())
        for n in range(earlier):
            await Journal.note(journal, n)
        array = np.arange(100_000)
        many = range(20)
        for item in (b"big" * 100_000, *many):
            Journal.note(JOURNAL, item)
        sent = cast("asyncio.Future[Any]", Journal.record(JOURNAL, array))
        assert np.array_equal(await sent, array)
        items = await Journal.all(journal.within(60))
        assert items[:earlier] == list(range(earlier))
        assert items[earlier:-1] == [b"big" * 100_000, *many]


@on_both_loops
async def test_a_first_message_that_is_given_up_at_once_is_not_sent() -> None:
    async with ObservedNode():
        await spawn(journal_spec())
        Journal.record(JOURNAL, "given up").cancel()
        await Journal.note(JOURNAL, "sent")
        assert await Journal.all(JOURNAL) == ["sent"]


@on_both_loops
async def test_a_first_call_counts_its_time_from_when_it_was_sent() -> None:
    async with ObservedNode() as node:
        await spawn(journal_spec())
        assert node._loop is not None  # pyright: ignore[reportPrivateUsage]
        over = threading.Event()
        # The root does not answer.
        node._loop.call_soon_threadsafe(over.wait)  # pyright: ignore[reportPrivateUsage]
        try:
            with pytest.raises(CallTimedOutError):
                await Journal.record(JOURNAL.within(0.05), 1)
        finally:
            over.set()
        assert await Journal.all(JOURNAL) == []


@on_both_loops
async def test_what_waits_for_a_name_fails_if_nobody_has_it() -> None:
    async with ObservedNode():
        for _ in range(2):
            calls = [Journal.record(JOURNAL, n) for n in range(3)]
            for call in calls:
                with pytest.raises(NoServerError, match="'journal'"):
                    await call


# --- in a thread ---


@pytest.fixture
def node() -> Iterator[sync.BlockingNode]:
    with Node(preload=SERVERS) as node:
        yield node


@pytest.mark.parametrize("as_cast", [True, False], ids=["cast", "call"])
@pytest.mark.parametrize("shares", [True, False], ids=["shared process", "own process"])
def test_a_name_means_its_new_owner_to_a_thread_that_knew_the_old_one(
    as_cast: bool, shares: bool, node: sync.BlockingNode
) -> None:
    placement = "both" if shares else None
    keeper = node.spawn(child(Counter).options(id="keeper", placement=placement))
    specs = [child(Journal).options(id=each, name="journal", placement=placement) for each in "ab"]
    known, moved = threading.Event(), threading.Event()
    ends: list[list[Any]] = []

    def work() -> None:
        Journal.record.sync(JOURNAL, "old")
        known.set()
        moved.wait()
        (Journal.note if as_cast else Journal.record).sync(JOURNAL, "new")
        ends.append(Journal.all.sync(JOURNAL))

    thread = threading.Thread(target=work)
    old = node.spawn(specs[0])
    thread.start()
    known.wait()
    sync.stop(old)
    node.spawn(specs[1])
    moved.set()
    thread.join()
    assert ends == [["new"]]
    assert Counter.increment.sync(keeper) == 1


def test_a_thread_forgets_the_servers_that_are_gone(node: sync.BlockingNode) -> None:
    keeper = node.spawn(child(Counter).options(id="keeper", placement="all"))
    Counter.increment.sync(keeper)
    routes = this_thread().client(node.id).routes
    before = len(routes)
    for n in range(20):
        ref = node.spawn(child(Counter).options(id=f"c{n}", name=f"c{n}", placement="all"))
        Counter.add.sync(ref, by=1)
        assert Counter.increment.sync(named(f"c{n}", Counter)) == 2
        sync.stop(ref)
        with pytest.raises(NoServerError):
            Counter.increment.sync(ref)
    assert len(routes) <= before + 1


def test_a_thread_keeps_its_order_through_the_restarts_of_a_server(
    node: sync.BlockingNode,
) -> None:
    ref = node.spawn(child(Journal).options(name="journal", restart="permanent"))
    for n in range(3):
        to = ref if n % 2 else JOURNAL
        os_pid = Journal.os_pid.sync(to)
        for i in range(20):
            Journal.note.sync(to, i)
        assert Journal.all.sync(to) == list(range(20))
        os.kill(os_pid, 9)
        with suppress(ServerExitedError):
            while Journal.os_pid.sync(to) == os_pid:
                pass
