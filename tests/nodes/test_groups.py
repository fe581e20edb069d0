"""Groups: who is a member, and who hears of it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from noex_mp import (
    ConfigError,
    Group,
    GroupChange,
    Node,
    NodeDownError,
    NoNodeError,
    spawn,
    stop,
    sync,
)
from tests.nodes.observed import ObservedNode, on_both_loops
from tests.servers.registered import PLAYERS, Room

PRELOAD = ("tests.servers.registered",)


@on_both_loops
async def test_members_are_found_everywhere_as_soon_as_they_have_joined() -> None:
    async with ObservedNode(preload=PRELOAD) as node:
        one, two = await spawn(Room), await spawn(Room)
        for ref in (one, two, one):
            # To join twice is once.
            await Room.join(ref)
        assert PLAYERS.members() == await Room.players(one) == [one, two]
        assert Group("others").members(Room) == []
        await Room.leave(one)
        await Room.leave(one)
        assert PLAYERS.members() == await Room.players(two) == [two]
        await PLAYERS.join(one)
        assert PLAYERS.members(Room) == [two, one]
        node.kill(two)
        await node.event("crashed", two)
        assert PLAYERS.members() == [one]
        await PLAYERS.leave(one)
        assert PLAYERS.members() == []


@on_both_loops
async def test_a_watch_tells_of_the_members_there_are_and_of_changes() -> None:
    async with ObservedNode(preload=PRELOAD) as node:
        one, two = await spawn(Room), await spawn(Room)
        await PLAYERS.join(one)
        changes = PLAYERS.watch()
        assert await anext(changes) == GroupChange("joined", one)
        await PLAYERS.join(two)
        assert await anext(changes) == GroupChange("joined", two)
        await PLAYERS.leave(one)
        assert await anext(changes) == GroupChange("left", one)
        node.kill(two)
        assert await anext(changes) == GroupChange("left", two)
        changes.close()
        assert [change async for change in changes] == []


async def test_a_slow_watcher_hears_what_is_different() -> None:
    async with ObservedNode(preload=PRELOAD):
        one, two = await spawn(Room), await spawn(Room)
        await PLAYERS.join(one)
        changes = PLAYERS.watch()
        assert (await anext(changes)).kind == "joined"
        for _ in range(50):
            await PLAYERS.join(two)
            await PLAYERS.leave(two)
        await PLAYERS.leave(one)
        await PLAYERS.join(one)
        await PLAYERS.join(two)
        heard: dict[Any, list[str]] = {one: ["joined"], two: []}
        while not (len(heard[one]) == 3 and heard[two] and heard[two][-1] == "joined"):
            kind, ref = await anext(changes)
            heard[ref].append(kind)
        assert heard[one] == ["joined", "left", "joined"]
        # Each of them, though not each time.
        kinds = heard[two]
        assert kinds == ["joined", "left"] * (len(kinds) // 2) + ["joined"]


async def test_a_watch_ends_with_the_node() -> None:
    async with ObservedNode(preload=PRELOAD):
        changes = PLAYERS.watch()
        waiting = asyncio.create_task(anext(changes))
        await asyncio.sleep(0)
    with pytest.raises(NodeDownError):
        await waiting


async def test_a_watch_that_is_dropped_is_forgotten() -> None:
    async with ObservedNode(preload=PRELOAD) as node:
        one = await spawn(Room)
        await PLAYERS.join(one)
        changes = PLAYERS.watch()
        await anext(changes)
        del changes
        await node.ps()
        await node.ps()
        assert node._root is not None  # pyright: ignore[reportPrivateUsage]
        registries = node._root._registries  # pyright: ignore[reportPrivateUsage]
        assert not registries.watches._of  # pyright: ignore[reportPrivateUsage]


async def test_who_joins_must_be_said_outside_of_servers() -> None:
    async with ObservedNode(preload=PRELOAD):
        with pytest.raises(NoNodeError, match=r"mean: join\(ref\)"):
            _ = PLAYERS.join()
        with pytest.raises(NoNodeError, match=r"mean: leave\(ref\)"):
            _ = PLAYERS.leave()
        with pytest.raises(ConfigError):
            Group(7)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


@pytest.fixture
def node() -> Iterator[sync.BlockingNode]:
    with Node(preload=PRELOAD) as node:
        yield node


def test_a_thread_watches_a_group(node: sync.BlockingNode) -> None:
    one = node.spawn(Room)
    heard: list[GroupChange] = []
    is_watched = threading.Event()

    def watch() -> None:
        for change in PLAYERS.sync.watch():
            heard.append(change)
            is_watched.set()
            if change.kind == "left":
                break

    PLAYERS.sync.join(one)
    thread = threading.Thread(target=watch)
    thread.start()
    is_watched.wait()
    PLAYERS.sync.leave(one)
    thread.join()
    assert heard == [GroupChange("joined", one), GroupChange("left", one)]
    sync.stop(one)


async def test_a_member_that_is_stopped_is_none() -> None:
    async with ObservedNode(preload=PRELOAD):
        one = await spawn(Room)
        await PLAYERS.join(one)
        await stop(one)
        assert PLAYERS.members() == []
