"""Supervisors in supervisors, and who shares whose fate, over real processes."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from typing_extensions import Unpack

from noex_mp import (
    Backoff,
    ChildSpec,
    InitFailedError,
    MaxRestartsExceededError,
    NoServerError,
    Ref,
    Supervisor,
    child,
    named,
    stop,
)
from noex_mp.core.specs import ServerOptions
from tests.nodes.observed import ObservedNode, Whistles, on_both_loops
from tests.servers.trees import Leaf

pytestmark = pytest.mark.slow


def leaf(title: str, diary: Path, /, **options: Unpack[ServerOptions]) -> ChildSpec[Leaf]:
    return child(Leaf, title, str(diary)).options(id=title, name=title).options(**options)


def at(name: str) -> Ref[Leaf]:
    return named(name, Leaf).within(10)


def told(diary: Path) -> list[str]:
    return diary.read_text().split("\n")[:-1] if diary.exists() else []


async def os_pids(names: str) -> dict[str, int]:
    return {name: await Leaf.os_pid(at(name)) for name in names}


async def kill_and_wait(node: ObservedNode, name: str, nth: int = 1) -> None:
    ref = await Leaf.me(at(name))
    node.kill(ref)
    await node.event("restarted", ref, nth=nth)


@pytest.fixture
def diary(tmp_path: Path) -> Path:
    return tmp_path / "diary"


@on_both_loops
async def test_a_tree_starts_from_left_to_right_and_stops_in_reverse(diary: Path) -> None:
    tree = Supervisor(
        leaf("a", diary),
        Supervisor(leaf("b", diary), Supervisor(leaf("c", diary), id="deep"), id="front"),
        leaf("d", diary),
    )
    async with ObservedNode(tree):
        assert told(diary) == ["+a", "+b", "+c", "+d"]
    assert told(diary)[4:] == ["-d", "-c", "-b", "-a"]


@pytest.mark.parametrize(
    ("strategy", "killed", "what_follows", "stays"),
    [
        ("one_for_one", "b", ["+b"], "acd"),
        ("one_for_all", "b", ["-d", "-c", "-a", "+a", "+b", "+c", "+d"], ""),
        ("rest_for_one", "b", ["-d", "-c", "+b", "+c", "+d"], "a"),
        ("rest_for_one", "d", ["+d"], "abc"),
    ],
)
async def test_the_strategy_decides_who_is_restarted(
    diary: Path, strategy: Any, killed: str, what_follows: list[str], stays: str
) -> None:
    tree = Supervisor(*(leaf(name, diary) for name in "abcd"), strategy=strategy)
    async with ObservedNode(tree) as node:
        before = await os_pids("abcd")
        refs = {name: await Leaf.me(at(name)) for name in "abcd"}
        node.kill(refs[killed])
        last = refs[what_follows[-1][1:]]
        await node.event("restarted", last)
        assert told(diary)[4:] == what_follows
        after = await os_pids("abcd")
        assert {name for name in "abcd" if before[name] == after[name]} == set(stays)
        # By the refs of before, too.
        assert {name: await Leaf.os_pid(ref) for name, ref in refs.items()} == after


@on_both_loops
async def test_calls_to_a_group_that_restarts_wait(diary: Path) -> None:
    tree = Supervisor(leaf("a", diary), leaf("b", diary), strategy="one_for_all")
    async with ObservedNode(tree) as node:
        a, b = await Leaf.me(at("a")), await Leaf.me(at("b"))
        old = await os_pids("ab")
        node.kill(b)
        await node.event("crashed", b)
        # `a` is going down or gone; whoever calls it is answered by the next one.
        pids = await asyncio.gather(*(Leaf.os_pid(a.within(10)) for _ in range(20)))
        await node.event("restarted", b)
        assert set(pids) <= {old["a"], await Leaf.os_pid(a)}
        assert await Leaf.os_pid(a) != old["a"]


async def test_a_temporary_sibling_goes_down_with_its_group_and_stays_down(diary: Path) -> None:
    tree = Supervisor(
        leaf("a", diary), leaf("b", diary, restart="temporary"), strategy="one_for_all"
    )
    async with ObservedNode(tree) as node:
        b = await Leaf.me(at("b"))
        await kill_and_wait(node, "a")
        assert told(diary)[2:] == ["-b", "+a"]
        with pytest.raises(NoServerError):
            await Leaf.os_pid(b)


async def test_a_group_restart_counts_once(diary: Path) -> None:
    names = "abcdef"
    tree = Supervisor(
        *(leaf(name, diary) for name in names),
        strategy="one_for_all",
        max_restarts=2,
        max_seconds=60,
    )
    async with ObservedNode(tree) as node:
        refs = {name: await Leaf.me(at(name)) for name in names}
        for nth in (1, 2):
            node.kill(refs["c"])
            await node.event("restarted", refs["f"], nth=nth)
        node.kill(refs["c"])
        with pytest.raises(MaxRestartsExceededError) as failure:
            await node.wait()
        assert failure.value.report is not None
        assert failure.value.report.server == "c"


async def test_what_dies_while_its_group_restarts_is_not_counted_again(diary: Path) -> None:
    names = "abcdef"
    tree = Supervisor(
        *(leaf(name, diary) for name in names),
        strategy="one_for_all",
        max_restarts=1,
        max_seconds=60,
    )
    async with ObservedNode(tree) as node:
        refs = {name: await Leaf.me(at(name)) for name in names}
        for ref in refs.values():
            node.kill(ref)
        await node.event("restarted", refs["f"])
        assert len(set((await os_pids(names)).values())) == len(names)
        started = [line for line in told(diary)[len(names) :] if line.startswith("+")]
        assert started == [f"+{name}" for name in names]


async def test_a_nested_supervisor_that_gives_up_is_restarted_by_the_one_above(
    diary: Path,
) -> None:
    inner = Supervisor(leaf("b", diary), leaf("c", diary), max_restarts=0, id="inner")
    tree = Supervisor(leaf("a", diary), inner, max_restarts=1, max_seconds=60)
    async with ObservedNode(tree) as node:
        before = await os_pids("abc")
        b, c = await Leaf.me(at("b")), await Leaf.me(at("c"))
        node.kill(b)
        await node.event("restarted", c)
        assert told(diary)[3:] == ["-c", "+b", "+c"]
        # The same addresses: whoever holds them goes on.
        after = {"b": await Leaf.os_pid(b), "c": await Leaf.os_pid(c)}
        assert after["b"] != before["b"]
        assert after["c"] != before["c"]
        assert await Leaf.os_pid(at("a")) == before["a"]
        # Once more is one too many for the upper one as well.
        node.kill(c)
        with pytest.raises(MaxRestartsExceededError) as failure:
            await node.wait()
        assert failure.value.supervisor == "root"


async def test_the_failure_of_a_nested_start_stops_what_was_started_in_reverse(
    diary: Path,
) -> None:
    inner = Supervisor(leaf("c", diary), leaf("bad", diary), leaf("never", diary), id="inner")
    tree = Supervisor(leaf("a", diary), leaf("b", diary), inner, leaf("d", diary))
    with pytest.raises(InitFailedError) as failure:
        async with ObservedNode(tree):
            pass
    assert failure.value.server == "bad"
    assert isinstance(failure.value.__cause__, ValueError)
    assert told(diary) == ["+a", "+b", "+c", "-c", "-b", "-a"]


async def test_a_failed_restart_in_a_group_is_tried_again(diary: Path) -> None:
    tree = Supervisor(
        leaf("a", diary), leaf("shy", diary), leaf("b", diary), strategy="rest_for_one"
    )
    async with ObservedNode(tree) as node:
        b = await Leaf.me(at("b"))
        diary.with_suffix(".fail").write_text("xx")
        node.kill(await Leaf.me(at("a")))
        await node.event("restarted", b)
        lines = told(diary)[3:]
        assert lines == ["-b", "-shy", "+a", "!shy", "!shy", "+shy", "+b"]


@pytest.mark.parametrize("reason", ["normal", "crash"])
async def test_a_significant_child_that_is_done_ends_its_supervisor(
    diary: Path, reason: str
) -> None:
    inner = Supervisor(
        leaf("work", diary, restart="transient", significant=True),
        leaf("aid", diary),
        auto_shutdown="any_significant",
        restart="transient",
        id="inner",
    )
    async with ObservedNode(Supervisor(leaf("a", diary), inner)) as node:
        work, aid = await Leaf.me(at("work")), await Leaf.me(at("aid"))
        if reason == "normal":
            await Leaf.finish(work)
            await node.event("exited", aid)
            with pytest.raises(NoServerError):
                await Leaf.os_pid(aid)
            assert told(diary)[3:] == ["-work", "-aid"]
        else:
            node.kill(work)
            await node.event("restarted", work)
            assert told(diary)[3:] == ["+work"]
        assert await Leaf.os_pid(at("a"))


async def test_a_tree_whose_work_is_done_ends_the_node_in_order(diary: Path) -> None:
    tree = Supervisor(
        leaf("aid", diary),
        leaf("one", diary, restart="transient", significant=True),
        leaf("two", diary, restart="temporary", significant=True),
        auto_shutdown="all_significant",
    )
    async with ObservedNode(tree) as node:
        two = await Leaf.me(at("two"))
        await Leaf.finish(two)
        await node.event("exited", two)
        await Leaf.finish(at("one"))
        await node.wait()
        assert told(diary)[3:] == ["-two", "-one", "-aid"]


@on_both_loops
async def test_a_server_of_a_tree_that_is_stopped_stays_down_when_its_group_restarts(
    diary: Path,
) -> None:
    tree = Supervisor(*(leaf(name, diary) for name in "abc"), strategy="one_for_all")
    async with ObservedNode(tree) as node:
        b, c = await Leaf.me(at("b")), await Leaf.me(at("c"))
        await stop(b)
        node.kill(await Leaf.me(at("a")))
        await node.event("restarted", c)
        assert told(diary)[3:] == ["-b", "-c", "+a", "+c"]
        assert not await b.is_running()


async def test_a_stop_during_the_restart_of_a_group_waits_for_nothing(
    diary: Path, whistles: Whistles
) -> None:
    in_init = whistles("diary.slow")
    tree = Supervisor(
        leaf("a", diary),
        leaf("slow", diary, init_timeout=None),
        leaf("c", diary),
        strategy="one_for_all",
    )
    async with ObservedNode(tree) as node:
        slow, c = await Leaf.me(at("slow")), await Leaf.me(at("c"))
        diary.with_suffix(".stuck").write_text("")
        node.kill(await Leaf.me(at("a")))
        await in_init.heard()
        # It hangs in its `init`, and so does the group behind it.
        await stop(slow)
        await node.event("restarted", c)
        assert not await slow.is_running()
        assert await Leaf.os_pid(c)


async def test_a_node_stops_in_the_middle_of_a_group_restart(
    diary: Path, whistles: Whistles
) -> None:
    in_init = whistles("diary.slow")
    inner = Supervisor(
        leaf("a", diary),
        leaf("slow", diary, init_timeout=None),
        leaf("c", diary),
        strategy="one_for_all",
        id="inner",
    )
    async with ObservedNode(Supervisor(inner)) as node:
        c = await Leaf.me(at("c"))
        diary.with_suffix(".stuck").write_text("")
        node.kill(await Leaf.me(at("a")))
        await in_init.heard()
        waiting = asyncio.ensure_future(Leaf.os_pid(c.within(None)))
    with pytest.raises(NoServerError):
        await waiting
    assert told(diary)[3:] == ["-c", "-slow", "+a", "-a"]


async def test_a_backoff_delays_restarts_and_a_stop_does_not_wait_for_it(diary: Path) -> None:
    spec = leaf("a", diary, backoff=Backoff(first=0.05, factor=2000, max=1000, jitter=0))
    async with ObservedNode(Supervisor(spec, leaf("b", diary))) as node:
        a = await Leaf.me(at("a"))
        node.kill(a)
        died = await node.event("crashed", a)
        back = await node.event("restarted", a)
        assert back.time - died.time >= 0.05
        node.kill(a)
        await node.event("crashed", a, nth=2)
        # The next one is 100 s away.
        await stop(a)
        assert not await a.is_running()
        assert await Leaf.os_pid(at("b"))


async def test_a_supervisor_that_is_done_does_not_wait_for_a_backoff(diary: Path) -> None:
    inner = Supervisor(
        leaf("work", diary, restart="transient", significant=True),
        leaf("b", diary, backoff=Backoff(first=1000, max=1000)),
        leaf("c", diary),
        strategy="rest_for_one",
        auto_shutdown="any_significant",
        restart="transient",
        id="inner",
    )
    async with ObservedNode(Supervisor(inner)) as node:
        b, c = await Leaf.me(at("b")), await Leaf.me(at("c"))
        node.kill(b)
        await node.event("exited", c)
        await Leaf.finish(at("work"))
        with pytest.raises(NoServerError):
            await Leaf.os_pid(b.within(None))
