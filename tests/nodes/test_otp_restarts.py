"""Cases of OTP's `supervisor_SUITE`: who is restarted, and when that is given up.

`docs/otp-conformance.md` says which case is held by which test.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from itertools import product
from typing import Any, get_args

import pytest

from noex_mp import (
    Backoff,
    ChildStateError,
    Crash,
    DuplicateChildError,
    DynamicSupervisor,
    ExitReason,
    InitFailedError,
    Killed,
    Normal,
    NoServerError,
    ServerExitedError,
    Shutdown,
    Supervisor,
    child,
    named,
    stop,
    supervisor,
    whereis,
)
from noex_mp.core.specs import Restart
from tests.nodes.observed import ObservedNode
from tests.nodes.scenes import Scene, at, refs_of, scene, states, until
from tests.servers.counters import Counter
from tests.servers.obedient import Obedient

pytestmark = pytest.mark.slow

__all__ = ["scene"]

FOR_EVER = 1_000_000


async def test_restart_type_and_reason_decide_who_comes_back(scene: Scene) -> None:
    ends: dict[str, ExitReason] = {
        "normal": Normal(),
        "shutdown": Shutdown(),
        "shutdown with a detail": Shutdown("some detail"),
        "crash": Crash("ValueError", "told to crash"),
        "kill": Killed("SIGKILL"),
    }
    cases: list[tuple[Restart, str]] = list(product(get_args(Restart), ends))
    names = {case: f"{case[0]}/{case[1]}" for case in cases}
    tree = Supervisor(
        *(scene.child(f"{n}", restart=case[0]) for n, case in enumerate(cases)), max_restarts=99
    )
    async with ObservedNode(tree) as node:
        top = supervisor("/")
        refs = {case: await Obedient.me(at(f"{n}")) for n, case in enumerate(cases)}
        for case, ref in refs.items():
            if case[1] == "kill":
                node.kill(ref)
            elif case[1] == "crash":
                with pytest.raises(ServerExitedError):
                    await Obedient.end(ref, "crash")
            else:
                await Obedient.end(ref, case[1])
        expected = {}
        for n, (restart, how) in enumerate(cases):
            abnormal = how in ("crash", "kill")
            comes_back = restart == "permanent" or (restart == "transient" and abnormal)
            ended = await node.event("crashed" if abnormal else "exited", refs[restart, how])
            assert ended.report is not None
            assert ended.report.reason == ends[how]
            assert ended.report.next == ("restarting" if comes_back else "stays down")
            if comes_back:
                await node.event("restarted", refs[restart, how])
            if restart != "temporary":
                expected[f"{n}"] = "running" if comes_back else "stopped"
        assert await states() == expected, names
        counts = await top.count_children()
        assert (counts.specs, counts.active) == (10, 7)
        # A description is kept, or not: see OTP's `already_present` and `already_started`.
        for n, (restart, _) in enumerate(cases):
            again = top.start_child(scene.child(f"{n}", restart=restart))
            if restart == "temporary":
                assert await Obedient.os_pid(await again)
            else:
                with pytest.raises(DuplicateChildError) as failure:
                    await again
                assert failure.value.state == expected[f"{n}"]


@pytest.mark.parametrize(
    ("strategy", "what_follows"),
    [
        ("one_for_all", ["+a", "!b", "-a", "+a", "+b"]),
        ("rest_for_one", ["+a", "!b", "+b"]),
    ],
)
async def test_a_group_whose_restart_fails_in_the_middle_is_restarted_as_its_strategy_says(
    scene: Scene, strategy: Any, what_follows: list[str]
) -> None:
    tree = Supervisor(scene.child("a"), scene.child("b"), strategy=strategy)
    async with ObservedNode(tree) as node:
        a, b = await refs_of("ab")
        scene.order("b", "!+")
        node.kill(a)
        await node.event("restarted", b)
        assert scene.told()[2:] == ["-b", *what_follows]
        assert await states() == {"a": "running", "b": "running"}


async def test_a_supervisor_whose_children_do_not_start_again_gives_up(scene: Scene) -> None:
    strategies = ("one_for_one", "one_for_all", "rest_for_one")
    inner = [
        Supervisor(
            *(scene.child(f"{strategy}-{name}") for name in "abc"),
            strategy=strategy,  # type: ignore[arg-type]
            max_failed_inits=1,
            id=strategy,
        )
        for strategy in strategies
    ]
    rooms = DynamicSupervisor(max_failed_inits=1, id="rooms")
    async with ObservedNode(Supervisor(*inner, rooms, max_restarts=99)) as node:
        for strategy in strategies:
            names = [f"{strategy}-{name}" for name in "abc"]
            refs = [await Obedient.me(at(name)) for name in names]
            scene.order(names[1], "!!+")
            node.kill(refs[1])
            # The one above starts it again, from left to right, and every address is good again.
            await node.event("restarted", refs[2])
            diary = scene.told(*names)
            assert diary.count(f"!{names[1]}") == 2
            assert diary[-3:] == [f"+{name}" for name in names]
            assert [await Obedient.os_pid(ref) for ref in refs]
        failing, sibling = [await supervisor("rooms").start_child(scene.child(n)) for n in "xy"]
        scene.order("x", "!...")
        node.kill(failing)
        await node.event("exited", sibling)
        for ref in (failing, sibling):
            with pytest.raises(NoServerError):
                await Obedient.os_pid(ref)
        assert await states("rooms") == {}
        gave_up = [event.server for event in node.seen if event.kind == "gave_up"]
        assert gave_up == [*strategies, "rooms"]


async def test_what_hangs_in_a_loop_of_restarts_is_terminated_at_once(scene: Scene) -> None:
    inner = Supervisor(
        *(scene.child(name) for name in "abc"),
        strategy="rest_for_one",
        max_failed_inits=FOR_EVER,
        id="inner",
    )
    rooms = DynamicSupervisor(max_failed_inits=FOR_EVER, id="rooms")
    async with ObservedNode(Supervisor(inner, rooms)) as node:
        b, c = await refs_of("bc")
        x = await supervisor("rooms").start_child(scene.child("x"))
        for name, ref in (("b", b), ("x", x)):
            scene.order(name, "!...")
            node.kill(ref)
        await node.event("crashed", b, nth=5)
        await node.event("crashed", x, nth=5)
        assert await states("inner") == {"a": "running", "b": "restarting", "c": "restarting"}
        assert (await supervisor("inner").count_children()).active == 1
        await supervisor("inner").terminate_child("b")
        # Unlike in OTP, nobody else stays down for that.
        await node.event("restarted", c)
        assert await states("inner") == {"a": "running", "b": "stopped", "c": "running"}
        await supervisor("rooms").terminate_child(x)
        assert await states("rooms") == {}
        scene.order("b", "")
        await supervisor("inner").restart_child("b")
        # A supervisor, and the node, stop just as fast.
        scene.order("b", "!...")
        failed = len([e for e in node.seen if e.kind == "crashed" and e.sid == b.sid])
        node.kill(b)
        await node.event("crashed", b, nth=failed + 5)
        await supervisor("inner").stop()
        scene.order("x", "")
        x = await supervisor("rooms").start_child(scene.child("x"))
        scene.order("x", "!...")
        node.kill(x)
        await node.event("crashed", x, nth=5)


async def test_one_that_has_nothing_to_do_any_more_holds_up_no_group(scene: Scene) -> None:
    tree = Supervisor(
        *(scene.child(name) for name in "abc"),
        DynamicSupervisor(id="rooms"),
        strategy="rest_for_one",
    )
    async with ObservedNode(tree) as node:
        a, b, c = await refs_of("abc")
        scene.order("b", "0")
        node.kill(a)
        await node.event("restarted", c)
        assert scene.told()[3:] == ["-c", "-b", "+a", "0b", "+c"]
        assert (await states())["b"] == "stopped"
        with pytest.raises(NoServerError):
            await Obedient.os_pid(b)
        await supervisor("/").restart_child("b")
        assert await Obedient.os_pid(b)
        # A dynamic one is forgotten.
        for restart in ("permanent", "transient"):
            spec = scene.child("x", restart=restart)
            x = await supervisor("rooms").start_child(spec)
            scene.order("x", "0")
            node.kill(x)
            await node.event("exited", x)
            with pytest.raises(NoServerError):
                await Obedient.os_pid(x)
            assert await states("rooms") == {}


# --- what is asked for while a group restarts --------------------------------------------------


async def test_one_that_is_terminated_while_it_waits_for_a_group_is_not_started(
    scene: Scene,
) -> None:
    tree = Supervisor(*(scene.child(name) for name in "abc"), strategy="rest_for_one")
    async with ObservedNode(tree) as node:
        top, (a, b, c) = supervisor("/"), await refs_of("abc")
        await top.terminate_child("a")
        scene.order("c", "?")
        node.kill(b)
        await scene.asked("c")
        old = asyncio.ensure_future(top.restart_child("a"))
        new = asyncio.ensure_future(top.start_child(scene.child("d")))
        # Both wait until the group is up.
        for name in "ad":
            await until(name, "starting")
        await top.terminate_child("a")
        await top.terminate_child("d")
        scene.tell("c", "+")
        for starting in (old, new):
            with pytest.raises(InitFailedError, match="stopped before its start"):
                await starting
        assert await states() == {"a": "stopped", "b": "running", "c": "running"}
        assert whereis("a", Obedient) is None
        assert scene.told("a", "d") == ["+a", "-a"]
        assert await top.restart_child("a") == a
        assert await Obedient.os_pid(c)


async def test_those_who_went_down_with_one_that_is_terminated_come_back(scene: Scene) -> None:
    tree = Supervisor(*(scene.child(name) for name in "abc"), strategy="rest_for_one")
    async with ObservedNode(tree) as node:
        top, (b, c) = supervisor("/"), await refs_of("bc")
        scene.order("b", "?")
        scene.order("d", "?")
        node.kill(b)
        await scene.asked("b")
        # This one waits for the group, and comes in between two attempts to start it.
        starting = asyncio.ensure_future(top.start_child(scene.child("d")))
        await until("d", "starting")
        scene.tell("b", "!")
        await scene.asked("d")
        await top.terminate_child("b")
        scene.tell("d", "+")
        assert await Obedient.os_pid(await starting)
        await node.event("restarted", c)
        assert list((await states()).values()) == ["running", "stopped", "running", "running"]


async def test_a_child_that_comes_back_with_its_supervisor_is_not_started_twice(
    scene: Scene,
) -> None:
    inner = Supervisor(scene.child("a"), scene.child("b"), max_restarts=0, id="inner")
    async with ObservedNode(Supervisor(inner)) as node:
        a, b = await refs_of("ab")
        await supervisor("inner").terminate_child("a")
        scene.order("a", "?")
        node.kill(b)
        await scene.asked("a")
        # It was stopped, and is being started again with the others.
        assert (await states("inner"))["a"] == "restarting"
        for deed in (supervisor("inner").restart_child, supervisor("inner").delete_child):
            with pytest.raises(ChildStateError, match="is restarting"):
                await deed("a")
        scene.tell("a", "+")
        await node.event("restarted", b)
        assert scene.told() == ["+a", "+b", "-a", "+a", "+b"]
        assert await Obedient.os_pid(a)


async def test_the_wait_for_a_restart_is_told_by_the_state(scene: Scene) -> None:
    spec = scene.child("a", backoff=Backoff(first=1000, max=1000))
    async with ObservedNode(Supervisor(Supervisor(spec, id="inner"), scene.child("b"))) as node:
        a = await Obedient.me(at("a"))
        node.kill(a)
        await node.event("crashed", a)
        assert await states("inner") == {"a": "restarting"}
        assert (await supervisor("inner").count_children()).active == 0
        await supervisor("inner").terminate_child("a")
        assert await states("inner") == {"a": "stopped"}
        # By hand, at once.
        await supervisor("inner").restart_child("a")
        assert await Obedient.os_pid(a)


async def test_what_is_asked_while_a_supervisor_starts_is_not_forgotten(scene: Scene) -> None:
    inner = Supervisor(*(scene.child(name) for name in "abcd"), id="inner")
    async with ObservedNode(Supervisor(inner)) as node:
        top, front = supervisor("/"), supervisor("inner")
        await front.terminate_child("b")
        await top.terminate_child("inner")
        scene.order("a", "?")
        starting = asyncio.ensure_future(top.restart_child("inner"))
        await scene.asked("a")
        # All are being started, and nobody else starts one of them.
        with pytest.raises(ChildStateError, match="restarting"):
            await front.restart_child("b")
        with pytest.raises(NoServerError, match="inner"):
            await front.start_child(scene.child("e"))
        await front.terminate_child("c")
        await stop(named("d", Obedient))
        scene.tell("a", "+")
        await starting
        assert await states("inner") == {"a": "running", "b": "running", "c": "stopped"}
        assert scene.told()[8:] == ["+a", "+b"]
        # Their names are free.
        for name in "cd":
            assert await Counter.increment(await node.spawn(child(Counter).options(name=name)))


async def test_one_that_was_to_come_back_with_its_group_keeps_no_name_if_that_ends(
    scene: Scene,
) -> None:
    inner = Supervisor(*(scene.child(name) for name in "abc"), strategy="rest_for_one", id="inner")
    async with ObservedNode(Supervisor(inner)) as node:
        a = await Obedient.me(at("a"))
        await supervisor("inner").terminate_child("c")
        scene.order("b", "?")
        node.kill(a)
        await scene.asked("b")
        await supervisor("/").terminate_child("inner")
        assert await states("inner") == {"a": "stopped", "b": "stopped", "c": "stopped"}
        assert await node.ps() == []
        assert await Counter.increment(await node.spawn(child(Counter).options(name="c")))


async def test_who_stops_a_child_does_not_wait_for_the_end_of_its_next_start(scene: Scene) -> None:
    tree = Supervisor(Supervisor(scene.child("a"), id="inner"), scene.child("b"))
    async with ObservedNode(tree):
        top = supervisor("/")

        async def start_at_once(name: str) -> None:
            while True:
                with suppress(ChildStateError):
                    await top.restart_child(name)
                    return

        async with asyncio.timeout(10):
            for _ in range(4):
                for name in ("inner", "b"):
                    # The start comes before all who stopped it have noticed the end.
                    stops = (top.terminate_child(name) for _ in range(3))
                    await asyncio.gather(*stops, start_at_once(name))
        for name in "ab":
            assert await Obedient.os_pid(at(name))
