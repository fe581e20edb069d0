"""`supervisor("front")`: children that come and go while the program runs."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from noex_mp import (
    AlreadyRegisteredError,
    BadChildSpecError,
    ChildNotFoundError,
    ChildStateError,
    ConfigError,
    DuplicateChildError,
    DynamicSupervisor,
    Event,
    InitFailedError,
    Killed,
    MaxChildrenError,
    Node,
    NoNodeError,
    NoServerError,
    PartitionSupervisor,
    Ref,
    Supervisor,
    SupervisorRef,
    child,
    named,
    supervisor,
    sync,
    whereis,
)
from tests.nodes.observed import ObservedNode, Whistles, on_both_loops
from tests.nodes.test_trees import at, diary, leaf, told
from tests.servers.counters import Counter
from tests.servers.echoing import Echo
from tests.servers.trees import Early, Leaf, Starter

pytestmark = pytest.mark.slow

__all__ = ["diary"]


@on_both_loops
async def test_a_child_is_started_terminated_restarted_and_deleted(diary: Path) -> None:
    async with ObservedNode(Supervisor(Supervisor(leaf("a", diary), id="front"))) as node:
        front = supervisor("front")
        b = await front.start_child(leaf("b", diary))
        pid = await Leaf.os_pid(b)
        assert await front.get_child("b") == b
        with pytest.raises(DuplicateChildError):
            await front.start_child(leaf("b", diary))
        with pytest.raises(ChildStateError) as failure:
            await front.restart_child("b")
        assert (failure.value.child, failure.value.state) == ("b", "running")
        with pytest.raises(ChildStateError):
            await front.delete_child("b")

        await front.terminate_child("b")
        assert told(diary) == ["+a", "+b", "-b"]
        with pytest.raises(NoServerError):
            await Leaf.os_pid(b)
        assert whereis("b", Leaf) is None
        await front.terminate_child("b")
        assert [(each.id, each.state) for each in await front.which_children()] == [
            ("a", "running"),
            ("b", "stopped"),
        ]

        again = await front.restart_child("b")
        assert again == b
        assert await Leaf.os_pid(b) == await Leaf.os_pid(at("b")) != pid
        # It is supervised as before.
        node.kill(b)
        await node.event("restarted", b, nth=2)

        await front.terminate_child(b)
        await front.delete_child("b")
        assert await front.get_child("b") is None
        with pytest.raises(ChildNotFoundError) as missing:
            await front.restart_child("b")
        assert missing.value.ids == ("a",)


async def test_what_is_asked_for_twice_at_once_is_done_once(diary: Path) -> None:
    async with ObservedNode(Supervisor()):
        top = supervisor("/")
        outcomes = await asyncio.gather(
            *(top.start_child(leaf("b", diary)) for _ in range(5)), return_exceptions=True
        )
        refs = [each for each in outcomes if isinstance(each, Ref)]
        assert len(refs) == 1
        assert {type(each) for each in outcomes} == {Ref, DuplicateChildError}
        await asyncio.gather(*(top.terminate_child("b") for _ in range(3)))
        outcomes = await asyncio.gather(
            *(top.restart_child("b") for _ in range(3)), return_exceptions=True
        )
        assert {type(each) for each in outcomes} == {Ref, ChildStateError}
        assert told(diary) == ["+b", "-b", "+b"]


async def test_a_child_that_does_not_start_is_forgotten(diary: Path) -> None:
    async with ObservedNode(Supervisor(leaf("a", diary))):
        top = supervisor("/")
        for _ in range(2):
            with pytest.raises(InitFailedError) as failure:
                await top.start_child(leaf("bad", diary))
            assert isinstance(failure.value.__cause__, ValueError)
        assert [each.id for each in await top.which_children()] == ["a"]
        assert await Leaf.os_pid(at("a"))


async def test_a_restart_by_hand_that_fails_leaves_the_child_as_it_was(diary: Path) -> None:
    async with ObservedNode(Supervisor(leaf("shy", diary))):
        top = supervisor("/")
        await top.terminate_child("shy")
        diary.with_suffix(".fail").write_text("x")
        with pytest.raises(InitFailedError):
            await top.restart_child("shy")
        assert [each.state for each in await top.which_children()] == ["stopped"]
        shy = await top.restart_child("shy")
        assert await Leaf.os_pid(shy)


async def test_a_name_that_was_taken_meanwhile_is_not_taken_back(diary: Path) -> None:
    async with ObservedNode(Supervisor(leaf("a", diary))) as node:
        top = supervisor("/")
        await top.terminate_child("a")
        other = await node.spawn(child(Counter).options(name="a"))
        with pytest.raises(AlreadyRegisteredError):
            await top.restart_child("a")
        assert await Counter.increment(other) == 1


async def test_restarts_by_hand_use_no_budget(diary: Path) -> None:
    async with ObservedNode(Supervisor(leaf("a", diary), max_restarts=1)) as node:
        top = supervisor("/")
        for _ in range(4):
            await top.terminate_child("a")
            await top.restart_child("a")
        a = await Leaf.me(at("a"))
        node.kill(a)
        await node.event("restarted", a, nth=5)
        assert await Leaf.os_pid(a)


async def test_a_terminated_child_comes_back_with_its_group_as_in_otp(diary: Path) -> None:
    tree = Supervisor(leaf("a", diary), leaf("b", diary), strategy="one_for_all")
    async with ObservedNode(tree) as node:
        b = await Leaf.me(at("b"))
        await supervisor("/").terminate_child("b")
        node.kill(await Leaf.me(at("a")))
        await node.event("restarted", b)
        assert await Leaf.os_pid(b)


async def test_one_whose_name_was_taken_does_not_come_back_with_its_group(diary: Path) -> None:
    tree = Supervisor(leaf("a", diary), leaf("b", diary), leaf("c", diary), strategy="one_for_all")
    async with ObservedNode(tree) as node:
        a, c = await Leaf.me(at("a")), await Leaf.me(at("c"))
        await supervisor("/").terminate_child("b")
        other = await node.spawn(child(Counter).options(name="b"))
        node.kill(a)
        await node.event("restarted", c)
        assert [each.state for each in await supervisor("/").which_children()] == [
            "running",
            "stopped",
            "running",
        ]
        assert await Counter.increment(other) == 1


@on_both_loops
async def test_a_dynamic_supervisor_starts_by_template_up_to_its_bound() -> None:
    rooms = DynamicSupervisor(child(Counter, 10), max_children=3, id="rooms")
    async with ObservedNode(Supervisor(rooms)) as node:
        refs: list[Ref[Counter]] = [await supervisor("rooms").start_child() for _ in range(2)]
        refs.append(await supervisor("rooms").start_child(child(Counter, start=20)))
        assert [await Counter.increment(ref) for ref in refs] == [11, 11, 21]
        with pytest.raises(MaxChildrenError) as failure:
            await supervisor("rooms").start_child()
        assert failure.value.max_children == 3
        counts = await supervisor("rooms").count_children()
        assert (counts.specs, counts.active, counts.servers) == (3, 3, 3)
        node.kill(refs[0])
        await node.event("restarted", refs[0])
        assert await Counter.increment(refs[0]) == 11
        # Their ids are all the same, so none of them is meant.
        with pytest.raises(ChildNotFoundError):
            await supervisor("rooms").terminate_child("Counter")
        # It keeps nothing of what has ended.
        await supervisor("rooms").terminate_child(refs[1])
        assert (await supervisor("rooms").count_children()).specs == 2
        await supervisor("rooms").start_child()


async def test_arguments_come_behind_those_of_the_template(diary: Path) -> None:
    rooms = DynamicSupervisor(Leaf, id="rooms")
    tree = Supervisor(rooms, DynamicSupervisor(id="bare"))
    async with ObservedNode(tree, preload=("tests.servers.trees",)):
        room = await supervisor("rooms").start_child("x", diary=str(diary))
        assert isinstance(room, Ref)
        assert told(diary) == ["+x"]
        with pytest.raises(InitFailedError) as failure:
            await supervisor("rooms").start_child("x")
        assert isinstance(failure.value.__cause__, TypeError)
        with pytest.raises(BadChildSpecError, match="supervisor bare has no template"):
            await supervisor("bare").start_child("x")


async def test_dynamic_children_share_a_budget_and_go_with_their_supervisor(
    diary: Path,
) -> None:
    rooms = DynamicSupervisor(max_restarts=1, max_seconds=60, id="rooms")
    async with ObservedNode(Supervisor(rooms, leaf("z", diary))) as node:
        refs = [await supervisor("rooms").start_child(child(Counter)) for _ in range(3)]
        node.kill(refs[0])
        await node.event("restarted", refs[0])
        node.kill(refs[1])
        of_the_supervisor: Any = await supervisor("/").get_child("rooms")
        await node.event("restarted", of_the_supervisor)
        for ref in refs:
            with pytest.raises(NoServerError):
                await Counter.increment(ref)
        # It is there again, and empty.
        assert await supervisor("rooms").which_children() == []
        await supervisor("rooms").start_child(child(Counter))


async def test_a_key_belongs_to_one_partition() -> None:
    carts = PartitionSupervisor(child(Counter), partitions=3, name="carts")
    async with ObservedNode(Supervisor(carts, Supervisor(id="plain"))) as node:
        refs = [await supervisor("carts").partition(n) for n in range(6)]
        assert len(set(refs)) == 3
        assert refs[:3] == refs[3:]
        keys = ["alice", ("a", 1), b"x", None, 2.5]
        found = [await supervisor("carts").partition(key) for key in keys]
        assert found == [await supervisor("carts").partition(key) for key in keys]
        assert len({await supervisor("carts").partition(str(n)) for n in range(50)}) == 3
        node.kill(refs[1])
        await node.event("restarted", refs[1])
        assert await supervisor("carts").partition(1) == refs[1]
        with pytest.raises(ConfigError, match="has no partitions"):
            await supervisor("plain").partition("x")


async def test_a_supervisor_is_started_and_stopped_as_a_server_is(diary: Path) -> None:
    async with ObservedNode(Supervisor(leaf("a", diary))):
        front = await supervisor("/").start_child(
            Supervisor(leaf("b", diary), leaf("c", diary), id="front", name="shop")
        )
        assert isinstance(front, SupervisorRef)
        assert await front.is_running()
        assert await supervisor("shop").get_child("c") == await Leaf.me(at("c"))
        await front.stop()
        assert told(diary) == ["+a", "+b", "+c", "-c", "-b"]
        assert not await front.is_running()
        await front.stop()
        with pytest.raises(NoServerError, match="shop"):
            await supervisor("shop").which_children()


async def test_a_server_is_found_by_its_path(diary: Path) -> None:
    tree = Supervisor(Supervisor(child(Counter).options(id="web"), id="front"))
    async with ObservedNode(tree) as node:
        assert [row["path"] for row in await node.ps()] == ["/front/web"]
        await node.spawn(Counter)
        assert [row["path"] for row in await node.ps()] == ["/front/web", None]
        assert await Counter.increment(named("/front/web", Counter)) == 1
        found = await supervisor("/front").get_child("web")
        assert isinstance(found, Ref)
        assert await Counter.increment(found) == 2
        for path in ("/front/nobody", "/front"):
            with pytest.raises(NoServerError):
                await Counter.increment(named(path, Counter))
        # That is no name.
        assert whereis("/front/web", Counter) is None


async def test_a_stop_of_a_supervisor_ends_a_start_under_way(
    diary: Path, whistles: Whistles
) -> None:
    in_init = whistles("diary.slow")
    diary.with_suffix(".stuck").write_text("")
    async with ObservedNode(Supervisor(Supervisor(leaf("a", diary), id="front"))):
        starting = asyncio.ensure_future(
            supervisor("front").start_child(leaf("slow", diary, init_timeout=None))
        )
        await in_init.heard()
        await supervisor("front").stop()
        with pytest.raises(InitFailedError):
            await starting


async def test_a_server_may_not_wait_for_the_end_of_its_supervisor() -> None:
    tree = Supervisor(Supervisor(child(Starter).options(name="starter"), id="front"))
    async with ObservedNode(tree):
        for what in ("stop", "terminate"):
            answer = await Starter.end_me(at_starter(), what)
            assert "a server cannot wait for its own end" in answer


async def test_a_handler_starts_children_and_hands_their_refs_out() -> None:
    tree = Supervisor(child(Starter).options(name="starter"), DynamicSupervisor(id="rooms"))
    async with ObservedNode(tree):
        ref = await Starter.start_room(at_starter())
        assert await Counter.increment(ref) == 1
        assert (await supervisor("rooms").count_children()).active == 1


async def test_a_supervisor_that_starts_says_that_it_does() -> None:
    early = child(Early).options(name="early")
    async with ObservedNode(Supervisor(Supervisor(early, id="front", max_restarts=0))) as node:
        ref = named("early", Early)
        for state in ("starting", "restarting"):
            refused = await Early.refused(ref)
            assert refused is not None
            assert refused[0] == state
            assert refused[1].startswith(f"supervisor front is {state}: until it is running")
            if state == "starting":
                # With its supervisor, which gives up.
                await ref.exit(Killed("SIGKILL"))
                await node.event("restarted")


def at_starter() -> Ref[Starter]:
    return named("starter", Starter)


async def test_a_wrong_child_is_refused_at_the_caller(diary: Path) -> None:
    async with ObservedNode(Supervisor(leaf("a", diary))):
        wrong: Any = 3
        with pytest.raises(BadChildSpecError, match="expected the id of a child"):
            await supervisor("/").terminate_child(wrong)
        with pytest.raises(BadChildSpecError, match="expected name to be text"):
            await supervisor("/").start_child(leaf("b", diary).options(name=""))
        with pytest.raises(BadChildSpecError, match="no auto_shutdown"):
            await supervisor("/").start_child(
                leaf("b", diary, restart="transient", significant=True)
            )
        with pytest.raises(NoServerError, match="nowhere"):
            await supervisor("nowhere").which_children()


# --- the address itself ------------------------------------------------------------------------


async def test_an_address_is_a_value_and_travels_without_pickle() -> None:
    tree = Supervisor(DynamicSupervisor(Counter, id="rooms"), child(Echo))
    async with ObservedNode(tree, pickle=False, preload=("tests.servers.echoing",)):
        top = supervisor("/")
        rooms, echo = await top.get_child("rooms"), await top.get_child("Echo")
        assert isinstance(rooms, SupervisorRef)
        assert isinstance(echo, Ref)
        for ref in (rooms, supervisor("/rooms")):
            back: Any = await Echo.echo(echo, ref)
            assert (back, hash(back), back.label) == (ref, hash(ref), ref.label)
            assert await back.count_children() == await rooms.count_children()
        event = Event(kind="ready", ref=rooms, server="rooms", incarnation=1, time=1.5)
        assert await Echo.echo(echo, event) == event
        assert len({rooms, supervisor("/rooms"), supervisor("/rooms")}) == 2
        assert SupervisorRef(rooms.node, rooms.sid, label="other") == rooms
        with pytest.raises(AttributeError):
            rooms.sid = 7  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]


async def test_children_are_found_by_id_name_and_address_but_not_those_of_others(
    diary: Path,
) -> None:
    rooms = DynamicSupervisor(Counter, id="rooms")
    async with ObservedNode(Supervisor(rooms, leaf("a", diary, id="first"))) as node:
        top, inner = supervisor("/"), supervisor("/rooms")
        named_room = await inner.start_child(child(Counter).options(name="lobby"))
        room, spawned = await inner.start_child(), await node.spawn(Counter)
        assert await inner.get_child("lobby") == named_room
        assert await inner.get_child("Counter") is None
        assert await inner.get_child(str(room.sid)) is None
        assert await top.get_child("first") == await top.get_child("a")
        for stranger in (spawned, room, "lobby"):
            with pytest.raises(ChildNotFoundError):
                await top.terminate_child(stranger)
        with pytest.raises(ChildNotFoundError):
            await inner.terminate_child(spawned)
        for ref in (named_room, room):
            await inner.terminate_child(ref)
        a = await Leaf.me(at("a"))
        await top.terminate_child(a)
        assert await top.restart_child(a) == a
        assert (await inner.count_children()).specs == 0


@on_both_loops
async def test_a_node_is_waited_for_no_longer_when_its_tree_was_stopped_by_hand() -> None:
    async with ObservedNode(Supervisor(child(Counter))) as node:
        waiting = asyncio.create_task(node.wait())
        await supervisor("/").stop()
        await waiting


def test_a_blocking_program_does_the_same(diary: Path) -> None:
    tree = Supervisor(
        leaf("a", diary),
        DynamicSupervisor(child(Counter, 10), id="rooms"),
        PartitionSupervisor(child(Counter), partitions=2, name="carts"),
    )
    with Node(tree, preload=("tests.servers.trees",)) as node:
        top = sync.supervisor("/")
        rooms = top.get_child("rooms")
        assert isinstance(rooms, SupervisorRef)
        assert [info.id for info in top.which_children()][:2] == ["a", "rooms"]
        room = sync.supervisor(rooms).start_child()
        assert Counter.increment.sync(room) == 11
        assert sync.supervisor("rooms").count_children().servers == 1
        assert sync.supervisor("carts").partition(4) == sync.supervisor("carts").partition(2)
        b = top.start_child(leaf("b", diary))
        top.terminate_child("b")
        with pytest.raises(NoServerError):
            Leaf.os_pid.sync(b)
        assert top.restart_child(b) == b
        top.terminate_child(b)
        top.delete_child("b")
        with pytest.raises(ChildNotFoundError):
            top.restart_child("b")
        assert sync.supervisor(rooms).is_running()
        top.stop()
        node.wait()


async def test_where_an_event_loop_runs_the_blocking_one_says_to_await() -> None:
    with pytest.raises(NoNodeError, match=r"Await noex_mp\.supervisor"):
        sync.supervisor("/").is_running()
