"""What the users of noex would have met there: each rule that `docs/moving-from-noex.md` names
and no other test holds."""

from __future__ import annotations

import asyncio
import re

import pytest

from noex_mp import (
    ChildStateError,
    Supervisor,
    cancel_timer,
    child,
    send_after,
    spawn,
    stop,
    supervisor,
)
from tests.nodes.observed import ObservedNode
from tests.nodes.scenes import Scene, at, scene, states, until
from tests.processes.harness import REPOSITORY
from tests.servers.keeping import Keeper
from tests.servers.obedient import Obedient
from tests.servers.watching import Watcher, is_down

pytestmark = pytest.mark.slow

__all__ = ["scene"]


@pytest.mark.parametrize("placement", [None, "rooms"])
async def test_what_a_server_replies_is_a_copy(placement: str | None) -> None:
    async with ObservedNode():
        keeper = await spawn(child(Keeper).options(placement=placement))
        other = await spawn(child(Keeper).options(placement=placement))
        given = ["a"]
        await Keeper.keep(keeper, given)
        given.append("mine")
        (await Keeper.given_so_far(keeper)).append("mine")
        # Nor do two servers in one process share a value.
        assert await Keeper.change(other, keeper) == ["a", "changed"]
        assert await Keeper.given_so_far(keeper) == ["a"]


async def test_a_timer_may_be_as_far_away_as_one_likes() -> None:
    async with ObservedNode():
        watcher = await spawn(Watcher)
        far = [send_after(watcher, "too early", seconds) for seconds in (2**31 / 1000, 2.0**40)]
        soon = send_after(watcher, "in time", 0.01)
        assert await Watcher.heard(watcher, 1) == ["in time"]
        assert await Watcher.os_pid(watcher.within(2.0**40))
        assert await Watcher.all(watcher) == ["in time"]
        assert [cancel_timer(each) is not None for each in (*far, soon)] == [
            True,
            True,
            False,
        ]


async def test_a_server_may_watch_and_link_with_itself() -> None:
    async with ObservedNode():
        watcher = await spawn(child(Watcher, traps=True).options(restart="temporary"))
        await Watcher.watch(watcher, watcher)
        await Watcher.link_with(watcher, watcher)
        assert await Watcher.os_pid(watcher)
        other = await spawn(Watcher)
        await Watcher.watch(other, watcher)
        await stop(watcher)
        (down,) = await Watcher.heard(other, 1)
        assert is_down(down, watcher)


async def test_all_who_ask_for_the_end_of_a_supervisor_wait_for_it(scene: Scene) -> None:
    inner = Supervisor(scene.child("a"), scene.child("b", last="ask", shutdown=None), id="inner")
    async with ObservedNode(Supervisor(inner)) as node:
        scene.let_ask("b")
        stopping = [asyncio.ensure_future(supervisor("inner").stop()) for _ in range(3)]
        await scene.asked("b")
        terminating = asyncio.ensure_future(supervisor("/").terminate_child("inner"))
        assert await states() == {"inner": "stopping"}
        assert not any(each.done() for each in (*stopping, terminating))
        scene.tell("b", "x")
        await asyncio.gather(*stopping, terminating)
        assert [e.server for e in node.seen if e.kind == "exited"] == ["b", "a", "inner"]
        assert scene.told() == ["+a", "+b", "-b", "-a"]


async def test_a_child_that_ends_slowly_is_neither_restarted_nor_started_twice(
    scene: Scene,
) -> None:
    async with ObservedNode(Supervisor(scene.child("a", last="ask", shutdown=None))):
        top = supervisor("/")
        scene.let_ask("a")
        terminating = asyncio.ensure_future(top.terminate_child("a"))
        await scene.asked("a")
        for deed in (top.restart_child, top.delete_child):
            with pytest.raises(ChildStateError, match="stopping"):
                await deed("a")
        scene.tell("a", "x")
        await terminating
        assert await states() == {"a": "stopped"}
        scene.order("a", "?")
        starting = [asyncio.ensure_future(top.restart_child("a")) for _ in range(3)]
        await scene.asked("a")
        scene.tell("a", "+")
        outcomes = await asyncio.gather(*starting, return_exceptions=True)
        assert [isinstance(each, ChildStateError) for each in outcomes].count(True) == 2
        assert scene.told() == ["+a", "-a", "+a"]
        stopping = asyncio.ensure_future(top.terminate_child("a"))
        await scene.asked("a")
        scene.tell("a", "x")
        await stopping


async def test_a_group_whose_members_are_slow_is_restarted_once(scene: Scene) -> None:
    tree = Supervisor(
        *(scene.child(name, last="ask", shutdown=None) for name in "abc"),
        strategy="one_for_all",
        max_restarts=1,
    )
    async with ObservedNode(tree) as node:
        a = await Obedient.me(at("a"))
        for name in "abc":
            scene.order(name, "?")
        node.kill(a)
        # The others take their time to end, and all of them to start.
        for name, answer in zip("cbabc", "xx+++", strict=True):
            await scene.asked(name)
            scene.tell(name, answer)
        await until("c", "running")
        assert scene.told() == ["+a", "+b", "+c", "-c", "-b", "+a", "+b", "+c"]
        ending = asyncio.ensure_future(supervisor("/").stop())
        for name in "cba":
            await scene.asked(name)
            scene.tell(name, "x")
        await ending


def test_no_interval_is_measured_by_the_wall_clock() -> None:
    sources = {path: path.read_text() for path in (REPOSITORY / "noex_mp").rglob("*.py")}
    users = {
        str(path.relative_to(REPOSITORY / "noex_mp"))
        for path, source in sources.items()
        if re.search(r"\btime\.time\(|datetime\.now\(", source)
    }
    # When something happened, for people; `clock` and `time.monotonic` say how long it took.
    # `registry_files` names a file that it moves aside.
    said = {
        "node/dead_letters.py",
        "node/events.py",
        "node/exits.py",
        "node/registry_files.py",
        "cli/log.py",
    }
    assert users == said
