"""Placement groups: servers that share a worker, and what the end of one means for the others."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from noex_mp import (
    InitTimedOutError,
    Killed,
    Node,
    NoServerError,
    Ref,
    ServerExitedError,
    Supervisor,
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
    whistles,
)
from tests.servers.members import Member, Stuck, Waiting

__all__ = ["whistles"]

pytestmark = pytest.mark.usefixtures("shared_nodes")


async def members(count: int) -> list[Ref[Member]]:
    return [await spawn(Member, number) for number in range(count)]


@on_both_loops
async def test_members_share_one_process_and_others_do_not() -> None:
    async with shared_node():
        group = await members(3)
        alone = await spawn(child(Member).options(placement=None))
        other = await spawn(child(Member).options(placement="halls"))
        os_pids = [await Member.os_pid(ref) for ref in (*group, alone, other)]
        assert os_pids[0] == os_pids[1] == os_pids[2]
        assert len(set(os_pids)) == 3
        assert await Member.own(group[1]) == group[1]


@on_all_loops
async def test_a_member_that_crashes_ends_alone_and_comes_back_in_the_same_process() -> None:
    async with shared_node() as node:
        one, two = await members(2)
        os_pid = await Member.os_pid(one)
        await Member.note(two, "kept")
        with pytest.raises(ServerExitedError) as caught:
            await Member.crash(one)
        assert isinstance(caught.value.__cause__, ValueError)
        assert caught.value.report.shared == ""
        assert await Member.os_pid(one) == os_pid
        assert await Member.all(two) == ["kept"]
        assert [e.sid for e in node.seen if e.kind == "crashed"] == [one.sid]


@on_all_loops
async def test_the_death_of_the_process_ends_all_members_with_one_cause() -> None:
    async with shared_node() as node:
        group = await members(4)
        os_pid = await Member.os_pid(group[0])
        for ref in group[1:]:
            assert await Member.echo(ref, 1) == 1
        with pytest.raises(ServerExitedError):
            await Member.segfault(group[2])
        again = [await Member.os_pid(ref) for ref in group]
        assert len(set(again)) == 1
        assert again[0] != os_pid
        reports = [(await node.event("crashed", ref)).report for ref in group]
        for report in reports:
            assert report is not None
            assert report.reason == Killed("SIGSEGV")
            assert report.os_pid == os_pid
            assert report.shared == "with all of placement 'rooms' (4 servers)"
            assert "rooms" in report.summary
        kinds = [(e.kind, e.sid) for e in node.seen if e.kind == "restarted"]
        assert [sid for _, sid in kinds] == [ref.sid for ref in group]


async def test_the_process_ends_with_its_last_member_and_a_new_one_gets_another() -> None:
    async with shared_node() as node:
        one, two = await members(2)
        os_pid = await Member.os_pid(one)
        await stop(one)
        assert await Member.os_pid(two) == os_pid
        with pytest.raises(NoServerError):
            await Member.os_pid(one)
        await stop(two)
        three = await spawn(Member, 3)
        assert await Member.os_pid(three) != os_pid
        assert node.os_pid_of(three) != os_pid


@on_all_loops
async def test_what_a_crashed_member_had_answered_is_answered_and_the_rest_is_sorted() -> None:
    async with shared_node() as node:
        one, two = await members(2)
        await Member.echo(one, 0)
        before = [Member.echo(one, n) for n in range(50)]
        crash = Member.crash(one)
        lost = [Member.note(one, n) for n in range(7)]
        after = [Member.echo(one, n) for n in range(50)]
        neighbour = [Member.echo(two, n) for n in range(50)]
        assert await asyncio.gather(*before) == list(range(50))
        with pytest.raises(ServerExitedError) as caught:
            await crash
        assert caught.value.started
        await asyncio.gather(*lost)
        assert await asyncio.gather(*after) == list(range(50))
        assert await asyncio.gather(*neighbour) == list(range(50))
        assert await Member.all(one) == []
        event = await node.event("messages_lost", one)
        assert event.count == 7


@on_both_loops
async def test_no_message_reaches_an_incarnation_it_was_not_sent_to() -> None:
    async with shared_node():
        one = await spawn(child(Member).options(restart="permanent"))
        await Member.echo(one, 0)
        for _ in range(3):
            crash = Member.crash(one)
            # Sent to the old incarnation, in many packets, while it ends.
            for n in range(500):
                await Member.note(one, n)
                if n % 50 == 0:
                    await asyncio.sleep(0)
            with pytest.raises(ServerExitedError):
                await crash
            seen = await Member.all(one)
            # A cast that was sent before the news came is lost; what came later is in order.
            assert seen == sorted(seen)
            assert len(seen) == len(set(seen))


@on_both_loops
async def test_members_call_start_and_stop_each_other() -> None:
    async with shared_node():
        one, two = await members(2)
        assert await Member.ask(one, two, "hello") == "hello"
        assert (await Member.make_crash(one, two)).sid == two.sid
        assert await Member.ask(one, two, "again") == "again"
        three = await Member.hire(one, 3)
        assert await Member.os_pid(three) == await Member.os_pid(one)
        await Member.fire(one, three)
        with pytest.raises(NoServerError):
            await Member.os_pid(three)


async def test_a_member_that_waits_for_something_is_cancelled_and_its_neighbours_live(
    whistles: Whistles,
) -> None:
    started = whistles()
    async with shared_node() as node:
        one, two = await members(2)
        os_pid = await Member.os_pid(two)
        dozing = Member.doze(one.within(None), started.path)
        await started.heard()
        await stop(one, timeout=0.05)
        with pytest.raises(ServerExitedError):
            await dozing
        assert await Member.os_pid(two) == os_pid
        report = (await node.event("exited", one)).report
        assert report is not None
        assert report.requested


@pytest.mark.slow
@pytest.mark.parametrize("stuck", [Member.hang, Member.never_mind])
async def test_a_member_that_cannot_be_cancelled_takes_its_process_with_it(
    stuck: Any, whistles: Whistles
) -> None:
    started = whistles()
    async with shared_node() as node:
        one, two = await members(2)
        os_pid = await Member.os_pid(two)
        hanging = stuck(one.within(None), started.path)
        await started.heard()
        await stop(one, timeout=0.05)
        with pytest.raises(ServerExitedError):
            await hanging
        assert await Member.os_pid(two) != os_pid
        report = (await node.event("crashed", two)).report
        assert report is not None
        assert report.reason == Killed("SIGKILL")
        assert "because Member did not stop" in report.shared


async def test_one_death_of_a_group_counts_once_for_their_supervisor() -> None:
    tree = Supervisor(
        *(child(Member, n).options(id=f"m{n}", name=f"m{n}") for n in range(10)), max_restarts=2
    )
    async with ObservedNode(tree) as node:
        one = await node_ref(node, "m0")
        for _ in range(2):
            with pytest.raises(ServerExitedError):
                await Member.exit_process(one, 3)
        assert await Member.echo(one, 1) == 1
        deaths = [e for e in node.seen if e.kind == "crashed"]
        assert len(deaths) == 20
        assert not [e for e in node.seen if e.kind == "gave_up"]


async def test_two_groups_that_die_at_once_count_twice() -> None:
    members = [
        child(Member, n).options(id=f"m{n}", name=f"m{n}", placement=f"room-{n % 2}")
        for n in range(6)
    ]
    async with ObservedNode(Supervisor(*members, max_restarts=2)) as node:
        refs = [await node_ref(node, f"m{n}") for n in range(6)]
        async with node.stalled():
            for ref in refs[:2]:
                node.kill(ref)
        for n, ref in enumerate(refs):
            await node.event("crashed", ref)
            assert await Member.echo(ref, n) == n
        assert not [e for e in node.seen if e.kind == "gave_up"]


async def node_ref(node: Node, name: str) -> Ref[Member]:
    from noex_mp import whereis

    found = whereis(name, Member)
    assert found is not None
    return found


@on_both_loops
async def test_a_busy_member_gives_its_neighbours_their_turns() -> None:
    async with shared_node():
        one, two = await members(2)
        await asyncio.gather(Member.echo(one, 0), Member.echo(two, 0))
        for work in (Member.work, Member.work_slowly):
            busy = [work(one.within(None), n) for n in range(200)]
            # Behind all of that, on the same link.
            assert await Member.echo(two, 1) == 1
            done = sum(future.done() for future in busy)
            assert done < 100
            assert await asyncio.gather(*busy) == list(range(200))


async def test_an_init_that_blocks_is_ended_with_its_process_and_named(whistles: Whistles) -> None:
    async with shared_node() as node:
        one = await spawn(Member, 1)
        stuck = child(Stuck).options(init_timeout=0.1)
        with pytest.raises(InitTimedOutError):
            await spawn(stuck)
        report = (await node.event("crashed", one)).report
        assert report is not None
        assert "because Stuck did not finish its init within 0.1 s" in report.shared
        assert await Member.echo(one, 1) == 1


async def test_an_init_that_waits_too_long_costs_its_neighbours_nothing() -> None:
    async with shared_node() as node:
        one = await spawn(Member, 1)
        os_pid = await Member.os_pid(one)
        with pytest.raises(InitTimedOutError):
            await spawn(child(Waiting).options(init_timeout=0.1))
        assert await Member.os_pid(one) == os_pid
        assert not [e for e in node.seen if e.kind == "crashed"]


async def test_a_member_cannot_wait_for_its_own_end() -> None:
    async with shared_node():
        one = await spawn(Member, 1)
        with pytest.raises(ServerExitedError, match="cannot wait for its own end"):
            await Member.fire(one, one)


async def test_ps_shows_who_shares_a_process() -> None:
    async with shared_node() as node:
        await members(2)
        shown = await node.ps()
        assert {server["placement"] for server in shown} == {"rooms"}
        assert len({server["os_pid"] for server in shown}) == 1
