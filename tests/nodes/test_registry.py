"""Registries: who claims a key, who finds it, and what can be said with it."""

from __future__ import annotations

import asyncio
import importlib
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from noex_mp import (
    AlreadyRegisteredError,
    ConfigError,
    MailboxFullError,
    MetadataError,
    NameTimedOutError,
    Node,
    NodeDownError,
    NoNodeError,
    NoServerError,
    NotRegisteredError,
    Ref,
    Registration,
    Registry,
    RegistryKeysError,
    Supervisor,
    UnencodableError,
    child,
    named,
    registry,
    spawn,
    stop,
    supervisor,
    sync,
    whereis,
)
from tests.nodes.observed import ObservedNode, Whistles, on_both_loops
from tests.servers.counters import Counter, Journal
from tests.servers.registered import LISTENERS, ROOMS, Room

PRELOAD = ("tests.servers.registered", "tests.servers.counters")


def node_of(*entries: Any) -> ObservedNode:
    return ObservedNode(Supervisor(*entries) if entries else None, preload=PRELOAD)


@on_both_loops
async def test_a_key_is_found_everywhere_as_soon_as_it_is_claimed() -> None:
    async with node_of():
        rooms = [await spawn(Room) for _ in range(3)]
        for n, room in enumerate(rooms):
            await Room.claim(room, f"lobby/{n}")
            assert ROOMS.whereis(f"lobby/{n}") == room
            for other in rooms:
                assert await Room.find(other, f"lobby/{n}") == room
        assert ROOMS.lookup("lobby/1", Room) == rooms[1]
        assert ROOMS.names() == ["lobby/0", "lobby/1", "lobby/2"]
        assert ROOMS.count() == 3
        assert ROOMS.count("lobby/0") == 1
        assert ROOMS.is_registered("lobby/0")
        assert not ROOMS.is_registered("lobby/9")


@on_both_loops
async def test_a_program_registers_servers_and_frees_their_keys() -> None:
    async with node_of():
        room = await spawn(Room)
        await ROOMS.register("lobby", room)
        await ROOMS.register("entrance", room)
        assert await Room.all_names(room) == ["lobby", "entrance"]
        await ROOMS.unregister("lobby")
        await ROOMS.unregister("lobby")
        assert await Room.all_names(room) == ["entrance"]
        other = await spawn(Room)
        await ROOMS.unregister("entrance", other)
        assert ROOMS.whereis("entrance") == room
        await ROOMS.unregister("entrance", room)
        assert ROOMS.whereis("entrance") is None
        assert await Room.all_names(room) == []


async def test_a_unique_key_has_one_holder() -> None:
    async with node_of():
        first, second = await spawn(Room, "lobby"), await spawn(Room)
        for who in (first, second):
            with pytest.raises(AlreadyRegisteredError) as taken:
                await ROOMS.register("lobby", who)
            assert (taken.value.name, taken.value.registry) == ("lobby", "rooms")
        assert ROOMS.whereis("lobby") == first


async def test_of_many_that_claim_a_key_at_once_one_gets_it() -> None:
    async with node_of():
        rooms = [await spawn(Room) for _ in range(4)]
        claims = [Room.claim(room.within(20), "lobby") for room in rooms]
        outcomes = await asyncio.gather(*claims, return_exceptions=True)
        assert sum(outcome is None for outcome in outcomes) == 1
        winner = next(room for room, o in zip(rooms, outcomes, strict=True) if o is None)
        assert ROOMS.whereis("lobby") == winner


@on_both_loops
async def test_a_duplicate_key_has_many_holders_in_the_order_of_their_claims() -> None:
    async with node_of():
        rooms = [await spawn(Room) for _ in range(3)]
        for room in rooms:
            await Room.listen(room, "weather")
        await LISTENERS.register("news", rooms[0], metadata="all of it")
        assert [each.ref for each in LISTENERS.entries("weather")] == rooms
        assert LISTENERS.whereis("weather") == rooms[0]
        assert LISTENERS.count() == 4
        assert LISTENERS.count("weather") == 3
        assert LISTENERS.names() == ["weather", "news"]
        with pytest.raises(AlreadyRegisteredError, match="already"):
            await LISTENERS.register("weather", rooms[0])
        with pytest.raises(ConfigError, match="entries"):
            LISTENERS.lookup("weather")
        await Room.stop_listening(rooms[1], "weather")
        assert LISTENERS.servers("weather") == [rooms[0], rooms[2]]


async def test_what_is_returned_is_a_copy() -> None:
    async with node_of():
        room = await spawn(Room, "lobby", metadata={"people": [1]})
        ROOMS.names().clear()
        ROOMS.entries("lobby").clear()
        ROOMS.metadata("lobby")["people"].append(2)
        ROOMS.match("*")[0].metadata.clear()
        assert ROOMS.entries("lobby") == [Registration("lobby", room, {"people": [1]})]


async def test_a_pattern_and_a_predicate_select_entries() -> None:
    async with node_of():
        room = await spawn(Room)
        for n in range(3):
            await ROOMS.register(f"lobby/{n}", room, metadata=n)
            await ROOMS.register(f"lobby/{n}/door", room)
        assert [each.key for each in ROOMS.match("lobby/*")] == ["lobby/0", "lobby/1", "lobby/2"]
        doors = [f"lobby/{n}/door" for n in range(3)]
        assert [each.key for each in ROOMS.match("**/door")] == doors
        found = ROOMS.match("lobby/*", lambda each: each.metadata > 0)
        assert [each.metadata for each in found] == [1, 2]
        assert len(ROOMS.select(lambda each: each.ref == room)) == 6
        assert ROOMS.match("nothing*") == []


@on_both_loops
async def test_no_change_of_metadata_is_lost() -> None:
    async with node_of():
        rooms = [await spawn(Room) for _ in range(3)]
        await ROOMS.register("lobby", rooms[0], metadata=0)
        await asyncio.gather(*(Room.count_up(room.within(60), "lobby", 20) for room in rooms))
        assert ROOMS.metadata("lobby") == 60
        assert await Room.metadata_of(rooms[2], "lobby") == 60
        assert await ROOMS.update_metadata("lobby", {"open": True}) == {"open": True}
        assert await ROOMS.update_metadata("lobby", lambda old: [old]) == [{"open": True}]
        assert ROOMS.lookup("lobby") == rooms[0]


async def test_metadata_that_cannot_be_rebuilt_hides_no_other_entry(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with node_of():
        room = await spawn(Room)
        # A module that this process can import, and no worker: it has come after their start.
        (tmp_path / "gone_by_then.py").write_text(
            "from dataclasses import dataclass\n@dataclass\nclass People:\n    number: int\n"
        )
        monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
        people: Any = importlib.import_module("gone_by_then").People
        await ROOMS.register("lobby/1", room, metadata=1)
        await ROOMS.register("lobby/2", room, metadata=people(2))
        await ROOMS.register("lobby/3", room, metadata=3)
        assert [each.metadata for each in ROOMS.match("**")] == [1, people(2), 3]
        found = await Room.match(room, "lobby/*")
        assert list(found) == ["lobby/1", "lobby/2", "lobby/3"]
        assert found["lobby/2"].startswith("MetadataError(")
        # Whom a predicate fails at, it does not take; its other errors are its own.
        assert await Room.match(room, "lobby/*", 3) == {"lobby/3": "3"}
        with pytest.raises(MetadataError, match="the metadata of 'lobby/2' in registry 'rooms'"):
            await Room.metadata_of(room, "lobby/2")
        with pytest.raises(TypeError):
            ROOMS.match("**", lambda each: each.metadata > 0)


async def test_metadata_of_one_of_many() -> None:
    async with node_of():
        one, two = await spawn(Room), await spawn(Room)
        for n, room in enumerate((one, two)):
            await LISTENERS.register("weather", room, metadata=n)
        await LISTENERS.update_metadata("weather", "sun", two)
        assert LISTENERS.metadata("weather") == 0
        assert LISTENERS.metadata("weather", two) == "sun"
        with pytest.raises(NoNodeError, match="update_metadata"):
            await LISTENERS.update_metadata("weather", "rain")


async def test_metadata_that_cannot_be_kept_is_refused() -> None:
    async with node_of():
        room = await spawn(Room)
        with pytest.raises(UnencodableError, match="metadata"):
            await ROOMS.register("lobby", room, metadata={"lock": threading.Lock()})
        with pytest.raises(ConfigError, match="65536"):
            await ROOMS.register("lobby", room, metadata=b"x" * 100_000)
        assert ROOMS.names() == []


async def test_who_looks_for_a_wrong_name_is_told_the_right_one() -> None:
    async with node_of():
        room = await spawn(Room, "lobby", "kitchen")
        with pytest.raises(NotRegisteredError) as missing:
            ROOMS.lookup("loby")
        assert (missing.value.name, missing.value.near) == ("loby", ("lobby",))
        with pytest.raises(NotRegisteredError):
            ROOMS.metadata("cellar")
        with pytest.raises(NotRegisteredError):
            await ROOMS.update_metadata("cellar", 1)
        with pytest.raises(NotRegisteredError):
            await ROOMS.update_metadata("cellar", lambda old: old)
        assert await Room.find(room, "loby") is None


async def test_a_handle_with_other_keys_is_refused() -> None:
    async with node_of():
        room = await spawn(Room, "lobby")
        wrong = Registry("rooms", keys="duplicate")
        for use in (lambda: wrong.whereis("lobby"), wrong.names, lambda: wrong.entries("lobby")):
            with pytest.raises(RegistryKeysError) as refused:
                use()
            assert (refused.value.registry, refused.value.keys) == ("rooms", "unique")
        with pytest.raises(RegistryKeysError):
            await wrong.register("kitchen", room)
        await ROOMS.unregister("lobby")
        # Nobody is in it any more.
        await wrong.register("kitchen", room)
        assert wrong.names() == ["kitchen"]


@pytest.mark.parametrize(
    "make",
    [
        lambda: Registry("@groups2"),
        lambda: Registry(7),  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        lambda: Registry("rooms", "several"),  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        lambda: Registry("", "duplicate"),
    ],
)
def test_what_is_no_registry_is_refused(make: Any) -> None:
    with pytest.raises(ConfigError):
        make()


async def test_wrong_keys_and_addresses_are_refused() -> None:
    async with node_of():
        room = await spawn(Room)
        with pytest.raises(TypeError):
            await ROOMS.register(7, room)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        with pytest.raises(TypeError, match="Ref"):
            await ROOMS.register("a", "b")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        with pytest.raises(ConfigError, match="path"):
            await registry.register("/front/web", room)
        with pytest.raises(NoNodeError, match="register"):
            await ROOMS.register("lobby")
        with pytest.raises(NoServerError):
            await ROOMS.register("lobby", named("nobody", Room))
        await ROOMS.register("", room)
        await ROOMS.register("ключ/" + "x" * 10_000, room)
        assert ROOMS.count() == 2


async def test_a_server_of_another_node_is_none_of_this_one() -> None:
    async with node_of():
        of_before = await spawn(Room)
    async with node_of():
        room = await spawn(Room)
        assert room.sid == of_before.sid
        with pytest.raises(NoServerError, match=of_before.node):
            await ROOMS.register("lobby", of_before)
        await ROOMS.register("lobby", room, metadata=1)
        with pytest.raises(NoServerError):
            await ROOMS.unregister("lobby", of_before)
        with pytest.raises(NoServerError):
            await ROOMS.update_metadata("lobby", 2, of_before)
        assert ROOMS.metadata("lobby") == 1


# --- the node's own registry ---


async def test_names_of_children_and_supervisors_live_in_the_nodes_own_registry() -> None:
    inner = Supervisor(child(Counter).options(id="web", name="web"), name="front")
    async with node_of(inner, child(Counter).options(id="visits", name="visits")):
        assert sorted(registry.names()) == ["front", "visits", "web"]
        assert registry.lookup("visits", Counter) == whereis("visits", Counter)
        assert registry.whereis("front") == await supervisor("/").get_child("Supervisor")
        assert whereis("front", Counter) is None
        with pytest.raises(AlreadyRegisteredError):
            await registry.register("visits", registry.lookup("web", Counter))
        with pytest.raises(ConfigError, match="description"):
            await registry.unregister("visits")
        await stop(registry.lookup("visits", Counter))
        assert whereis("visits", Counter) is None


@on_both_loops
async def test_a_ref_by_a_name_claimed_at_run_time_means_whoever_has_it_now() -> None:
    async with node_of():
        one, two = await spawn(Counter, 1), await spawn(Counter, 100)
        by_name = named("current", Counter)
        for ref, start in ((one, 1), (two, 100), (one, 2)):
            await registry.register("current", ref)
            assert await Counter.increment(by_name) == start + 1
            await Counter.add(by_name, 0)
            await registry.unregister("current")
            with pytest.raises(NoServerError):
                await Counter.increment(by_name)
        await registry.register("current", two)
        assert whereis("current", Counter) == two
        with pytest.raises(AlreadyRegisteredError):
            await spawn(child(Counter).options(name="current"))


async def test_the_node_is_asked_when_the_function_is_called() -> None:
    async with ObservedNode(preload=PRELOAD):
        one, two = [await spawn(Room) for _ in range(2)]
        claims = [ROOMS.register("lobby", one), ROOMS.register("lobby", two)]
        freed = ROOMS.unregister("lobby", one)
        await ROOMS.register("lobby", two)
        assert [claim.done() for claim in (*claims, freed)] == [True, True, True]
        assert isinstance(claims[1].exception(), AlreadyRegisteredError)
        assert ROOMS.lookup("lobby") == two
        # What is wrong with the arguments is said there, too.
        with pytest.raises(TypeError):
            _ = ROOMS.register(7, one)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        with pytest.raises(NoNodeError):
            _ = LISTENERS.unregister("lobby")


@on_both_loops
async def test_claims_of_one_turn_have_an_answer_each_and_their_order() -> None:
    async with ObservedNode(preload=PRELOAD):
        one, two = [await spawn(Room) for _ in range(2)]
        keys = [f"lobby/{n}" for n in range(1000)]
        # Some take more than the link gathers.
        much = [b"x" * 20_000 if n % 100 == 0 else None for n in range(1000)]
        claims = [ROOMS.register(key, one, some) for key, some in zip(keys, much, strict=True)]
        again = [ROOMS.register(key, two) for key in keys[::3]]
        # What is not gathered comes behind them.
        assert await two.is_running()
        assert all(claim.done() for claim in (*claims, *again))
        assert [claim.exception() for claim in claims] == [None] * 1000
        assert {type(claim.exception()) for claim in again} == {AlreadyRegisteredError}
        assert ROOMS.names() == keys
        assert [each.metadata for each in ROOMS.match("**")] == much
        freed = [ROOMS.unregister(key) for key in keys]
        await ROOMS.register(keys[7], two)
        assert all(each.done() for each in freed)
        assert ROOMS.names() == [keys[7]]


@on_both_loops
async def test_a_name_that_is_claimed_while_it_is_asked_for_is_asked_for_again() -> None:
    async with node_of() as node:
        one, two = await spawn(Counter, 1), await spawn(Counter, 100)
        by_name = named("current", Counter)
        over = threading.Event()
        assert node._loop is not None  # pyright: ignore[reportPrivateUsage]
        node._loop.call_soon_threadsafe(over.wait)  # pyright: ignore[reportPrivateUsage]
        claim = registry.register("current", one)
        # Nobody has it yet; the root will hear of the claim first.
        call = Counter.increment(by_name)
        over.set()
        await claim
        assert await call == 2
        await registry.unregister("current")
        await registry.register("current", two)
        assert await Counter.increment(by_name) == 101


async def test_a_supervisor_is_registered_until_it_ends() -> None:
    front = Supervisor(child(Counter), id="front")
    async with node_of(front, child(Counter).options(id="other")):
        ref = await supervisor("/").get_child("front")
        assert ref is not None
        await ROOMS.register("front", ref)
        await ROOMS.register("front again", ref)
        assert ROOMS.lookup("front") == ref
        assert ROOMS.servers("front") == []
        await supervisor("/").terminate_child("front")
        assert ROOMS.names() == []
        with pytest.raises(NoServerError):
            await ROOMS.register("front", ref)


async def test_names_that_are_claimed_and_freed_are_told() -> None:
    async with node_of() as node:
        room = await spawn(Room)
        await ROOMS.register("lobby", room)
        await stop(room)
        claimed = await node.event("name_claimed", room)
        freed = await node.event("name_freed", room)
        assert (
            (claimed.name, claimed.registry) == (freed.name, freed.registry) == ("lobby", "rooms")
        )
        kinds = [event.kind for event in node.seen if event.sid == room.sid]
        assert kinds.index("name_freed") < kinds.index("exited")


# --- messages to all, and names to come ---


@on_both_loops
async def test_a_message_reaches_all_under_a_key() -> None:
    async with node_of():
        rooms = [await spawn(Room) for _ in range(3)]
        for room in rooms:
            await LISTENERS.register("weather", room)
        assert await LISTENERS.dispatch("weather", "rain") == 3
        assert await LISTENERS.dispatch("nothing", "rain") == 0
        tell = LISTENERS.dispatch("weather", using=lambda ref: Room.hear(ref, "sun"))
        assert await tell == 3
        for room in rooms:
            assert await Room.has_heard(room) == ["rain", "sun"]
        with pytest.raises(UnencodableError):
            await LISTENERS.dispatch("weather", threading.Lock())


async def test_one_that_has_no_room_takes_nothing_from_the_others(whistles: Whistles) -> None:
    started, release = whistles(), whistles()
    async with node_of():
        spec = child(Journal).options(max_messages=1, when_full="reject")
        full, other = await spawn(spec), await spawn(Journal)
        for ref in (full, other):
            await LISTENERS.register("news", ref)
        blocked = Journal.block(full, started.path, release.path)
        await started.heard()
        with suppress(MailboxFullError):
            while True:
                Journal.note.nowait(full, "filled")
        sent = await LISTENERS.dispatch("news", using=lambda ref: Journal.note.nowait(ref, "news"))
        assert sent == 1
        assert await Journal.all(other) == ["news"]
        release.blow()
        await blocked


async def test_one_that_is_dead_takes_nothing_from_the_others() -> None:
    async with node_of():
        refs = [await spawn(Room) for _ in range(3)]
        for ref in refs:
            await LISTENERS.register("weather", ref)

        async def tell(ref: Ref[Any]) -> None:
            if ref == refs[0]:
                # It ends in between.
                await stop(ref)
            await Room.has_heard(ref)

        assert await LISTENERS.dispatch("weather", using=tell) == 2


@on_both_loops
async def test_whoever_waits_for_a_name_gets_it_when_it_comes() -> None:
    async with node_of():
        room = await spawn(Room)
        coming = asyncio.gather(*(ROOMS.await_name("lobby", Room) for _ in range(3)))
        await asyncio.sleep(0)
        await ROOMS.register("other", room)
        await ROOMS.register("lobby", room)
        assert await coming == [room] * 3
        assert await ROOMS.await_name("lobby") == room
        with pytest.raises(NameTimedOutError) as late:
            await ROOMS.await_name("lobbi", timeout=0.01)
        assert isinstance(late.value, TimeoutError)
        assert (late.value.timeout, late.value.near) == (0.01, ("lobby",))


async def test_whoever_waits_for_a_name_hears_of_the_end_of_the_node() -> None:
    async with node_of() as node:
        coming = asyncio.create_task(ROOMS.await_name("lobby", timeout=None))
        await node.ps()
    with pytest.raises(NodeDownError):
        await coming


async def test_without_a_node_nothing_is_found() -> None:
    with pytest.raises(NoNodeError):
        whereis("visits", Counter)
    async with node_of():
        assert whereis("visits", Counter) is None
    with pytest.raises(NoNodeError):
        ROOMS.names()


# --- threads ---


@pytest.fixture
def node() -> Iterator[sync.BlockingNode]:
    with Node(preload=PRELOAD) as node:
        yield node


def test_a_thread_registers_and_looks_up(node: sync.BlockingNode) -> None:
    room = node.spawn(Room)
    ROOMS.sync.register("lobby", room, metadata=1)
    assert ROOMS.lookup("lobby", Room) == room
    assert Room.find.sync(room, "lobby") == room
    assert sync.whereis("nobody", Room) is None
    assert ROOMS.sync.update_metadata("lobby", lambda n: n + 1) == 2
    assert ROOMS.sync.await_name("lobby", Room) == room
    with pytest.raises(NameTimedOutError):
        ROOMS.sync.await_name("cellar", timeout=0.01)
    with pytest.raises(AlreadyRegisteredError):
        ROOMS.sync.register("lobby", room)
    ROOMS.sync.unregister("lobby")
    assert ROOMS.names() == []
    LISTENERS.sync.register("weather", room)
    assert LISTENERS.sync.dispatch("weather", "rain") == 1
    assert LISTENERS.sync.dispatch("weather", using=lambda ref: Room.hear.sync(ref, "sun")) == 1
    assert Room.has_heard.sync(room) == ["rain", "sun"]
    registry.sync.register("current", room)
    assert Room.has_heard.sync(named("current", Room)) == ["rain", "sun"]
    Room.hear.sync(named("current", Room), "wind")
    assert Room.has_heard.sync(room) == ["rain", "sun", "wind"]


def test_a_thread_waits_for_a_name_that_another_claims(node: sync.BlockingNode) -> None:
    room = node.spawn(Room)
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(ROOMS.sync.await_name("lobby", Room)))
    thread.start()
    ROOMS.sync.register("lobby", room)
    thread.join()
    assert found == [room]


def test_many_threads_look_while_names_come_and_go(node: sync.BlockingNode) -> None:
    room = node.spawn(Room)
    done = threading.Event()
    problems: list[BaseException] = []

    def look() -> None:
        try:
            while not done.is_set():
                for each in ROOMS.match("**"):
                    assert each.ref == room
                ROOMS.names()
                assert ROOMS.whereis("always") == room
        except BaseException as problem:
            problems.append(problem)

    ROOMS.sync.register("always", room)
    threads = [threading.Thread(target=look) for _ in range(2)]
    for thread in threads:
        thread.start()
    # Each of them waits for the interpreter, which the others have.
    for n in range(30):
        ROOMS.sync.register(f"n{n}", room, metadata=n)
        if n >= 10:
            ROOMS.sync.unregister(f"n{n - 10}")
    done.set()
    for thread in threads:
        thread.join()
    assert problems == []


def test_blocking_forms_are_refused_in_an_event_loop(node: sync.BlockingNode) -> None:
    room = node.spawn(Room)

    async def register() -> None:
        ROOMS.sync.register("lobby", room)

    with pytest.raises(NoNodeError, match=r"Await register\(\.\.\.\)"):
        asyncio.run(register())


async def test_a_thread_of_a_server_looks_and_registers() -> None:
    async with node_of():
        room = await spawn(Room, "lobby")
        assert await Room.look_in_a_thread(room, "lobby") == room
        await Room.claim_in_a_thread(room, "entrance")
        assert ROOMS.lookup("entrance") == room
