"""Kills and stops that come at the worst moments: during a restart, in a row, at once."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable
from pathlib import Path

import pytest

from noex_mp import (
    CallTimedOutError,
    Killed,
    MaxRestartsExceededError,
    NoServerError,
    Ref,
    ServerExitedError,
    Shutdown,
    ShutdownTimedOut,
    Supervisor,
    child,
    named,
    spawn,
    stop,
    whereis,
)
from tests.nodes.observed import (
    ObservedNode,
    Whistles,
    on_all_loops,
    on_both_loops,
    shared_node,
    stuck_in_its_restart,
)
from tests.servers.counters import Counter, Journal
from tests.servers.faulty import Faulty, Start, Stubborn

pytestmark = pytest.mark.usefixtures("shared_nodes")


async def kill_again_and_again(node: ObservedNode, ref: Ref[Faulty]) -> int:
    """Kill a server until it stays down; return how often that was."""
    for kills in itertools.count():
        try:
            await Faulty.kill(ref)
        except ServerExitedError:
            continue
        except NoServerError:
            return kills
    raise AssertionError


# --- budgets -----------------------------------------------------------------------------------


@on_all_loops
async def test_a_tree_gives_up_after_too_many_deaths_and_everything_stops() -> None:
    tree = Supervisor(
        child(Counter), child(Faulty).options(name="faulty"), max_restarts=2, max_seconds=60
    )
    async with ObservedNode(tree) as node:
        waiting = asyncio.create_task(node.wait())
        sibling = next(e for e in node.seen if e.server == "Counter" and e.kind == "ready")
        assert await kill_again_and_again(node, named("faulty", Faulty)) == 3
        with pytest.raises(MaxRestartsExceededError) as failure:
            await waiting
        error = failure.value
        assert (error.supervisor, error.max_restarts, error.max_seconds) == ("root", 2, 60)
        assert error.report is not None
        assert error.report.reason == Killed("SIGKILL")
        assert (error.report.server, error.report.incarnation) == ("faulty", 3)
        assert error.report.next == "its supervisor gives up"
    # The sibling was stopped in order, and nothing runs.
    exits = [e for e in node.seen if e.sid == sibling.sid and e.kind == "exited"]
    assert [type(e.report.reason) for e in exits if e.report] == [Shutdown]


async def test_a_spawned_server_has_a_budget_of_its_own() -> None:
    async with ObservedNode(Supervisor(child(Counter).options(name="counter"))) as node:
        one, other = await spawn(Faulty), await spawn(Faulty)
        assert await kill_again_and_again(node, one) == 4
        assert not await one.is_running()
        with pytest.raises(NoServerError) as failure:
            await Faulty.echo(one, 1)
        assert failure.value.report is not None
        assert failure.value.report.next == "its supervisor gives up"
        # Neither its neighbours nor the tree have anything to do with it.
        assert await Faulty.echo(other, 1) == 1
        assert await Counter.increment(named("counter", Counter)) == 1


@pytest.mark.slow
async def test_thirty_kills_of_spawned_servers_leave_the_node_as_it_was() -> None:
    async with ObservedNode() as node:
        for _ in range(10):
            faulty = await spawn(child(Faulty).options(name="faulty"))
            for _ in range(3):
                with pytest.raises(ServerExitedError):
                    await Faulty.kill(faulty)
            assert await Faulty.echo(faulty, 1) == 1
            await stop(faulty)
        assert await node.ps() == []


@pytest.mark.parametrize(
    ("restart", "deed", "comes_back"),
    [
        ("permanent", "kill", True),
        ("permanent", "stop", True),
        ("transient", "kill", True),
        ("transient", "stop", False),
        ("temporary", "kill", False),
        ("temporary", "stop", False),
    ],
)
async def test_the_restart_type_decides_who_comes_back(
    restart: str, deed: str, comes_back: bool
) -> None:
    from noex_mp import Stop
    from tests.servers.counters import Turns

    async with shared_node() as node:
        if deed == "kill":
            faulty = await spawn(child(Faulty).options(restart=restart))  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
            with pytest.raises(ServerExitedError):
                await Faulty.kill(faulty)
            ref: Ref[Faulty] | Ref[Turns] = faulty
        else:
            turns = await spawn(child(Turns).options(restart=restart))  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
            assert await Turns.reply_and(turns, Stop()) == "reply"
            ref = turns
        kind = "crashed" if deed == "kill" else "exited"
        assert (await node.event(kind, ref)).report is not None
        if comes_back:
            assert (await node.event("restarted", ref)).incarnation == 2
        assert await ref.is_running() is comes_back


# --- during a restart --------------------------------------------------------------------------


async def test_a_kill_during_a_restart_counts_and_the_next_one_is_tried(
    tmp_path: Path, whistles: Whistles
) -> None:
    in_init = whistles("marker.fifo")
    spec = child(Start, how="loop unless first", marker=str(tmp_path / "marker"))
    async with shared_node() as node:
        start = await spawn(spec.options(init_timeout=None))
        await Start.os_pid(start)
        node.kill(start)
        waiting: list[asyncio.Future[int]] = []
        # Failed restarts have a budget of their own: three are allowed.
        for _ in range(4):
            await in_init.heard()
            waiting.append(Start.os_pid(start.within(None)))
            node.kill(start)
        results = await asyncio.gather(*waiting[1:], return_exceptions=True)
        assert {type(result) for result in results} == {NoServerError}
        with pytest.raises(NoServerError) as failure:
            await waiting[0]
        assert failure.value.report is not None
        assert "killed by SIGKILL" in failure.value.report.summary


@pytest.mark.slow
async def test_a_call_during_a_restart_waits_within_its_time(
    tmp_path: Path, whistles: Whistles
) -> None:
    async with shared_node() as node:
        start = await stuck_in_its_restart(node, tmp_path, whistles)
        with pytest.raises(CallTimedOutError):
            await Start.os_pid(start.within(0.05))
        cast = asyncio.ensure_future(Start.note(start.within(0.05), 1))
        with pytest.raises(CallTimedOutError):
            await cast


@on_both_loops
async def test_a_stop_during_a_restart_ends_it(tmp_path: Path, whistles: Whistles) -> None:
    in_init = whistles("marker.fifo")
    spec = child(Start, how="loop unless first", marker=str(tmp_path / "marker"))
    async with shared_node() as node:
        start = await spawn(spec.options(init_timeout=None, name="start"))
        await Start.os_pid(start)
        node.kill(start)
        await in_init.heard()
        waiting = Start.os_pid(start.within(None))
        await stop(start)
        with pytest.raises(NoServerError):
            await waiting
        assert await node.ps() == []
        assert whereis("start", Start) is None


async def test_a_node_that_stops_during_a_restart_leaves_nothing(
    tmp_path: Path, whistles: Whistles
) -> None:
    async with shared_node() as node:
        await stuck_in_its_restart(node, tmp_path, whistles)


async def test_a_stop_right_behind_a_kill_ends_the_server_for_good() -> None:
    async with shared_node() as node:
        for _ in range(5):
            faulty = await spawn(Faulty)
            await Faulty.echo(faulty, 1)
            node.kill(faulty)
            await stop(faulty)
            assert not await faulty.is_running()
        assert await node.ps() == []


@pytest.mark.slow
async def test_a_node_that_stops_right_behind_a_spawn_leaves_nothing() -> None:
    for _ in range(3):
        async with ObservedNode():
            spawning = [asyncio.ensure_future(spawn(Counter)) for _ in range(5)]
            await asyncio.sleep(0)
        results = await asyncio.gather(*spawning, return_exceptions=True)
        assert len(results) == 5


# --- stops -------------------------------------------------------------------------------------


@pytest.mark.slow
@on_both_loops
async def test_a_server_that_does_not_stop_is_ended_by_force() -> None:
    async with shared_node() as node:
        for deaf in (False, True):
            stubborn = await spawn(Stubborn, deaf=deaf)
            await stop(stubborn, timeout=0.05)
            report = (await node.event("exited", stubborn)).report
            assert report is not None
            assert report.reason == ShutdownTimedOut(0.05)
            assert report.requested
        assert await node.ps() == []


@pytest.mark.slow
@pytest.mark.parametrize("shutdown", [0.05, "brutal_kill"])
async def test_a_node_stops_within_the_time_of_its_servers(shutdown: float | str) -> None:
    async with ObservedNode() as node:
        spec = child(Stubborn).options(shutdown=shutdown)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        await asyncio.gather(*(spawn(spec) for _ in range(3)))
    assert len([e for e in node.seen if e.kind == "exited"]) == 3


async def test_a_server_busy_in_a_handler_is_stopped_by_force(whistles: Whistles) -> None:
    started = whistles()
    async with shared_node() as node:
        faulty = await spawn(Faulty)
        looping = Faulty.loop(faulty.within(None), started.path)
        await started.heard()
        await stop(faulty, timeout=0.05)
        # It had begun, and there is no next incarnation.
        with pytest.raises(ServerExitedError) as failure:
            await looping
        assert failure.value.report.reason == ShutdownTimedOut(0.05)
        assert not await faulty.is_running()
        assert await node.ps() == []


@on_both_loops
async def test_two_stops_at_once_both_wait_for_the_end() -> None:
    async with shared_node() as node:
        for _ in range(3):
            counter = await spawn(Counter)
            await asyncio.gather(*(stop(counter) for _ in range(3)))
            assert not await counter.is_running()
        assert len([e for e in node.seen if e.kind == "exited"]) == 3


async def test_a_second_stop_with_less_patience_shortens_the_first() -> None:
    async with shared_node():
        stubborn = await spawn(Stubborn)
        async with asyncio.timeout(5):
            await asyncio.gather(stop(stubborn, timeout=None), stop(stubborn, timeout=0.05))


@on_all_loops
async def test_two_stops_of_a_node_at_once_both_wait_for_the_end() -> None:
    node = ObservedNode()
    await node.start()
    await node.spawn(Counter)
    async with asyncio.timeout(5):
        await asyncio.gather(node.stop(), node.stop())
    await node.stop()


async def test_stopping_what_is_gone_is_no_error() -> None:
    async with shared_node():
        counter = await spawn(Counter)
        await stop(counter)
        await stop(counter)
        with pytest.raises(NoServerError):
            await stop(named("nobody", Counter))


async def test_whoever_waits_for_a_node_hears_of_its_stop() -> None:
    async with ObservedNode(Supervisor(child(Counter))) as node:
        waiting = asyncio.create_task(node.wait())
        await asyncio.sleep(0)
    done, pending = await asyncio.wait([waiting], timeout=2)
    for task in pending:
        task.cancel()
    assert done


@pytest.mark.parametrize("count", [10, 20_000])
async def test_what_was_sent_before_a_stop_is_handled_first(count: int, tmp_path: Path) -> None:
    path = tmp_path / "journal"
    async with ObservedNode():
        journal = await spawn(Journal, str(path))
        await Journal.record(journal, 0)
        for n in range(1, count):
            Journal.note(journal, n)
        await stop(journal)
    assert path.read_text() == f"Shutdown(detail='') {list(range(count))!r}\n"


async def test_calls_sent_before_a_stop_are_answered() -> None:
    async with shared_node():
        journal = await spawn(Journal)
        calls: list[Awaitable[object]] = [Journal.record(journal, n) for n in range(500)]
        calls += [Journal.record_slowly(journal, n) for n in range(100)]
        await stop(journal)
        assert await asyncio.gather(*calls) == [*range(500), *range(100)]


async def test_what_was_sent_before_a_node_stops_is_handled_first(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    async with ObservedNode():
        journal = await spawn(Journal, str(path))
        for n in range(5000):
            Journal.note(journal, n)
    assert path.read_text() == f"Shutdown(detail='the node is stopping') {list(range(5000))!r}\n"


@pytest.mark.parametrize("by_name", [False, True])
async def test_the_very_first_messages_come_before_a_stop_too(
    by_name: bool, tmp_path: Path
) -> None:
    path = tmp_path / "journal"
    async with ObservedNode():
        journal = await spawn(child(Journal, str(path)).options(name="journal"))
        if by_name:
            journal = named("journal", Journal)
        # Nobody has asked yet where it is.
        for n in range(100):
            Journal.note(journal, n)
        last = Journal.record(journal, 100)
        await stop(journal)
        assert await last == 100
    assert path.read_text() == f"Shutdown(detail='') {list(range(101))!r}\n"


async def test_calls_sent_after_a_stop_fail() -> None:
    async with shared_node():
        journal = await spawn(Journal)
        await Journal.record(journal, 1)
        stopping = asyncio.ensure_future(stop(journal))
        await stopping
        with pytest.raises(NoServerError) as failure:
            await Journal.record(journal, 2)
        assert failure.value.report is not None
        assert failure.value.report.reason == Shutdown()
