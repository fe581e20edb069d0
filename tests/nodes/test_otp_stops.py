"""Cases of OTP's `supervisor_SUITE`: shutdown, each within its limit, and significant children.

`docs/otp-conformance.md` says which case is held by which test.
"""

from __future__ import annotations

import asyncio
from itertools import product
from typing import Any, get_args

import pytest

from noex_mp import (
    ChildStateError,
    DynamicSupervisor,
    Exited,
    ExitReason,
    NoServerError,
    Ref,
    Shutdown,
    ShutdownTimedOut,
    Supervisor,
    SupervisorRef,
    child,
    stop,
    supervisor,
)
from noex_mp.core.specs import Restart
from tests.nodes.observed import ObservedNode
from tests.nodes.scenes import Scene, at, refs_of, scene, states
from tests.servers.counters import Counter
from tests.servers.obedient import Obedient

pytestmark = pytest.mark.slow

__all__ = ["scene"]


def reasons_of(node: ObservedNode, names: list[str]) -> list[ExitReason]:
    """Return why servers ended, each for the last time."""
    reports = {e.server: e.report for e in node.seen if e.kind in ("exited", "crashed")}
    return [report.reason for name in names if (report := reports[name]) is not None]


async def test_each_child_stops_within_its_own_limit(scene: Scene) -> None:
    inner = Supervisor(
        scene.child("endless", shutdown=None),
        scene.child("late", last="hang", shutdown=0.1),
        scene.child("killed", last="hang", shutdown="brutal_kill"),
        scene.child("failing", last="raise"),
        scene.child("leaving", last="exit"),
        scene.child("good"),
        id="inner",
    )
    async with ObservedNode(Supervisor(inner)) as node:
        names = list(await states("inner"))
        await supervisor("inner").stop()
        # From right to left; who is killed has no last word, and costs the others nothing.
        assert scene.told()[6:] == ["-good", "-leaving", "-failing", "-late", "-endless"]
        stopped = [e.server for e in node.seen if e.kind in ("exited", "crashed")]
        assert stopped == [*reversed(names), "inner"]
        endless, late, killed, failing, leaving, good = reasons_of(node, names)
        assert (endless, late, good) == (Shutdown(), ShutdownTimedOut(0.1), Shutdown())
        # We asked for it. What it raises in its last act is told in the log.
        assert (killed, failing, leaving) == (Shutdown(), Shutdown(), Exited(3))
        assert await node.line("told to raise at the end")


async def test_dynamic_children_stop_at_once_each_within_its_limit(scene: Scene) -> None:
    async with ObservedNode(Supervisor(DynamicSupervisor(id="rooms"))) as node:
        rooms = supervisor("rooms")
        names = [f"late-{n}" for n in range(8)]
        for name in names:
            await rooms.start_child(scene.child(name, last="hang", shutdown=0.3))
        for name, restart in product(("raise", "exit", "good"), get_args(Restart)):
            spec = scene.child(f"{name}-{restart}", last=name, restart=restart)
            await rooms.start_child(spec)
        for n in range(3):
            await rooms.start_child(scene.child(f"killed-{n}", last="hang", shutdown="brutal_kill"))
        loop = asyncio.get_running_loop()
        before = loop.time()
        await rooms.stop()
        # One limit, and not eight.
        assert 0.3 <= loop.time() - before < 8 * 0.3
        assert reasons_of(node, names) == [ShutdownTimedOut(0.3)] * 8
        good = [f"good-{restart}" for restart in get_args(Restart)]
        assert reasons_of(node, good) == [Shutdown()] * 3
        told = scene.told()
        assert len([line for line in told if line.startswith("+")]) == 8 + 9 + 3
        assert len([line for line in told if line.startswith("-")]) == 8 + 9


async def test_what_ends_by_itself_while_its_supervisor_stops_is_not_started_again(
    scene: Scene,
) -> None:
    ends = ("normal", "shutdown", "crash", "kill")
    cases = [
        (f"{restart}-{how}", restart, how) for restart, how in product(get_args(Restart), ends)
    ]
    inner = Supervisor(
        scene.child("first"),
        *(scene.child(name, restart=restart) for name, restart, _ in cases),
        scene.child("last", last="ask", shutdown=None),
        id="inner",
        max_restarts=0,
    )
    async with ObservedNode(Supervisor(inner)) as node:
        scene.let_ask("last")
        refs = {name: await Obedient.me(at(name)) for name, _, _ in cases}
        stopping = asyncio.ensure_future(supervisor("inner").stop())
        await scene.asked("last")
        for name, _, how in cases:
            if how == "kill":
                node.kill(refs[name])
                await node.event("crashed", refs[name])
            else:
                await asyncio.gather(Obedient.end(refs[name], how), return_exceptions=True)
                await node.event("crashed" if how == "crash" else "exited", refs[name])
        # It starts nothing any more, and says so.
        assert await states() == {"inner": "stopping"}
        assert not await supervisor("inner").is_running()
        with pytest.raises(NoServerError):
            await supervisor("inner").start_child(scene.child("further"))
        with pytest.raises(ChildStateError, match="stopping"):
            await supervisor("/").restart_child("inner")
        assert not stopping.done()
        scene.tell("last", "x")
        await stopping
        told = scene.told()
        assert told[-1] == "-first"
        assert len([line for line in told if line.startswith("+")]) == len(cases) + 2
        assert not [e for e in node.seen if e.kind in ("restarted", "gave_up")]


# --- significant children ----------------------------------------------------------------------


async def end(node: ObservedNode, of: SupervisorRef, name: str, how: str) -> None:
    """Let a child end, and wait until its supervisor has decided what follows."""
    ref: Ref[Any] = await Obedient.me(at(name))
    if how == "terminated":
        await of.terminate_child(name)
    elif how == "stopped":
        await stop(ref)
    elif how == "killed":
        node.kill(ref)
        await node.event("crashed", ref)
    else:
        await asyncio.gather(Obedient.end(ref, how), return_exceptions=True)
        await node.event("crashed" if how == "crash" else "exited", ref)


ENDS = ("terminated", "stopped", "killed", "crash", "normal", "shutdown")


@pytest.mark.parametrize("restart", ["temporary", "transient"])
async def test_the_end_for_good_of_a_significant_child_ends_its_supervisor(
    scene: Scene, restart: Restart
) -> None:
    tree = Supervisor(DynamicSupervisor(id="all"))
    async with ObservedNode(tree) as node:
        for how in ENDS:
            for significant in (True, False):
                name = f"{how}-{significant}"
                inner = Supervisor(
                    scene.child(f"{name}-a", restart=restart, significant=significant),
                    scene.child(f"{name}-b", restart=restart, significant=True),
                    scene.child(f"{name}-c"),
                    auto_shutdown="any_significant",
                    restart="temporary",
                )
                front: Any = await supervisor("all").start_child(inner)
                b, c = [await Obedient.me(at(f"{name}-{each}")) for each in "bc"]
                await end(node, front, f"{name}-a", how)
                for_good = restart == "temporary" or how in ("normal", "shutdown")
                if significant and for_good and how not in ("terminated", "stopped"):
                    await node.event("exited", b)
                    told = scene.told(f"{name}-b", f"{name}-c")
                    assert told[2:] == [f"-{name}-c", f"-{name}-b"]
                    assert not await front.is_running()
                else:
                    # As in OTP, also where it was ended by hand.
                    assert await front.is_running(), name
                    assert await Obedient.os_pid(c)
                    await front.stop()


async def test_the_last_significant_child_ends_its_supervisor(scene: Scene) -> None:
    async with ObservedNode(Supervisor(DynamicSupervisor(id="all"))) as node:
        for n, (restart, first) in enumerate(
            product(("temporary", "transient"), ("normal", "terminated"))
        ):
            options: Any = {"restart": restart, "significant": True}
            inner = Supervisor(
                *(scene.child(f"{name}{n}", **options) for name in "ab"),
                scene.child(f"c{n}"),
                auto_shutdown="all_significant",
                restart="temporary",
            )
            front: Any = await supervisor("all").start_child(inner)
            c = await Obedient.me(at(f"c{n}"))
            await end(node, front, f"a{n}", first)
            assert await front.is_running()
            # What starts again is not gone; what was terminated is.
            if restart == "transient":
                b = await Obedient.me(at(f"b{n}"))
                node.kill(b)
                await node.event("restarted", b)
                assert await front.is_running()
            await end(node, front, f"b{n}", "normal")
            await node.event("exited", c)
            with pytest.raises(NoServerError):
                await Obedient.os_pid(c)


@pytest.mark.parametrize("auto_shutdown", ["any_significant", "all_significant"])
async def test_a_significant_child_that_goes_down_with_its_group_ends_nobody(
    scene: Scene, auto_shutdown: Any
) -> None:
    strategies: tuple[Any, ...] = ("one_for_one", "one_for_all", "rest_for_one")
    inner = [
        Supervisor(
            scene.child(f"{strategy}-a", restart="transient", significant=True),
            scene.child(f"{strategy}-b", restart="transient"),
            scene.child(f"{strategy}-c", restart="transient", significant=True),
            # It goes down with its group, and for good.
            scene.child(f"{strategy}-d", restart="temporary", significant=True),
            strategy=strategy,
            auto_shutdown=auto_shutdown,
            id=strategy,
        )
        for strategy in strategies
    ]
    async with ObservedNode(Supervisor(*inner)) as node:
        for strategy in strategies:
            b, c = [await Obedient.me(at(f"{strategy}-{name}")) for name in "bc"]
            node.kill(b)
            await node.event("restarted", b if strategy == "one_for_one" else c)
            assert await supervisor(strategy).is_running()
            left = "abcd" if strategy == "one_for_one" else "abc"
            expected = {f"{strategy}-{name}": "running" for name in left}
            assert await states(strategy) == expected


async def test_a_significant_supervisor_hands_its_end_on(scene: Scene) -> None:
    def nested(name: str, *, significant: bool) -> Supervisor:
        deep = Supervisor(
            scene.child(f"{name}-work", restart="transient", significant=True),
            auto_shutdown="any_significant",
            restart="transient",
            significant=significant,
            id="deep",
        )
        return Supervisor(
            scene.child(f"{name}-aid"),
            deep,
            auto_shutdown="any_significant",
            restart="transient",
            id=name,
        )

    tree = Supervisor(nested("one", significant=True), nested("two", significant=False))
    async with ObservedNode(tree) as node:
        for name in ("one", "two"):
            deep: Any = await supervisor(name).get_child("deep")
            await Obedient.end(at(f"{name}-work"), "normal")
            await node.event("exited", deep)
        one: Any = await supervisor("/").get_child("one")
        await node.event("exited", one)
        assert await states() == {"one": "stopped", "two": "running"}
        assert scene.told("one-aid", "one-work")[2:] == ["-one-work", "-one-aid"]
        assert await states("two") == {"two-aid": "running", "deep": "stopped"}
        # Both can be started again by hand, with all that is in them.
        await supervisor("two").restart_child("deep")
        await supervisor("/").restart_child("one")
        for name in ("one-aid", "one-work", "two-work"):
            assert await Obedient.os_pid(at(name))


async def test_a_supervisor_that_may_take_no_longer_is_killed_with_all_that_is_in_it(
    scene: Scene,
) -> None:
    inner = Supervisor(
        *(scene.child(name, last="hang", shutdown=None) for name in "ab"),
        Supervisor(scene.child("c", last="hang", shutdown=None), id="deep"),
        shutdown=0.2,
        id="inner",
    )
    async with ObservedNode(Supervisor(child(Counter), inner)) as node:
        a, b, c = await refs_of("abc")
        await supervisor("/").terminate_child("inner")
        assert scene.told()[3:] == ["-c"]
        for ref in (a, b, c):
            assert (await node.event("exited", ref)).report is not None
            assert not await ref.is_running()
        assert [row["server"] for row in await node.ps()] == ["Counter"]
