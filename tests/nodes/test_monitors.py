"""Monitors: who hears of the end of a server, when, and how often."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from noex_mp import (
    Crash,
    Down,
    InitFailedError,
    Killed,
    NodeDownError,
    NoNodeError,
    Normal,
    NoServer,
    Ref,
    ServerExitedError,
    Shutdown,
    Supervisor,
    child,
    demonitor,
    link,
    monitor,
    named,
    spawn,
    stop,
    supervisor,
    trap_exits,
    unlink,
    watch,
)
from noex_mp.client.monitors import Watch, Watching
from noex_mp.core.specs import Restart
from noex_mp.wire.envelopes import MONITORED
from tests.nodes.observed import (
    ObservedNode,
    Whistles,
    on_both_loops,
    shared_node,
    whistles,
)
from tests.nodes.unread import read_after_the_crash_of
from tests.servers.faulty import Start
from tests.servers.watching import Loud, Persistent, Watcher, is_down

__all__ = ["whistles"]

pytestmark = pytest.mark.usefixtures("shared_nodes")


def together() -> Any:
    """A watcher that shares a process with others of the kind."""
    return child(Watcher).options(placement="rooms")


async def the_down(watcher: Ref[Watcher], nth: int = 1) -> Down:
    down = (await Watcher.heard(watcher, nth))[nth - 1]
    assert isinstance(down, Down)
    return down


@on_both_loops
async def test_a_down_comes_once_and_says_why_and_what_follows() -> None:
    async with shared_node() as node:
        one, watcher = await spawn(Watcher), await spawn(Watcher)
        watched = await Watcher.watch(watcher, one)
        node.kill(one)
        down = await the_down(watcher)
        assert (down.ref, down.monitor, down.restart) == (one, watched, 2)
        assert down.reason == Killed("SIGKILL")
        assert down.report is not None
        assert down.report.incarnation == 1
        # That was about one incarnation; the next one is watched anew.
        await Watcher.os_pid(one)
        again = await Watcher.watch_slowly(watcher, one)
        assert again != watched
        await stop(one)
        down = await the_down(watcher, 2)
        assert (down.monitor, down.reason, down.restart) == (again, Shutdown(), None)
        assert len(await Watcher.all(watcher)) == 2


@on_both_loops
@pytest.mark.parametrize("how", ["kill", "crash", "stop"])
@pytest.mark.parametrize("shares", [False, True], ids=["apart", "together"])
async def test_a_down_comes_after_all_that_the_server_had_sent(how: str, shares: bool) -> None:
    async with shared_node():
        sender = await spawn(together() if shares and how != "kill" else child(Watcher))
        neighbour = await spawn(together())
        watcher = await spawn(Watcher) if how != "stop" else neighbour
        await Watcher.watch(watcher, sender)
        await Watcher.tell_and_die(sender, watcher, 200, how)
        heard = await Watcher.heard(watcher, 201)
        assert heard[:-1] == list(range(200))
        assert is_down(heard[-1], sender)


@on_both_loops
async def test_a_down_comes_after_what_a_full_socket_did_not_take(whistles: Whistles) -> None:
    whistle, go_on = whistles("whistle"), whistles("whistle.on")
    async with shared_node() as node:
        sender, neighbour, watcher = [
            await spawn(each) for each in (together(), together(), Watcher)
        ]
        await Watcher.watch(watcher, sender)
        await Watcher.tell_much_and_end(sender, watcher, 300_000, whistle.path)
        await whistle.heard()
        os.kill(node.os_pid_of(watcher), signal.SIGSTOP)
        go_on.blow()
        await whistle.heard()
        # Its end has been told by now, if it is told so early.
        await Watcher.settle(neighbour)
        os.kill(node.os_pid_of(watcher), signal.SIGCONT)
        heard = await Watcher.heard(watcher, 12)
        assert heard[:-1] == [5, *[300_000] * 10]
        assert is_down(heard[-1], sender)


@on_both_loops
async def test_every_monitor_has_its_down_and_none_after_it_is_taken_back() -> None:
    async with shared_node() as node:
        one, watcher = await spawn(Watcher), await spawn(Watcher)
        first, second, third = [await Watcher.watch(watcher, one) for _ in range(3)]
        assert await Watcher.unwatch(watcher, second)
        assert not await Watcher.unwatch(watcher, second)
        node.kill(one)
        heard = await Watcher.heard(watcher, 2)
        assert [down.monitor for down in heard] == [first, third]
        assert not await Watcher.unwatch(watcher, first)
        await Watcher.os_pid(one)
        assert len(await Watcher.all(watcher)) == 2


@on_both_loops
async def test_a_down_on_its_way_does_not_come_any_more(whistles: Whistles) -> None:
    go_on = whistles()
    async with shared_node() as node:
        one, watcher = await spawn(Watcher), await spawn(Watcher)
        watched = await Watcher.watch(watcher, one)
        unwatching = Watcher.unwatch_late(watcher, watched, go_on.path, flush=False)
        node.kill(one)
        await node.event("crashed", one)
        go_on.blow()
        # In the socket: as good as not come.
        assert await unwatching
        assert await Watcher.all(watcher) == []


@on_both_loops
@pytest.mark.parametrize("flush", [False, True])
async def test_a_down_that_waits_is_dropped_on_demand(flush: bool, whistles: Whistles) -> None:
    go_on = whistles()
    async with shared_node() as node:
        one, watcher, other = await spawn(Watcher), await spawn(together()), await spawn(together())
        watched = await Watcher.watch(watcher, one)
        await Watcher.watch(other, one)
        unwatching = Watcher.unwatch_later(watcher, watched, go_on.path, flush=flush)
        node.kill(one)
        # Of the same process, and told after the first.
        await the_down(other)
        go_on.blow()
        assert await unwatching == flush
        assert len(await Watcher.all(watcher)) == (0 if flush else 1)


async def test_a_neighbour_that_hears_first_lets_nobody_hear_after_a_flush() -> None:
    async with shared_node() as node:
        one, first, second = [
            await spawn(each) for each in (child(Watcher), together(), together())
        ]
        await Watcher.watch(first, one)
        watched = await Watcher.watch(second, one)
        # From now on it waits, and takes what comes in its order.
        await Watcher.settle(first)
        os_pid = node.os_pid_of(first)
        os.kill(os_pid, signal.SIGSTOP)
        node.kill(one)
        await Watcher.os_pid(one)
        # Behind the news, and found where it looks for what comes before that.
        unwatching = Watcher.unwatch(second, watched, flush=True)
        await one.is_running()
        os.kill(os_pid, signal.SIGCONT)
        assert await unwatching
        await the_down(first)
        assert await Watcher.all(second) == []


async def test_nobody_takes_back_the_monitor_of_another() -> None:
    async with shared_node() as node:
        one, alone = await spawn(Watcher), await spawn(Watcher)
        watchers = [alone, await spawn(together()), await spawn(together())]
        watched = [await Watcher.watch(watcher, one) for watcher in watchers]
        for watcher, its in zip(watchers, [*watched[1:], watched[0]], strict=True):
            assert not await Watcher.unwatch(watcher, its, flush=True)
        node.kill(one)
        assert [(await the_down(watcher)).monitor for watcher in watchers] == watched


async def test_what_was_sent_in_a_start_that_failed_comes_before_the_down(
    tmp_path: Path, whistles: Whistles
) -> None:
    in_init, go_on = whistles("marker.fifo"), whistles("marker.fifo.on")
    async with shared_node() as node:
        watcher, neighbour = await spawn(Watcher), await spawn(together())
        spec = child(Loud, watcher, str(tmp_path / "marker"))
        loud = await spawn(spec.options(placement="rooms"))
        await Loud.tell(loud)
        with pytest.raises(ServerExitedError):
            await Loud.crash(loud)
        await in_init.heard()
        await Watcher.watch(watcher, loud)
        os.kill(node.os_pid_of(watcher), signal.SIGSTOP)
        go_on.blow()
        # Its end has been told by now, if it is told so early.
        await Watcher.settle(neighbour)
        os.kill(node.os_pid_of(watcher), signal.SIGCONT)
        heard = await Watcher.heard(watcher, 12)
        assert heard[:-1] == [5, *[300_000] * 10]
        assert is_down(heard[-1], loud)


@on_both_loops
async def test_nobody_there_is_said_at_once() -> None:
    async with shared_node():
        one, watcher = await spawn(Watcher), await spawn(Watcher)
        await Watcher.os_pid(one)
        await stop(one)
        for target in (one, named("nobody", Watcher), supervisor("nobody")):
            await Watcher.watch(watcher, target)
        downs = await Watcher.heard(watcher, 3)
        assert [down.reason for down in downs] == [NoServer()] * 3
        assert [down.restart for down in downs] == [None] * 3
        # What is known of its end is told nevertheless.
        assert downs[0].report.reason == Shutdown()
        assert downs[1].report is None


@on_both_loops
@pytest.mark.parametrize("restart", ["temporary", "permanent"])
async def test_one_that_was_watched_before_it_ended_is_not_nobody(restart: Restart) -> None:
    async with shared_node() as node:
        one, neighbour = await spawn(together().options(restart=restart)), await spawn(together())
        watcher = await spawn(Watcher)
        async with read_after_the_crash_of(one, neighbour, watcher, node=node):
            ends = watch(one)
            await Watcher.watch(watcher, one)
        crash = Crash("ValueError", "on purpose")
        assert (await anext(ends)).reason == crash
        down = await the_down(watcher)
        assert (down.reason, down.restart) == (crash, None if restart == "temporary" else 2)


@on_both_loops
async def test_whoever_watches_again_at_once_hears_of_no_end_twice() -> None:
    tree = Supervisor(child(Watcher).options(name="one"), max_restarts=None)
    async with ObservedNode(tree):
        one = named("one", Watcher)
        watcher = await spawn(Persistent, one)
        for ends in range(1, 7):
            await Watcher.os_pid(one)
            await one.exit(Killed("SIGKILL"))
            await Persistent.heard(watcher, ends)
        assert await Persistent.heard(watcher, 6) == [2, 3, 4, 5, 6, 7]


@on_both_loops
async def test_names_and_supervisors_are_watched_like_servers() -> None:
    tree = Supervisor(
        Supervisor(child(Watcher).options(name="inner"), id="front", max_restarts=0),
        max_restarts=3,
    )
    async with ObservedNode(tree) as node:
        watcher = await spawn(Watcher)
        inner, front = named("inner", Watcher), supervisor("front")
        await Watcher.watch(watcher, front)
        await Watcher.watch(watcher, inner)
        found = await supervisor("front").get_child("Watcher")
        assert isinstance(found, Ref)
        node.kill(found)
        first, second = await Watcher.heard(watcher, 2)
        assert {first.ref, second.ref} == {inner, front}
        assert first.restart == second.restart == 2
        # The server went first, and its supervisor gave up because of it.
        assert (first.ref, first.reason) == (inner, Killed("SIGKILL"))


@on_both_loops
async def test_one_that_restarts_is_watched_from_its_next_start(
    whistles: Whistles, tmp_path: Any
) -> None:
    in_init = whistles("marker.fifo")
    async with shared_node() as node:
        watcher = await spawn(Watcher)
        spec = child(Start, how="loop unless first", marker=str(tmp_path / "marker"))
        start = await spawn(spec.options(init_timeout=None))
        await Start.os_pid(start)
        node.kill(start)
        await in_init.heard()
        await Watcher.watch(watcher, start)
        node.kill(start)
        down = await the_down(watcher)
        assert down.report is not None
        assert down.report.incarnation == 2
        await in_init.heard()
        await stop(start)


@on_both_loops
async def test_a_watcher_that_dies_leaves_nothing_behind() -> None:
    async with ObservedNode() as node:
        one, alone = await spawn(Watcher), await spawn(Watcher)
        group = [await spawn(together()) for _ in range(2)]
        for watcher in (alone, *group):
            await Watcher.watch(watcher, one)
        node.kill(alone)
        await stop(group[0])
        await Watcher.os_pid(alone)
        await Watcher.watch(group[1], one)
        await Watcher.settle(group[1])
        assert node._root is not None  # pyright: ignore[reportPrivateUsage]
        monitors = node._root._monitors  # pyright: ignore[reportPrivateUsage]
        watchers = monitors._of[one.sid]  # pyright: ignore[reportPrivateUsage]
        assert [len(numbers) for numbers in watchers.values()] == [2]
        await stop(one)
        assert len(await Watcher.heard(group[1], 2)) == 2
        assert await Watcher.all(alone) == []
        assert monitors._of == {}  # pyright: ignore[reportPrivateUsage]


@on_both_loops
async def test_a_program_watches_until_the_server_is_gone_for_good() -> None:
    async with shared_node() as node:
        one = await spawn(child(Watcher).options(restart="permanent"))
        ends = watch(one)
        seen: list[tuple[Any, int | None]] = []
        node.kill(one)
        async for down in ends:
            seen.append((down.reason, down.restart))
            if len(seen) == 1:
                with pytest.raises(Exception, match="on purpose"):
                    await Watcher.crash(one)
            if len(seen) == 2:
                await Watcher.end(one, Normal())
            if len(seen) == 3:
                await Watcher.os_pid(one)
                await stop(one)
        crash = Crash("ValueError", "on purpose")
        assert seen == [(Killed("SIGKILL"), 2), (crash, 3), (Normal(), 4), (Shutdown(), None)]
        assert [down.reason async for down in watch(one)] == [NoServer()]


@on_both_loops
async def test_a_promised_restart_that_does_not_come_is_told_too(tmp_path: Any) -> None:
    async with shared_node() as node:
        spec = child(Start, how="raise unless first", marker=str(tmp_path / "marker"))
        start = await spawn(spec)
        ends = watch(start)
        await Start.os_pid(start)
        node.kill(start)
        seen = [(down.report.incarnation, down.restart) async for down in ends if down.report]
        assert seen[0] == (1, 2)
        assert [restart for _, restart in seen].count(None) == 1
        assert seen[-1][1] is None
        incarnations = [incarnation for incarnation, _ in seen]
        assert incarnations == sorted(incarnations)


@on_both_loops
async def test_a_watch_ends_with_its_close_with_itself_and_with_the_node() -> None:
    async with ObservedNode() as node:
        one = await spawn(Watcher)
        closed, dropped = watch(one), watch(one)
        reading = asyncio.ensure_future(anext(closed))
        await asyncio.sleep(0)
        closed.close()
        with pytest.raises(StopAsyncIteration):
            await reading
        del dropped
        gc.collect()
        await one.is_running()
        await one.is_running()
        assert node._root is not None  # pyright: ignore[reportPrivateUsage]
        monitors = node._root._monitors  # pyright: ignore[reportPrivateUsage]
        assert monitors._of == {}  # pyright: ignore[reportPrivateUsage]
        last = watch(one)
    # All servers end with their node, and one hears of that.
    assert [down.restart async for down in last] == [None]
    with pytest.raises(NodeDownError):
        watch(one)


async def test_of_several_that_wait_each_comes_to_the_end() -> None:
    sent: list[list[Any]] = []
    watching = Watching(sent.append)
    ends = Watch(asyncio.get_running_loop(), watching, named("one", Watcher))
    readers = [asyncio.ensure_future(anext(ends, None)) for _ in range(3)]
    await asyncio.sleep(0)
    readers.pop().cancel()
    watching.heard([MONITORED, [sent[0][1]], 1, Shutdown(), None, None])
    downs = await asyncio.gather(*readers)
    assert [down and down.reason for down in downs] == [Shutdown(), None]


async def test_an_id_is_no_name_and_a_path_is_an_address() -> None:
    async with ObservedNode(Supervisor(child(Watcher).options(id="one"))):
        watcher = await spawn(Watcher)
        ref = named("/one", Watcher)
        await Watcher.watch(watcher, ref)
        await Watcher.watch(watcher, named("one", Watcher))
        down = await the_down(watcher)
        assert (down.ref, down.reason) == (named("one", Watcher), NoServer())
        assert await Watcher.os_pid(ref)
        assert len(await Watcher.all(watcher)) == 1


async def test_what_is_for_the_event_loop_says_so_in_a_thread() -> None:
    async with shared_node():
        one, other = await spawn(Watcher), await spawn(Watcher)
        for what in ("monitor", "link", "unlink", "trap_exits"):
            assert "not from another thread" in await Watcher.try_in_thread(one, what, other)


@on_both_loops
async def test_what_is_for_servers_says_so_in_a_program() -> None:
    async with shared_node():
        one = await spawn(Watcher)
        for call in (monitor, link, unlink):
            with pytest.raises(NoNodeError, match="is for servers"):
                call(one)
        with pytest.raises(NoNodeError, match="is for servers"):
            trap_exits()
        with pytest.raises(TypeError, match="watch takes a Ref, got 'one'"):
            watch("one")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        watched = await Watcher.watch(one, one)
        with pytest.raises(NoNodeError, match="is for servers"):
            demonitor(watched)


@on_both_loops
async def test_a_monitor_in_init_works() -> None:
    async with shared_node() as node:
        one = await spawn(Watcher)
        watcher = await spawn(Watcher, watches=one)
        node.kill(one)
        assert is_down(await the_down(watcher), one)
        with pytest.raises(InitFailedError, match="takes a Ref"):
            await spawn(Watcher, watches="one")
