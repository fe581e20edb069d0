"""Cases of OTP's `supervisor_SUITE`: starts, `Ignore()`, and what is asked of a supervisor.

`docs/otp-conformance.md` says which case is held by which test.
"""

from __future__ import annotations

import asyncio

import pytest

from noex_mp import (
    AlreadyRegisteredError,
    ChildNotFoundError,
    ChildStateError,
    DuplicateChildError,
    DynamicSupervisor,
    InitFailedError,
    NoServerError,
    Supervisor,
    child,
    spawn,
    supervisor,
)
from noex_mp.client import current
from tests.nodes.observed import ObservedNode
from tests.nodes.scenes import Scene, at, refs_of, scene, states
from tests.servers.counters import Counter
from tests.servers.obedient import Obedient

pytestmark = pytest.mark.slow

__all__ = ["scene"]


async def test_a_child_that_has_nothing_to_do_is_kept_unless_it_is_temporary(scene: Scene) -> None:
    scene.order("idle", "00+")
    scene.order("gone", "0")
    tree = Supervisor(
        scene.child("idle"), scene.child("gone", restart="temporary"), scene.child("busy")
    )
    async with ObservedNode(tree):
        top = supervisor("/")
        assert await states() == {"idle": "stopped", "busy": "running"}
        counts = await top.count_children()
        assert (counts.specs, counts.active, counts.servers) == (2, 1, 2)
        with pytest.raises(NoServerError):
            await Obedient.os_pid(at("idle"))
        # It is asked again when it is started by hand, and again there is nothing to do.
        idle = await top.restart_child("idle")
        assert (await states())["idle"] == "stopped"
        assert await top.restart_child("idle") == idle
        assert await Obedient.os_pid(idle) == await Obedient.os_pid(at("idle"))


async def test_a_further_child_that_has_nothing_to_do_is_kept_too(scene: Scene) -> None:
    async with ObservedNode(Supervisor(DynamicSupervisor(id="rooms"))):
        top, rooms = supervisor("/"), supervisor("rooms")
        scene.order("idle", "0")
        idle = await top.start_child(scene.child("idle"))
        assert (await states())["idle"] == "stopped"
        with pytest.raises(NoServerError):
            await Obedient.os_pid(idle)
        await top.restart_child(idle)
        assert await Obedient.os_pid(idle)
        # Of a temporary one, and of one below a dynamic supervisor, nothing is kept.
        for parent, restart in ((top, "temporary"), (rooms, "temporary"), (rooms, "permanent")):
            scene.order("gone", "0")
            spec = scene.child("gone", restart=restart)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
            with pytest.raises(InitFailedError, match="Ignore"):
                await parent.start_child(spec)
            assert await parent.get_child("gone") is None
            gone = await parent.start_child(spec)
            await parent.terminate_child(gone)
        assert await rooms.which_children() == []


async def test_what_is_asked_depends_on_the_state_of_the_child(scene: Scene) -> None:
    async with ObservedNode(Supervisor(scene.child("a"))) as node:
        top, a = supervisor("/"), await Obedient.me(at("a"))

        async def refused(state: str, *, active: int) -> None:
            assert await states() == {"a": state}
            counts = await top.count_children()
            assert (counts.specs, counts.active, counts.servers) == (1, active, 1)
            with pytest.raises(DuplicateChildError) as present:
                await top.start_child(scene.child("a"))
            assert (present.value.id, present.value.state) == ("a", state)
            if state == "stopped":
                assert "restart_child('a')" in str(present.value)
                return
            for deed in (top.restart_child, top.delete_child):
                with pytest.raises(ChildStateError) as failure:
                    await deed("a")
                assert (failure.value.child, failure.value.state) == ("a", state)

        await refused("running", active=1)
        scene.order("a", "?+")
        node.kill(a)
        await scene.asked("a")
        await refused("restarting", active=0)
        await top.terminate_child("a")
        await refused("stopped", active=0)
        scene.order("a", "?")
        starting = asyncio.ensure_future(top.restart_child("a"))
        await scene.asked("a")
        await refused("starting", active=1)
        scene.tell("a", "+")
        assert await starting == a
        await top.terminate_child("a")
        await top.terminate_child("a")
        await top.delete_child("a")
        assert await top.which_children() == []


async def test_who_asks_for_what_there_is_not_changes_nothing(scene: Scene) -> None:
    async with ObservedNode(Supervisor(scene.child("a"))) as node:
        top, before = supervisor("/"), await Obedient.os_pid(at("a"))
        for deed in (top.terminate_child, top.restart_child, top.delete_child):
            with pytest.raises(ChildNotFoundError, match="nobody"):
                await deed("nobody")
        nowhere = supervisor("/a")
        for asked in (nowhere.which_children(), nowhere.count_children(), nowhere.stop()):
            with pytest.raises(NoServerError):
                await asked
        # What no program of ours would ask.
        for method, *args in (
            ("nonsense",),
            ("start_child", "/", {"kind": "?"}),
            ("delete_child",),
        ):
            with pytest.raises((LookupError, TypeError)):
                await current.client(node.id).request(str(method), *args)
        assert await states() == {"a": "running"}
        assert await Obedient.os_pid(at("a")) == before


async def test_a_further_child_whose_name_is_taken_leaves_nothing(scene: Scene) -> None:
    async with ObservedNode(Supervisor()):
        other = await spawn(child(Counter).options(name="a"))
        for spec in (scene.child("a"), Supervisor(scene.child("b"), id="s", name="a")):
            with pytest.raises(AlreadyRegisteredError):
                await supervisor("/").start_child(spec)
        assert await supervisor("/").which_children() == []
        assert scene.told() == []
        assert await Counter.increment(other) == 1
        # Nor does what had been claimed before the name that was taken.
        assert await Obedient.os_pid(await supervisor("/").start_child(scene.child("b")))


async def test_a_tree_that_is_restarted_is_as_it_was_described(scene: Scene) -> None:
    tree = Supervisor(
        Supervisor(scene.child("a"), scene.child("b"), id="one"),
        Supervisor(id="two", max_restarts=1),
        Supervisor(scene.child("c"), id="three", restart="transient"),
        strategy="one_for_all",
    )
    async with ObservedNode(tree) as node:
        top = supervisor("/")
        one, two = await top.get_child("one"), await top.get_child("two")
        for name in "de":
            await supervisor("two").start_child(scene.child(name))
        a, b, c, d, e = await refs_of("abcde")
        await top.terminate_child("three")
        counts = await top.count_children()
        assert (counts.specs, counts.active, counts.supervisors) == (3, 2, 3)
        pids = [await Obedient.os_pid(ref) for ref in (a, b, d)]
        node.kill(e)
        await node.event("restarted", e)
        # Only the one that died.
        assert [await Obedient.os_pid(ref) for ref in (a, b, d)] == pids
        # One too many: `two` gives up, and all go down with it.
        node.kill(d)
        await node.event("restarted", c)
        assert await states() == {"one": "running", "two": "running", "three": "running"}
        # What was added is gone, and what was terminated is back.
        assert await states("two") == {}
        for ref in (d, e):
            with pytest.raises(NoServerError):
                await Obedient.os_pid(ref)
        assert [await top.get_child("one"), await top.get_child("two")] == [one, two]
        assert await Obedient.os_pid(a) != pids[0]


async def test_one_that_took_the_place_of_another_goes_with_its_supervisor(scene: Scene) -> None:
    inner = Supervisor(scene.child("a"), scene.child("b"), max_restarts=0, id="inner")
    async with ObservedNode(Supervisor(inner)) as node:
        a, b = await refs_of("ab")
        await supervisor("inner").terminate_child("a")
        await supervisor("inner").delete_child("a")
        other = await supervisor("inner").start_child(child(Counter).options(id="a"))
        node.kill(b)
        await node.event("restarted", b)
        with pytest.raises(NoServerError):
            await Counter.increment(other)
        # The one of the description is there again.
        assert await Obedient.os_pid(at("a"))
        assert await Obedient.me(at("a")) not in (a, other)
        assert list(await states("inner")) == ["a", "b"]
