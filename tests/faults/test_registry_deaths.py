"""What becomes of names when those who have them die, at any moment."""

from __future__ import annotations

import asyncio
import os
import signal
from contextlib import suppress
from typing import Any

import pytest

from noex_mp import InitFailedError, NoServerError, ServerExitedError, child, registry, spawn, stop
from noex_mp.transport.platform import FALLBACKS
from tests.nodes.observed import ObservedNode, on_both_loops
from tests.servers.registered import LISTENERS, PLAYERS, ROOMS, Room, Waiting

PRELOAD = ("tests.servers.registered",)
SHARED = pytest.mark.parametrize("placement", [None, "together"], ids=["alone", "shared"])


def room(*keys: str, placement: str | None = None, **options: Any) -> Any:
    return child(Room, *keys).options(placement=placement, **options)


@on_both_loops
@SHARED
async def test_a_death_frees_everything_that_the_server_held(placement: str | None) -> None:
    async with ObservedNode(preload=PRELOAD) as node:
        dying = await spawn(room(placement=placement, restart="temporary", name="dying"))
        watcher = await spawn(room())
        await Room.watch_out_for(watcher, dying)
        for n in range(100):
            await Room.claim(dying, f"key/{n}")
        await Room.listen(dying, "weather")
        await Room.join(dying)
        await Room.call_me(dying, "alias")
        node.kill(dying)
        await node.event("crashed", dying)
        for names in (ROOMS.names(), LISTENERS.names(), PLAYERS.members(), registry.names()):
            assert names == []
        while not await Room.found_at_down(watcher):
            pass
        # The watcher was told by its own mailbox, and had nothing else to go by.
        assert await Room.found_at_down(watcher) == [[None, [], 0, []]]


@on_both_loops
@SHARED
async def test_keys_go_with_the_incarnation_and_its_own_name_stays(placement: str | None) -> None:
    async with ObservedNode(preload=PRELOAD) as node:
        dying = await spawn(room("again", placement=placement, name="dying"))
        watcher = await spawn(room())
        await Room.watch_out_for(watcher, dying)
        await Room.claim(dying, "once")
        await Room.call_me(dying, "alias")
        node.kill(dying)
        await node.event("restarted", dying)
        assert ROOMS.names() == ["again"]
        assert registry.names() == ["dying"]
        assert await Room.find(watcher, "again") == dying
        [[restart, found, _, named]] = await Room.found_at_down(watcher)
        assert (restart, named) == (2, ["dying"])
        # Its next incarnation may have claimed it again by then, and nothing else.
        assert found in ([], ["again"])


@on_both_loops
@SHARED
async def test_nobody_finds_what_failed_in_its_init(placement: str | None) -> None:
    async with ObservedNode(preload=PRELOAD):
        keeper = await spawn(room(placement=placement))
        ends = ["fail"] if placement else ["fail", "die"]
        for then in ends:
            spec = child(Room, "lobby", then=then).options(placement=placement, id=then)
            with pytest.raises(InitFailedError):
                await spawn(spec)
            assert ROOMS.names() == []
            assert await Room.all_names(keeper) == []


@on_both_loops
async def test_a_caller_who_hears_of_a_death_finds_no_key_of_the_dead() -> None:
    async with ObservedNode(preload=PRELOAD) as node:
        for n in range(20):
            dying = await spawn(room(f"key/{n}", restart="temporary"))
            node.kill(dying)
            with suppress(ServerExitedError, NoServerError):
                while True:
                    await Room.os_pid(dying)
            assert ROOMS.whereis(f"key/{n}") is None


@on_both_loops
@SHARED
async def test_a_caller_whose_call_ends_a_server_finds_no_key_of_it(placement: str | None) -> None:
    async with ObservedNode(preload=PRELOAD):
        keeper = await spawn(room(placement=placement))
        for n in range(20):
            ending = await spawn(room(f"key/{n}", placement=placement, restart="temporary", id="x"))
            with pytest.raises(ServerExitedError):
                await Room.fail(ending)
            assert ROOMS.whereis(f"key/{n}") is None
        assert await Room.all_names(keeper) == []


async def test_a_key_of_one_that_ends_in_order_is_free_for_the_next() -> None:
    async with ObservedNode(preload=PRELOAD):
        for _ in range(5):
            ref = await spawn(room("lobby", name="lobby"))
            await stop(ref)
            assert ROOMS.whereis("lobby") is None
            assert registry.whereis("lobby") is None


async def test_a_claim_for_one_that_is_not_there_is_refused() -> None:
    async with ObservedNode(preload=PRELOAD) as node:
        gone = await spawn(room(restart="temporary"))
        await stop(gone)
        with pytest.raises(NoServerError):
            await ROOMS.register("lobby", gone)
        # One claims for another that dies meanwhile: it has the key, or nobody has.
        for n in range(10):
            dying = await spawn(room(restart="temporary"))
            claims = asyncio.gather(
                *(ROOMS.register(f"{n}/{i}", dying) for i in range(50)), return_exceptions=True
            )
            node.kill(dying)
            await node.event("crashed", dying)
            assert {type(each) for each in await claims} <= {type(None), NoServerError}
            assert ROOMS.names() == []


@pytest.mark.skipif(FALLBACKS, reason="there it is a descriptor that can write")
async def test_no_worker_can_write_the_log() -> None:
    async with ObservedNode(preload=PRELOAD):
        for start in ("fork", "exec"):
            ref = await spawn(room(start=start))
            assert await Room.open_log_for_writing(ref) == ["OSError"]
            await Room.claim(ref, start)
            assert await Room.find(ref, start) == ref


async def test_a_worker_of_a_new_zygote_knows_all_names() -> None:
    async with ObservedNode(preload=PRELOAD) as node:
        one = await spawn(room("lobby"))
        os.kill(node.zygote, signal.SIGKILL)
        two = await spawn(room())
        assert await Room.find(two, "lobby") == one
        await Room.claim(two, "kitchen")
        assert await Room.find(one, "kitchen") == two


async def test_a_client_that_dies_leaves_no_watch() -> None:
    async with ObservedNode(preload=PRELOAD) as node:
        waiting = await spawn(child(Waiting).options(restart="temporary"))
        await Waiting.begin(waiting)
        assert node._root is not None  # pyright: ignore[reportPrivateUsage]
        watches = node._root._registries.watches  # pyright: ignore[reportPrivateUsage]
        assert watches._of  # pyright: ignore[reportPrivateUsage]
        node.kill(waiting)
        await node.event("crashed", waiting)
        assert not watches._of  # pyright: ignore[reportPrivateUsage]
        assert not watches._by  # pyright: ignore[reportPrivateUsage]
