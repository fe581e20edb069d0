"""A server that does not come up says why, in time, and leaves nothing."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from noex_mp import (
    AlreadyRegisteredError,
    InitFailedError,
    InitTimedOutError,
    NoServerError,
    ServerExitedError,
    Supervisor,
    child,
    spawn,
    whereis,
)
from tests.nodes.observed import (
    ObservedNode,
    on_both_loops,
    shared_node,
)
from tests.servers.counters import Counter
from tests.servers.faulty import Start

pytestmark = pytest.mark.usefixtures("shared_nodes")

FAILURES = {
    "raise": "ValueError",
    "raise in the constructor": "TwoArgumentsError",
    "sys.exit": "SystemExit",
    "sys.exit in the constructor": "SystemExit",
    "os._exit": "exited with status 5",
    "kill": "killed by SIGKILL",
    "segfault": "killed by SIGSEGV",
    "stop": "no work",
    "ignore": "Ignore()",
}


@on_both_loops
async def test_every_failed_start_says_why() -> None:
    async with shared_node() as node:
        for how, why in FAILURES.items():
            with pytest.raises(InitFailedError) as failure:
                await spawn(child(Start, how=how).options(name="start"))
            error = failure.value
            assert why in str(error) or why == type(error.__cause__).__name__, how
            # It is gone, and its name is free, before we hear of it.
            assert whereis("start", Start) is None
        assert await node.ps() == []


async def test_a_tree_goes_on_without_a_child_that_has_nothing_to_do() -> None:
    tree = Supervisor(child(Start, how="ignore").options(name="start"), child(Counter))
    async with ObservedNode(tree) as node:
        assert whereis("start", Start) is None
        assert [row["server"] for row in await node.ps()] == ["Counter"]


@pytest.mark.slow
@pytest.mark.parametrize("how", ["loop", "loop in C", "loop in the constructor"])
@on_both_loops
async def test_a_start_that_hangs_is_ended_after_its_time(how: str) -> None:
    async with shared_node() as node:
        with pytest.raises(InitTimedOutError) as failure:
            await spawn(child(Start, how=how).options(init_timeout=0.1))
        assert failure.value.init_timeout == 0.1
        assert await node.ps() == []
        # The node is none the worse for it.
        assert await Counter.increment(await spawn(Counter)) == 1


async def test_a_tree_that_does_not_start_stops_what_had_started() -> None:
    tree = Supervisor(child(Counter), child(Start, how="raise"), child(Counter).options(id="b"))
    node = ObservedNode(tree)
    with pytest.raises(InitFailedError) as failure:
        await node.start()
    assert failure.value.server == "Start"
    assert isinstance(failure.value.__cause__, ValueError)
    await asyncio.sleep(0)
    assert {e.server for e in node.seen if e.kind == "ready"} == {"Counter"}


async def test_a_start_that_fails_in_a_restart_counts_as_an_exit(tmp_path: Path) -> None:
    async with shared_node() as node:
        start = await spawn(Start, how="raise unless first", marker=str(tmp_path / "marker"))
        with pytest.raises(ServerExitedError):
            await Start.kill(start)
        with pytest.raises(NoServerError) as failure:
            await Start.os_pid(start)
        report = failure.value.report
        assert report is not None
        # The first start, the restart after the death, and three more after its failure.
        assert (report.incarnation, report.next) == (5, "its supervisor gives up")
        assert "init" in report.summary
        assert isinstance(failure.value.__cause__, ValueError)
        assert await node.ps() == []


async def test_a_call_waits_while_a_restart_fails_and_is_tried_again(tmp_path: Path) -> None:
    async with shared_node() as node:
        start = await spawn(Start, how="raise the second time", marker=str(tmp_path / "marker"))
        before = await Start.os_pid(start)
        dying = Start.kill(start)
        waiting = Start.os_pid(start)
        with pytest.raises(ServerExitedError):
            await dying
        assert await waiting != before
        assert (await node.event("restarted", start)).incarnation == 3


async def test_a_start_with_a_taken_name_is_refused() -> None:
    async with shared_node() as node:
        counter = await spawn(child(Counter, start=1).options(name="counter"))
        with pytest.raises(AlreadyRegisteredError) as failure:
            await spawn(child(Counter, start=2).options(name="counter"))
        assert failure.value.name == "counter"
        assert await Counter.increment(counter) == 2
        assert len(await node.ps()) == 1


async def test_many_starts_at_once_with_one_name_give_one_server() -> None:
    async with shared_node() as node:
        spec = child(Counter).options(name="counter")
        results: list[Any] = await asyncio.gather(
            *(spawn(spec) for _ in range(8)), return_exceptions=True
        )
        assert sum(isinstance(r, AlreadyRegisteredError) for r in results) == 7
        assert len(await node.ps()) == 1


async def test_what_a_start_leaves_in_its_process_group_goes_with_it() -> None:
    # The plugin finds what is left.
    async with shared_node():
        results = await asyncio.gather(
            *(spawn(child(Start, how=how)) for how in ("raise", "kill", "os._exit")),
            return_exceptions=True,
        )
        assert {type(r) for r in results} == {InitFailedError}
