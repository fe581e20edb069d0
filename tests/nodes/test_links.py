"""Links and exit signals: servers that end together, and those that trap exits."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from noex_mp import (
    Crash,
    Killed,
    Linked,
    Normal,
    NoServer,
    Ref,
    ServerExitedError,
    Shutdown,
    Supervisor,
    child,
    named,
    spawn,
    stop,
    supervisor,
    watch,
)
from noex_mp.client import current
from noex_mp.core.specs import Restart
from noex_mp.errors import RemoteProtocolError
from tests.nodes.observed import (
    ObservedNode,
    Whistles,
    on_both_loops,
    shared_node,
    whistles,
)
from tests.nodes.unread import read_after_the_crash_of
from tests.servers.faulty import Start, Stubborn
from tests.servers.watching import Watcher, is_exit

__all__ = ["whistles"]

pytestmark = pytest.mark.usefixtures("shared_nodes")


async def linked(count: int, **options: Any) -> list[Ref[Watcher]]:
    """Return servers of which each is linked to the one before; none comes back."""
    refs: list[Ref[Watcher]] = []
    for _ in range(count):
        spec = child(Watcher).options(restart="temporary", **options)
        refs.append(await spawn(spec))
        if len(refs) > 1:
            await Watcher.link_with(refs[-1], refs[-2])
            await Watcher.os_pid(refs[-2])
    return refs


def one_and_two() -> Supervisor:
    """Return a tree of two servers, of which the second links itself to the first."""
    return Supervisor(
        child(Watcher).options(name="one"),
        child(Watcher, links=named("one", Watcher)).options(id="two", name="two"),
        max_restarts=10,
    )


async def found_in_tree(id: str) -> Ref[Any]:
    found = await supervisor("/").get_child(id)
    assert isinstance(found, Ref)
    return found


async def reason_of(ref: Ref[Watcher]) -> Any:
    return [down.reason async for down in watch(ref)]


@on_both_loops
@pytest.mark.parametrize("placement", [None, "rooms"])
async def test_a_chain_ends_with_the_reason_of_the_first(placement: str | None) -> None:
    async with shared_node():
        refs = await linked(4, placement=placement)
        watches = [watch(ref) for ref in refs]
        with pytest.raises(ServerExitedError):
            await Watcher.crash(refs[1])
        crash = Crash("ValueError", "on purpose")
        reasons = [(await anext(ends)).reason for ends in watches]
        first = Linked("Watcher", crash)
        assert reasons == [first, crash, first, first]


@on_both_loops
@pytest.mark.parametrize("restart", ["temporary", "permanent"])
async def test_one_that_was_linked_before_it_ended_is_not_nobody(restart: Restart) -> None:
    async with shared_node() as node:
        spec = child(Watcher).options(placement="rooms")
        one, neighbour = await spawn(spec.options(restart=restart)), await spawn(spec)
        trapping = await spawn(Watcher, traps=True)
        async with read_after_the_crash_of(one, neighbour, trapping, node=node):
            await Watcher.link_with(trapping, one)
        [heard] = await Watcher.heard(trapping, 1)
        assert is_exit(heard, one)
        assert heard.reason == Crash("ValueError", "on purpose")


@on_both_loops
async def test_a_server_that_traps_exits_hears_of_them_and_lives() -> None:
    async with shared_node() as node:
        one, two, three = [await spawn(Watcher) for _ in range(3)]
        trapping = await spawn(Watcher, traps=True)
        for ref in (one, two, three):
            await Watcher.link_with(trapping, ref)
            # Twice is once.
            await Watcher.link_with(trapping, ref)
        os_pid = await Watcher.os_pid(trapping)
        node.kill(one)
        heard = await Watcher.heard(trapping, 1)
        await Watcher.end(two, Normal())
        heard = await Watcher.heard(trapping, 2)
        await stop(three)
        heard = await Watcher.heard(trapping, 3)
        assert [each.ref for each in heard] == [one, two, three]
        assert [each.reason for each in heard] == [Killed("SIGKILL"), Normal(), Shutdown()]
        assert heard[0].report.server == "Watcher"
        assert await Watcher.os_pid(trapping) == os_pid
        assert await Watcher.trap(trapping, False)
        assert not await Watcher.trap(trapping, True)


@on_both_loops
async def test_an_exit_comes_after_all_that_the_server_had_sent() -> None:
    async with shared_node():
        sender, trapping = await spawn(Watcher), await spawn(Watcher, traps=True)
        await Watcher.link_with(sender, trapping)
        await Watcher.tell_and_die(sender, trapping, 200, "kill")
        heard = await Watcher.heard(trapping, 201)
        assert heard[:-1] == list(range(200))
        assert is_exit(heard[-1], sender)


@on_both_loops
async def test_a_normal_end_ends_nobody_else_and_what_is_unlinked_neither() -> None:
    async with shared_node():
        one, two, three = await linked(3)
        await Watcher.unlink_from(one, two)
        with pytest.raises(ServerExitedError):
            await Watcher.crash(one)
        await Watcher.end(three, Normal())
        assert await reason_of(three) in ([Normal()], [NoServer()])
        assert await Watcher.os_pid(two)
        # Nothing is left of either link.
        await stop(two)


@on_both_loops
async def test_both_are_restarted_by_their_supervisors_and_link_anew() -> None:
    async with ObservedNode(one_and_two()) as node:
        one, two = named("one", Watcher), named("two", Watcher)
        ends = watch(two)
        for nth in (1, 2):
            # By the second time there is the link of the second incarnation.
            await Watcher.os_pid(one)
            node.kill(await found_in_tree("Watcher"))
            down = await anext(ends)
            assert (down.reason, down.restart) == (Linked("one", Killed("SIGKILL")), nth + 1)
            await Watcher.os_pid(two)


@on_both_loops
async def test_an_exit_names_by_number_whom_a_name_was_linked_by() -> None:
    async with shared_node():
        one = await spawn(child(Watcher).options(name="one"))
        trapping = await spawn(Watcher, traps=True)
        await Watcher.link_with(trapping, named("one", Watcher))
        # Behind the link, on the way to the root.
        await Watcher.settle(trapping)
        await stop(one)
        (heard,) = await Watcher.heard(trapping, 1)
        assert heard.ref == one
        assert heard.ref != named("one", Watcher)


@on_both_loops
async def test_a_link_to_nobody_is_an_exit_at_once() -> None:
    async with shared_node():
        trapping = await spawn(Watcher, traps=True)
        await Watcher.link_with(trapping, named("nobody", Watcher))
        (heard,) = await Watcher.heard(trapping, 1)
        assert (heard.ref, heard.reason) == (None, NoServer())
        one = await spawn(child(Watcher).options(restart="temporary"))
        ends = watch(one)
        await stop(trapping)
        Watcher.link_with(one, trapping)
        assert (await anext(ends)).reason == Linked("Watcher", NoServer())


@on_both_loops
async def test_exit_ends_a_server_and_its_supervisor_goes_on_from_there() -> None:
    async with shared_node():
        one, trapping = await spawn(Watcher), await spawn(Watcher, traps=True)
        ends, others = watch(one), watch(trapping)
        await one.exit(Normal())
        old = Crash("Stale", "its data are old")
        await one.exit(old)
        down = await anext(ends)
        assert (down.reason, down.restart) == (old, 2)
        await Watcher.os_pid(one)
        # It is transient, and that is no abnormal end.
        await one.exit(Shutdown("enough"))
        down = await anext(ends)
        assert (down.reason, down.restart) == (Shutdown("enough"), None)
        await trapping.exit(Normal())
        await trapping.exit(old)
        first, second = await Watcher.heard(trapping, 2)
        assert (first.ref, first.reason, second.reason) == (None, Normal(), old)
        # The one that nobody traps.
        await trapping.exit(Killed("SIGKILL"))
        assert (await anext(others)).reason == Killed("SIGKILL")
        with pytest.raises(TypeError, match="expected an exit reason, got 'enough'"):
            await one.exit("enough")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("placement", [None, "rooms"])
async def test_one_that_does_not_heed_an_exit_is_killed(
    placement: str | None, whistles: Whistles
) -> None:
    spins = whistles()
    async with shared_node():
        spec = child(Watcher).options(placement=placement, shutdown=0.1, restart="temporary")
        spinning = await spawn(spec)
        ends = watch(spinning)
        call = Watcher.spin(spinning.within(None), spins.path)
        await spins.heard()
        crash = Crash("Stale", "its data are old")
        await spinning.exit(crash)
        down = await anext(ends)
        assert down.reason == crash
        # Where it was, too.
        assert down.report is not None
        assert "in spin" in down.report.stack
        with pytest.raises(ServerExitedError):
            await call


async def test_an_exit_signal_leaves_the_neighbours_alone() -> None:
    async with shared_node():
        spec = child(Watcher).options(placement="rooms")
        one, hurried = await spawn(spec), await spawn(spec.options(shutdown="brutal_kill"))
        os_pid = await Watcher.os_pid(one)
        for ref, reason in ((hurried, Crash("Stale", "")), (one, Killed("SIGKILL"))):
            ends = watch(ref)
            await ref.exit(reason)
            assert (await anext(ends)).reason == reason
            assert await Watcher.os_pid(one) == await Watcher.os_pid(hurried) == os_pid


async def test_what_a_neighbour_has_still_to_send_ends_nobody(whistles: Whistles) -> None:
    whistle, go_on = whistles("whistle"), whistles("whistle.on")
    async with shared_node() as node:
        spec = child(Watcher).options(placement="rooms", shutdown=0.1, restart="temporary")
        one, sender, neighbour = [await spawn(spec) for _ in range(3)]
        reader = await spawn(Watcher)
        os_pid = await Watcher.os_pid(neighbour)
        await Watcher.tell_much_and_end(sender, reader, 300_000, whistle.path)
        await whistle.heard()
        os.kill(node.os_pid_of(reader), signal.SIGSTOP)
        go_on.blow()
        await whistle.heard()
        ends = watch(one)
        await one.exit(Crash("Stale", ""))
        assert (await anext(ends)).reason == Crash("Stale", "")
        assert await Watcher.os_pid(neighbour) == os_pid
        os.kill(node.os_pid_of(reader), signal.SIGCONT)
        assert await Watcher.os_pid(reader)
        # Nobody has complained of what was cut short.
        assert node.lines == []


async def test_a_link_that_breaks_before_an_end_is_told_sends_nothing_twice(
    whistles: Whistles,
) -> None:
    whistle, go_on = whistles("whistle"), whistles("whistle.on")
    async with shared_node() as node:
        spec = child(Watcher).options(placement="rooms")
        one, sender = await spawn(spec), await spawn(spec)
        reader = await spawn(Watcher)
        await Watcher.os_pid(one)
        await Watcher.tell_much_and_end(sender, reader, 300_000, whistle.path)
        await whistle.heard()
        os.kill(node.os_pid_of(reader), signal.SIGSTOP)
        go_on.blow()
        await whistle.heard()
        ends = watch(one)
        crashing = Watcher.crash(one)
        route = current.client(one.node).route(one.sid, "")
        assert route.link is not None
        # It has been sent, and the news of its end waits for what the neighbour has to send.
        route.link.close(RemoteProtocolError("rooms", "nonsense"))
        with pytest.raises(ServerExitedError):
            await crashing
        assert (await anext(ends)).restart == 2
        os.kill(node.os_pid_of(reader), signal.SIGCONT)
        await Watcher.os_pid(one)
        await stop(one)
        assert (await anext(ends)).reason == Shutdown()


async def test_one_that_does_not_come_to_its_end_can_still_be_killed() -> None:
    async with shared_node() as node:
        one = await spawn(child(Stubborn).options(shutdown=None))
        ends = watch(one)
        stopping = asyncio.ensure_future(stop(one, timeout=None))
        await node.event("stopping", one)
        # It ends anyway.
        await one.exit(Crash("Stale", ""))
        await one.exit(Killed("SIGKILL"))
        assert (await anext(ends)).reason == Killed("SIGKILL")
        await stopping


async def test_a_start_that_an_exit_signal_cuts_short_has_its_reason(
    tmp_path: Path, whistles: Whistles
) -> None:
    in_init = whistles("marker.fifo")
    async with shared_node() as node:
        spec = child(Start, how="loop unless first", marker=str(tmp_path / "marker"))
        start = await spawn(spec.options(init_timeout=None, shutdown=0))
        await Start.os_pid(start)
        ends = watch(start)
        node.kill(start)
        await in_init.heard()
        await start.exit(Shutdown("enough"))
        assert [down.reason async for down in ends] == [Killed("SIGKILL"), Shutdown("enough")]


async def test_a_link_to_one_that_is_just_ending_is_a_link_to_the_next(whistles: Whistles) -> None:
    whistle, go_on = whistles("whistle"), whistles("whistle.on")
    async with ObservedNode(one_and_two()) as node:
        one, two = named("one", Watcher), named("two", Watcher)
        first, second = watch(one), watch(two)
        blocked = Watcher.block(one.within(None), whistle.path)
        await whistle.heard()
        with pytest.raises(ServerExitedError):
            await Watcher.crash(two)
        crash = Crash("ValueError", "on purpose")
        assert (await anext(second)).reason == crash
        await Watcher.os_pid(two)
        # It has not come to heed that so far.
        go_on.blow()
        await blocked
        assert (await anext(first)).reason == Linked("two", crash)
        os_pid = await Watcher.os_pid(one)
        node.kill(await found_in_tree("Watcher"))
        assert os_pid != await Watcher.os_pid(one)
        assert (await anext(second)).reason == Linked("one", Killed("SIGKILL"))


async def test_a_server_of_another_node_cannot_be_linked() -> None:
    async with shared_node():
        one, other = await spawn(Watcher), await spawn(Watcher)
        elsewhere = Ref[Watcher]("elsewhere", other.sid)
        assert "not of this process" in await Watcher.try_to_link(one, elsewhere)


@on_both_loops
@pytest.mark.parametrize("shutdown", [None, "brutal_kill"])
async def test_an_exit_signal_needs_no_time_limit(shutdown: Any) -> None:
    async with shared_node():
        one = await spawn(child(Watcher).options(shutdown=shutdown, restart="temporary"))
        ends = watch(one)
        await one.exit(Crash("Stale", ""))
        assert (await anext(ends)).reason == Crash("Stale", "")


@on_both_loops
async def test_a_kill_takes_no_neighbour_along() -> None:
    async with shared_node():
        one, two = [await spawn(child(Watcher).options(placement="rooms")) for _ in range(2)]
        ends, os_pid = watch(one), await Watcher.os_pid(two)
        await one.exit(Killed("SIGKILL"))
        assert (await anext(ends)).reason == Killed("SIGKILL")
        assert await Watcher.os_pid(two) == os_pid


@on_both_loops
async def test_who_is_linked_to_one_that_is_shut_down_ends_in_good_order(
    whistles: Whistles,
) -> None:
    farewell = whistles()
    async with shared_node():
        one = await spawn(Watcher)
        spec = child(Watcher, links=one, says_farewell=farewell.path)
        ends = watch(await spawn(spec))
        await stop(one)
        await farewell.heard()
        down = await anext(ends)
        # It is transient, and that was no abnormal end.
        assert (down.reason, down.restart) == (Linked("Watcher", Shutdown()), None)


@on_both_loops
async def test_a_death_by_signal_reaches_all_that_are_linked() -> None:
    async with shared_node() as node:
        hub, *spokes = [await spawn(child(Watcher).options(restart="temporary")) for _ in range(5)]
        for spoke in spokes:
            await Watcher.link_with(spoke, hub)
        await Watcher.os_pid(hub)
        watches = [watch(spoke) for spoke in spokes]
        node.kill(spokes[0])
        for ends in watches[1:]:
            down = await anext(ends)
            assert down.reason == Linked("Watcher", Killed(signal.SIGKILL.name))
