"""Cases of Elixir's own tests of `DynamicSupervisor` and `PartitionSupervisor`.

`docs/otp-conformance.md` says which case is held by which test.
"""

from __future__ import annotations

import asyncio
from collections import Counter as Tally
from typing import Any

import pytest

from noex_mp import (
    BadChildSpecError,
    ChildNotFoundError,
    DynamicSupervisor,
    InitFailedError,
    MaxChildrenError,
    NoServerError,
    PartitionSupervisor,
    Ref,
    Supervisor,
    SupervisorRef,
    child,
    supervisor,
)
from tests.nodes.observed import ObservedNode
from tests.nodes.scenes import Scene, at, refs_of, scene, states
from tests.servers.counters import Counter
from tests.servers.faulty import Start
from tests.servers.members import Member
from tests.servers.obedient import Obedient

pytestmark = pytest.mark.slow

__all__ = ["scene"]


async def test_a_start_that_comes_to_nothing_takes_no_place(scene: Scene) -> None:
    tree = Supervisor(
        DynamicSupervisor(id="rooms", max_children=1), DynamicSupervisor(id="none", max_children=0)
    )
    async with ObservedNode(tree):
        rooms = supervisor("rooms")
        for how in ("raise", "ignore", "os._exit", "stop"):
            with pytest.raises(InitFailedError):
                await rooms.start_child(child(Start, how))
            counts = await rooms.count_children()
            assert (counts.specs, counts.active) == (0, 0)
        with pytest.raises(BadChildSpecError, match="no auto_shutdown"):
            await rooms.start_child(scene.child("a", restart="transient", significant=True))
        await rooms.start_child(scene.child("a"))
        for full in (rooms, supervisor("none")):
            with pytest.raises(MaxChildrenError):
                await full.start_child(scene.child("b"))
        assert scene.told() == ["+a"]


async def test_a_child_that_waits_for_its_restart_takes_a_place(scene: Scene) -> None:
    async with ObservedNode(Supervisor(DynamicSupervisor(id="rooms", max_children=1))) as node:
        rooms = supervisor("rooms")
        a = await rooms.start_child(scene.child("a"))
        scene.order("a", "??+")
        node.kill(a)
        await scene.asked("a")
        counts = await rooms.count_children()
        assert (counts.specs, counts.active, counts.servers) == (1, 0, 1)
        assert await states("rooms") == {"a": "restarting"}
        with pytest.raises(MaxChildrenError):
            await rooms.start_child(scene.child("b"))
        # It fails, and is tried again.
        scene.tell("a", "!")
        await scene.asked("a")
        with pytest.raises(MaxChildrenError):
            await rooms.start_child(scene.child("b"))
        await rooms.terminate_child(a)
        assert await states("rooms") == {}
        assert await Obedient.os_pid(await rooms.start_child(scene.child("b")))


async def test_a_child_is_terminated_by_its_address_and_only_by_its_supervisor(
    scene: Scene,
) -> None:
    tree = Supervisor(DynamicSupervisor(id="one"), DynamicSupervisor(id="two"))
    async with ObservedNode(tree):
        one, two = supervisor("one"), supervisor("two")
        a, b = await one.start_child(scene.child("a")), await two.start_child(scene.child("b"))
        with pytest.raises(ChildNotFoundError):
            await one.terminate_child(b)
        # Neither its id nor its number, as text, is an address; its name is.
        for key in (f"{a.sid}", "nobody"):
            with pytest.raises(ChildNotFoundError):
                await one.terminate_child(key)
        assert await Obedient.os_pid(b)
        await one.terminate_child(at("a"))
        # It is forgotten: nothing is left to be terminated, restarted or deleted.
        for deed in (one.terminate_child, one.restart_child, one.delete_child):
            with pytest.raises(ChildNotFoundError):
                await deed(a)
        await asyncio.gather(*(two.terminate_child(b) for _ in range(3)))
        for parent in (one, two):
            assert await parent.which_children() == []


async def test_supervisors_are_dynamic_children_too(scene: Scene) -> None:
    async with ObservedNode(Supervisor(DynamicSupervisor(id="shops"))) as node:
        shops = supervisor("shops")
        started: list[SupervisorRef] = []
        for n in range(3):
            shop = Supervisor(scene.child(f"{n}"), id="shop", max_restarts=0)
            started.append(await shops.start_child(shop))
        counts = await shops.count_children()
        assert (counts.specs, counts.active, counts.servers, counts.supervisors) == (3, 3, 0, 3)
        assert [each.ref for each in await shops.which_children()] == started
        first, *_ = refs = await refs_of("012")
        node.kill(first)
        await node.event("restarted", first)
        assert [await Obedient.os_pid(ref) for ref in refs]
        assert await started[0].get_child("0") == first
        await shops.terminate_child(started[0])
        assert [each.ref for each in await shops.which_children()] == started[1:]
        assert not await started[0].is_running()
        with pytest.raises(NoServerError):
            await Obedient.os_pid(first)


async def test_a_thousand_children_come_and_go() -> None:
    tree = Supervisor(DynamicSupervisor(child(Member), id="rooms", max_restarts=0))
    async with ObservedNode(tree, preload=("tests.servers.members",)) as node:
        rooms = supervisor("rooms")
        # All in one process, where a server costs little.
        refs: list[Ref[Member]] = await asyncio.gather(
            *(rooms.start_child(number=n) for n in range(1000))
        )
        counts = await rooms.count_children()
        assert (counts.specs, counts.active, counts.servers) == (1000, 1000, 1000)
        assert {each.ref for each in await rooms.which_children()} == set(refs)
        await asyncio.gather(*(rooms.terminate_child(ref) for ref in refs[:500]))
        assert {each.ref for each in await rooms.which_children()} == set(refs[500:])
        assert await Member.echo(refs[-1], 1) == 1
        await rooms.stop()
        ended = Tally(event.sid for event in node.seen if event.kind == "exited")
        assert all(ended[ref.sid] == 1 for ref in refs)


async def test_the_arguments_of_what_is_never_restarted_are_not_kept() -> None:
    tree = Supervisor(
        DynamicSupervisor(child(Counter).options(restart="temporary"), id="by template"),
        DynamicSupervisor(id="rooms"),
    )
    async with ObservedNode(tree) as node:
        assert node._root is not None  # pyright: ignore[reportPrivateUsage]
        temporary = child(Counter, start=5).options(restart="temporary")
        kept: Ref[Counter] = await supervisor("rooms").start_child(child(Counter, start=5))
        refs: list[Ref[Counter]] = [
            await supervisor("by template").start_child(5),
            await supervisor("rooms").start_child(temporary),
            await supervisor("/").start_child(temporary),
            await node.spawn(temporary),
        ]
        for ref in (kept, *refs):
            assert await Counter.increment(ref) == 6
            server = node._root._directory.get(ref.sid)  # pyright: ignore[reportPrivateUsage]
            assert server is not None
            assert ("payload" in server.spec) == (ref is kept)
            assert "extra" not in server.spec


async def test_partitions_are_counted_found_and_stopped(scene: Scene) -> None:
    carts = PartitionSupervisor(child(Counter), partitions=3, name="carts", max_restarts=1)
    async with ObservedNode(Supervisor(carts)) as node:
        counts = await supervisor("carts").count_children()
        assert (counts.specs, counts.active, counts.servers, counts.supervisors) == (3, 3, 3, 0)
        found = await supervisor("carts").which_children()
        assert [each.id for each in found] == ["0", "1", "2"]
        partitions: list[Ref[Counter]] = [await supervisor("carts").partition(n) for n in (0, 1, 2)]
        assert [each.ref for each in found] == partitions
        # As in Elixir, 3 is the first again; as in Python, -1 is the last.
        assert await supervisor("carts").partition(3) == partitions[0]
        assert await supervisor("carts").partition(-1) == partitions[2]
        # One is down: whoever has a key of it gets its address, and waits.
        node.kill(partitions[1])
        partition: Any = await supervisor("carts").partition(1)
        assert partition == partitions[1]
        assert await Counter.increment(partition) == 1
        # They share a budget: two deaths are too many, and all are new, under the same addresses.
        assert await Counter.increment(partitions[0]) == 1
        node.kill(partitions[2])
        await node.event("restarted", partitions[2])
        assert [await Counter.increment(ref) for ref in partitions] == [1, 1, 1]
        await supervisor("carts").stop()
        for asked in (supervisor("carts").partition(0), supervisor("carts").which_children()):
            with pytest.raises(NoServerError):
                await asked
