"""What becomes of the messages that are on their way when a server dies, counted exactly."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from noex_mp import (
    CallTimedOutError,
    Killed,
    NoServerError,
    Ref,
    ServerExitedError,
    child,
    spawn,
    stop,
)
from tests.nodes.observed import (
    ObservedNode,
    Whistles,
    on_all_loops,
    on_both_loops,
    shared_node,
)
from tests.processes.harness import wait_for_ends
from tests.servers.counters import Caller, Counter, Journal
from tests.servers.faulty import DiesWhenFirstRead, Faulty, Start

pytestmark = pytest.mark.usefixtures("shared_nodes")

BIG = 16 * 2**20


async def outcomes(calls: list[asyncio.Future[Any]]) -> list[Any]:
    """Return each call's result, or the class of its error."""
    results = await asyncio.gather(*calls, return_exceptions=True)
    return [type(r) if isinstance(r, BaseException) else r for r in results]


@on_all_loops
async def test_of_64_calls_the_40th_kills_the_worker_and_only_it_fails() -> None:
    async with shared_node():
        for step in (Faulty.step, Faulty.step_slowly, Faulty.step_later):
            faulty = await spawn(Faulty)
            await Faulty.echo(faulty, 0)
            calls = [step(faulty, n, kill_at=40) for n in range(1, 65)]
            results = await asyncio.gather(*calls, return_exceptions=True)
            error = results[39]
            assert isinstance(error, ServerExitedError)
            assert error.started
            assert error.report.reason == Killed("SIGKILL")
            assert results[:39] == list(range(1, 40))
            assert results[40:] == list(range(41, 65))
            # On the next incarnation, in the old order, and before anything newer.
            assert await Faulty.all(faulty) == list(range(41, 65))


async def test_finished_replies_of_every_size_survive_the_death_of_their_server() -> None:
    async with shared_node():
        for size in (1, 1000, 20_000, 127 * 1024, 200_000):
            faulty = await spawn(Faulty)
            await Faulty.echo(faulty, 0)
            bigs = [Faulty.big(faulty, size) for _ in range(4)]
            dying = Faulty.kill(faulty)
            after = Faulty.step(faulty, 1)
            # The socket takes some of it; what it does not is lost with the process.
            results = await asyncio.gather(*bigs, return_exceptions=True)
            assert await outcomes([dying, after]) == [ServerExitedError, 1]
            arrived = [r for r in results if not isinstance(r, BaseException)]
            assert all(r == b"b" * size for r in arrived)
            if 4 * size < 100_000:
                assert len(arrived) == 4


async def test_replies_survive_that_the_next_argument_kills_the_server(tmp_path: Path) -> None:
    async with shared_node():
        faulty = await spawn(Faulty)
        await Faulty.echo(faulty, 0)
        calls = [Faulty.step(faulty, n) for n in range(1, 4)]
        deadly = Faulty.echo(faulty, DiesWhenFirstRead(tmp_path / "dead"))
        assert await asyncio.gather(*calls) == [1, 2, 3]
        assert await deadly == tmp_path / "dead"
        # Done by the one that died, and not once more.
        assert await Faulty.all(faulty) == []


async def test_replies_to_two_senders_survive_the_death_of_the_server() -> None:
    async with shared_node():
        counter_of_deaths = 0
        faulty = await spawn(Faulty)

        async def ask(kill_at: int | None) -> list[object]:
            await Faulty.echo(faulty, 0)
            calls = [Faulty.step(faulty, n, kill_at) for n in range(20)]
            return list(await asyncio.gather(*calls, return_exceptions=True))

        mine, other = await asyncio.gather(
            ask(10), asyncio.to_thread(lambda: asyncio.run(ask(None)))
        )
        counter_of_deaths = sum(isinstance(r, ServerExitedError) for r in mine)
        assert counter_of_deaths == 1
        assert isinstance(mine[10], ServerExitedError)
        assert other == list(range(20))


@on_all_loops
async def test_casts_that_had_not_begun_are_lost_and_counted_exactly() -> None:
    async with shared_node() as node:
        faulty = await spawn(Faulty)
        await Faulty.echo(faulty, 0)
        calls: list[asyncio.Future[Any]] = []
        for n in range(1, 65):
            calls.append(Faulty.step(faulty, n, kill_at=40))
            Faulty.note(faulty, -n)
        results = await outcomes(calls)
        assert results[39] is ServerExitedError
        # Nothing that had not begun is handled twice, or out of order.
        assert results[40:] == list(range(41, 65))
        assert await Faulty.all(faulty) == list(range(41, 65))
        # The casts behind the calls 40 to 64.
        lost = await node.event("messages_lost", faulty)
        assert (lost.count, lost.incarnation) == (25, 1)


async def test_a_cast_that_kills_the_worker_has_begun_and_is_not_counted() -> None:
    async with shared_node() as node:
        faulty = await spawn(Faulty)
        await Faulty.echo(faulty, 0)
        for n in range(1, 11):
            Faulty.note(faulty, n, kill_at=4)
        assert await Faulty.all(faulty) == []
        assert (await node.event("messages_lost", faulty)).count == 6


async def test_lost_casts_are_counted_for_each_sender(whistles: Whistles) -> None:
    started, release = whistles(), whistles()
    async with shared_node() as node:
        journal = await spawn(Journal)
        calling = await spawn(Caller)
        paused = Caller.pause(calling.within(None), journal, started.path, release.path)
        await started.heard()
        for n in range(3):
            Journal.note(journal, n)
        later = Journal.all(journal)
        # The first sender has one call in hand and no casts: nothing of it is lost.
        await asyncio.sleep(0)
        node.kill(journal)
        with pytest.raises(ServerExitedError):
            await paused
        assert await later == []
        assert (await node.event("messages_lost", journal)).count == 3
        assert len([e for e in node.seen if e.kind == "messages_lost"]) == 1


async def test_lost_casts_are_counted_once_though_the_restart_fails(tmp_path: Path) -> None:
    async with shared_node() as node:
        started = tmp_path / "fifo"
        start = await spawn(Start, how="raise the second time", marker=str(tmp_path / "marker"))
        await Start.os_pid(start)
        for n in range(7):
            Start.note(start, n)
        dying = Start.kill(start)
        for n in range(5):
            Start.note(start, n)
        with pytest.raises(ServerExitedError):
            await dying
        assert not started.exists()
        await Start.os_pid(start)
        assert (await node.event("restarted", start)).incarnation == 3
        # A round trip through the root, so that what is on its way to it has come.
        await start.is_running()
        lost = [e.count for e in node.seen if e.kind == "messages_lost"]
        assert lost == [5]


async def test_casts_lost_at_the_last_death_are_counted_too() -> None:
    async with shared_node() as node:
        faulty = await spawn(child(Faulty).options(restart="temporary"))
        await Faulty.echo(faulty, 0)
        dying = Faulty.kill(faulty)
        for n in range(5):
            Faulty.note(faulty, n)
        with pytest.raises(ServerExitedError):
            await dying
        async with asyncio.timeout(2):
            assert (await node.event("messages_lost", faulty)).count == 5


async def test_casts_that_waited_for_a_restart_are_lost_only_with_its_next_death(
    tmp_path: Path, whistles: Whistles
) -> None:
    marker = tmp_path / "marker"
    looping = whistles("marker.fifo")
    async with shared_node() as node:
        start = await spawn(
            child(Start, how="loop unless first", marker=str(marker)).options(init_timeout=None)
        )
        await Start.os_pid(start)
        node.kill(start)
        await node.event("crashed", start)
        await looping.heard()
        # It restarts, and will not come up: these wait, and were never sent.
        waiting = [Start.note(start, n) for n in range(4)]
        node.kill(start)
        await looping.heard()
        assert not any(cast.done() for cast in waiting)
        await stop(start)
        assert await outcomes(waiting) == [NoServerError] * 4
        await start.is_running()
        assert [e for e in node.seen if e.kind == "messages_lost"] == []


@on_both_loops
async def test_an_idempotent_call_that_had_begun_is_run_again(tmp_path: Path) -> None:
    async with shared_node():
        faulty = await spawn(Faulty)
        assert await Faulty.again(faulty, str(tmp_path / "marker")) == "done"


async def test_calls_sent_again_keep_their_order_with_idempotent_ones(tmp_path: Path) -> None:
    async with shared_node():
        faulty = await spawn(Faulty)
        await Faulty.echo(faulty, 0)
        first = [Faulty.step(faulty, n) for n in range(3)]
        again = Faulty.again(faulty, str(tmp_path / "marker"))
        later = [Faulty.step(faulty, n) for n in range(3, 6)]
        assert await outcomes([*first, again, *later]) == [0, 1, 2, "done", 3, 4, 5]
        assert await Faulty.all(faulty) == [3, 4, 5]


async def test_a_call_that_was_given_up_is_not_sent_again(whistles: Whistles) -> None:
    started = whistles()
    async with shared_node() as node:
        faulty = await spawn(Faulty)
        dozing = Faulty.doze(faulty.within(None), started.path)
        timed_out = Faulty.step(faulty.within(0.05), 1)
        cancelled = Faulty.step(faulty.within(None), 2)
        kept = Faulty.step(faulty.within(None), 3)
        await started.heard()
        with pytest.raises(CallTimedOutError):
            await timed_out
        cancelled.cancel()
        node.kill(faulty)
        with pytest.raises(ServerExitedError):
            await dozing
        assert await kept == 3
        assert await Faulty.all(faulty) == [3]


async def test_a_call_that_was_given_up_is_no_lost_cast(whistles: Whistles) -> None:
    started = whistles()
    async with shared_node() as node:
        faulty = await spawn(Faulty)
        dozing = Faulty.doze(faulty.within(None), started.path)
        calls = [Faulty.step(faulty.within(0.05), n) for n in range(3)]
        cancelled = [Faulty.step(faulty.within(None), n) for n in range(3)]
        Faulty.note(faulty, 1)
        await started.heard()
        assert await outcomes(calls) == [CallTimedOutError] * 3
        for call in cancelled:
            call.cancel()
        node.kill(faulty)
        with pytest.raises(ServerExitedError):
            await dozing
        await faulty.is_running()
        assert (await node.event("messages_lost", faulty)).count == 1


# --- big values --------------------------------------------------------------------------------


@on_both_loops
async def test_a_worker_killed_while_a_big_argument_is_half_sent(whistles: Whistles) -> None:
    started = whistles()
    data = bytes(BIG)
    async with shared_node() as node:
        faulty = await spawn(Faulty)
        dozing = Faulty.doze(faulty.within(None), started.path)
        await started.heard()
        # It does not read: what the socket does not take stays here.
        sizes = [Faulty.size(faulty.within(None), data) for _ in range(2)]
        after = Faulty.step(faulty.within(None), 1)
        node.kill(faulty)
        assert await outcomes([dozing]) == [ServerExitedError]
        assert await asyncio.gather(*sizes, after) == [BIG, BIG, 1]


@on_both_loops
async def test_a_worker_killed_while_a_big_reply_is_half_sent(whistles: Whistles) -> None:
    started = whistles()
    async with shared_node() as node:
        faulty = await spawn(Faulty)
        await Faulty.echo(faulty, 0)
        big = Faulty.big_and_doze(faulty.within(None), BIG, started.path)
        after = Faulty.step(faulty.within(None), 1)
        await started.heard()
        node.kill(faulty)
        assert await outcomes([big, after]) == [ServerExitedError, 1]
        assert len(await Faulty.big(faulty, BIG)) == BIG


# --- callers that die --------------------------------------------------------------------------


@on_all_loops
async def test_a_caller_that_dies_does_not_disturb_the_server_that_has_its_call(
    whistles: Whistles,
) -> None:
    started, release = whistles(), whistles()
    async with shared_node() as node:
        journal = await spawn(Journal)
        calling = await spawn(Caller)
        os_pid = await Journal.os_pid(journal)
        asked = Caller.pause(calling.within(None), journal, started.path, release.path)
        await started.heard()
        node.kill(calling)
        assert await outcomes([asked]) == [ServerExitedError]
        await node.event("restarted", calling)
        release.blow()
        assert await Journal.record(journal, "on it goes") == "on it goes"
        assert await Journal.os_pid(journal) == os_pid
        assert await Caller.increment(calling, await spawn(Counter)) == 1


async def test_a_server_that_is_called_by_one_that_dies_sees_its_next_incarnation() -> None:
    async with shared_node() as node:
        counter = await spawn(Counter)
        calling = await spawn(Caller)
        for n in range(3):
            assert await Caller.increment(calling, counter) == n + 1
            node.kill(calling)
            await node.event("restarted", calling, n + 1)


async def test_a_server_spawned_by_another_outlives_it() -> None:
    async with shared_node() as node:
        calling = await spawn(Caller)
        counter = await Caller.start(calling, 5)
        node.kill(calling)
        await node.event("restarted", calling)
        assert await Counter.increment(counter) == 6


async def test_a_ref_by_another_server_stays_good_through_a_restart() -> None:
    async with shared_node() as node:
        counter: Ref[Counter] = await spawn(Counter, start=1)
        calling = await spawn(Caller)
        assert await Caller.increment(calling, counter) == 2
        node.kill(counter)
        assert await Caller.increment(calling, counter) == 2


async def test_nobody_is_left_when_the_node_stops_with_calls_in_flight(whistles: Whistles) -> None:
    import os

    started = whistles()
    async with ObservedNode() as node:
        faulty = await spawn(child(Faulty).options(shutdown=0.1))
        dozing = Faulty.doze(faulty.within(None), started.path)
        await started.heard()
        pidfd = os.pidfd_open(node.os_pid_of(faulty))
    assert (await outcomes([dozing]))[0] in (ServerExitedError, NoServerError)
    assert wait_for_ends([pidfd], 0) == []
    os.close(pidfd)
