"""Holds the promises of docs/semantics.md: one test for each, which names it."""

from __future__ import annotations

import asyncio
import inspect
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import msgpack
import numpy as np
import pytest

from noex_mp import (
    AlreadyRegisteredError,
    Application,
    BadConfigError,
    CallCycleError,
    CallTimedOutError,
    ConfigError,
    Continue,
    Crash,
    Event,
    Exited,
    Hung,
    InitFailedError,
    InitTimedOutError,
    Killed,
    Linked,
    MailboxFullError,
    MaxRestartsExceededError,
    MemoryPressure,
    Node,
    NoServer,
    NoServerError,
    OutOfMemory,
    PoisonedMessageError,
    Pool,
    Ref,
    ReloadFailedError,
    RemoteError,
    RemoteProtocolError,
    ServerExitedError,
    Shutdown,
    ShutdownTimedOut,
    Stop,
    Supervisor,
    UnencodableError,
    UnknownOperationError,
    applications,
    child,
    named,
    shared,
    spawn,
    start_application,
    stop,
    supervisor,
    watch,
    whereis,
)
from noex_mp.client import current
from noex_mp.node import leases
from noex_mp.wire.codec import Encoder
from tests.nodes.observed import SERVERS, ObservedNode, Whistles, stuck_in_its_restart, whistles
from tests.nodes.outside import Sent, outside
from tests.nodes.test_shared import memory, soon
from tests.nodes.test_trees import leaf
from tests.nodes.versions import App, app
from tests.pools.gates import LADDER, Gate, marks, there
from tests.pools.tasks import double, mark, pid, spin, wait_for
from tests.processes.harness import REPOSITORY, wait_for_ends
from tests.servers.applications import Told, application, diary
from tests.servers.busy import Busy, Ticking
from tests.servers.counters import Caller, Counter, Journal, RefusedError, Turns
from tests.servers.echoing import Echo
from tests.servers.faulty import Expecting, Faulty, Start, Stubborn, TwoArgumentsError
from tests.servers.hostile import Asker, Hostile
from tests.servers.limited import Eats, Hangs
from tests.servers.poisonous import Poisonous
from tests.servers.registered import PLAYERS, ROOMS, Room
from tests.servers.sharing import Reader, where
from tests.servers.trees import Leaf
from tests.servers.watching import Watcher
from tests.wire.anatomy import NATIVE, anatomy
from tests.wire.registered import Guarded, Moody
from tests.wire.samples import Plain, Point

__all__ = ["app", "whistles"]

F = TypeVar("F", bound=Callable[..., object])

PAGE = REPOSITORY / "docs" / "semantics.md"


def holds(promise: str) -> Callable[[F], F]:
    """Say which promise a test holds."""

    def note(test: F) -> F:
        test.__dict__["promise"] = promise
        return test

    return note


def test_the_page_and_the_tests_name_the_same_promises() -> None:
    promised = re.findall(r"^- `([a-z]+-\d+)`", PAGE.read_text(), re.MULTILINE)
    held = [
        test.__dict__["promise"]
        for test in globals().values()
        if inspect.isfunction(test) and "promise" in test.__dict__
    ]
    assert len(set(promised)) == len(promised)
    assert sorted(held) == sorted(promised)


async def outcomes(*calls: asyncio.Future[Any]) -> list[Any]:
    results = await asyncio.gather(*calls, return_exceptions=True)
    return [type(r) if isinstance(r, BaseException) else r for r in results]


# --- delivery ----------------------------------------------------------------------------------


@holds("delivery-1")
async def test_a_message_is_handled_at_most_once(tmp_path: Path) -> None:
    path = tmp_path / "handled"
    async with ObservedNode() as node:
        journal = await spawn(child(Journal, str(path)))
        calls = [Journal.record(journal, n) for n in range(100)]
        await calls[50]
        node.kill(journal)
        answered = [r for r in await outcomes(*calls) if not isinstance(r, type)]
        again = await Journal.all(journal)
        # Each was answered once, by the one incarnation or the other.
        assert len(answered) == len(set(answered))
        assert len(again) == len(set(again))
        assert set(again) <= set(answered)


@holds("delivery-2")
async def test_the_messages_of_a_sender_keep_their_order() -> None:
    async with ObservedNode():
        journal = await spawn(Journal)
        for n in range(0, 300, 3):
            Journal.note(journal, n)
            Journal.record(journal, n + 1)
            Journal.record_slowly(journal, n + 2)
        assert await Journal.all(journal) == list(range(300))


@holds("delivery-3")
async def test_a_begun_call_fails_at_once(whistles: Whistles) -> None:
    started = whistles()
    async with ObservedNode() as node:
        faulty = await spawn(Faulty)
        dozing = Faulty.doze(faulty.within(None), started.path)
        await started.heard()
        os_pid = node.kill(faulty)
        with pytest.raises(ServerExitedError) as failure:
            await dozing
        assert failure.value.started
        assert (failure.value.report.reason, failure.value.report.os_pid) == (
            Killed("SIGKILL"),
            os_pid,
        )


@holds("delivery-4")
async def test_an_idempotent_call_is_run_again(tmp_path: Path) -> None:
    async with ObservedNode() as node:
        faulty = await spawn(Faulty)
        assert await Faulty.again(faulty, str(tmp_path / "marker")) == "done"
        assert (await node.event("restarted", faulty)).incarnation == 2


@holds("delivery-5")
async def test_calls_that_had_not_begun_go_to_the_next_incarnation_in_order() -> None:
    async with ObservedNode():
        faulty = await spawn(Faulty)
        dying = Faulty.kill(faulty)
        behind = [Faulty.step(faulty, n) for n in range(20)]
        with pytest.raises(ServerExitedError):
            await dying
        newer = [Faulty.step(faulty, n) for n in range(20, 30)]
        assert await asyncio.gather(*behind, *newer) == list(range(30))
        assert await Faulty.all(faulty) == list(range(30))


@holds("delivery-6")
async def test_a_finished_call_is_answered() -> None:
    async with ObservedNode():
        faulty = await spawn(Faulty)
        await Faulty.echo(faulty, 0)
        calls = [Faulty.step(faulty, n, kill_at=40) for n in range(1, 65)]
        results = await outcomes(*calls)
        assert results == [*range(1, 40), ServerExitedError, *range(41, 65)]


@holds("delivery-7")
async def test_casts_that_had_not_begun_are_lost_and_counted() -> None:
    async with ObservedNode() as node:
        faulty = await spawn(Faulty)
        await Faulty.echo(faulty, 0)
        for n in range(20):
            Faulty.note(faulty, n, kill_at=12)
        assert await Faulty.all(faulty) == []
        lost = await node.event("messages_lost", faulty)
        assert (lost.count, lost.incarnation) == (7, 1)


@pytest.mark.slow
@holds("delivery-8")
async def test_what_is_sent_during_a_restart_waits_within_bounds(
    tmp_path: Path, whistles: Whistles
) -> None:
    async with ObservedNode() as node:
        start = await stuck_in_its_restart(node, tmp_path, whistles)
        with pytest.raises(CallTimedOutError):
            await Start.os_pid(start.within(0.05))
        waiting = [Start.note(start.within(None), n) for n in range(100_000)]
        with pytest.raises(MailboxFullError):
            Start.note(start.within(None), 100_000)
        assert not waiting[-1].done()
        await stop(start)
        assert await outcomes(waiting[0]) == [NoServerError]


@holds("delivery-9")
async def test_calls_to_a_server_that_is_gone_fail_with_its_last_report() -> None:
    async with ObservedNode():
        faulty = await spawn(child(Faulty).options(restart="temporary"))
        dying = Faulty.leave(faulty, 7)
        behind = Faulty.step(faulty, 1)
        assert await outcomes(dying, behind) == [ServerExitedError, NoServerError]
        with pytest.raises(NoServerError) as failure:
            await Faulty.step(faulty, 2)
        assert failure.value.report is not None
        assert failure.value.report.reason == Exited(7)


@holds("delivery-10")
async def test_what_a_client_had_sent_is_handled_though_it_has_ended(whistles: Whistles) -> None:
    started, release = whistles(), whistles()
    async with ObservedNode(preload=(*SERVERS, "tests.servers.hostile")):
        hostile, asker = await spawn(Hostile), await spawn(Asker)
        pausing = Hostile.pause(hostile.within(None), started.path, release.path)
        await started.heard()
        await Asker.cast_and_stop(asker, hostile, 100)
        while await asker.is_running():
            pass
        release.blow()
        await pausing
        assert await Hostile.all(hostile) == list(range(100))


@holds("delivery-11")
async def test_a_full_mailbox_lets_its_senders_wait_or_refuses(whistles: Whistles) -> None:
    coming, going = whistles(), whistles()
    async with ObservedNode():
        busy = await spawn(child(Busy).options(max_messages=10))
        await Busy.count(busy)
        blocked = Busy.block(busy.within(None), coming.path, going.path)
        await coming.heard()
        sent = [Busy.note(busy.within(None), n) for n in range(20)]
        assert [future.done() for future in sent].count(False) >= 10
        with pytest.raises(MailboxFullError):
            Busy.note.nowait(busy, 20)
        going.blow()
        await asyncio.gather(blocked, *sent)
        assert await Busy.notes(busy) == list(range(20))


@holds("delivery-12")
async def test_a_full_server_stalls_nobody_else(whistles: Whistles) -> None:
    coming = whistles()
    async with ObservedNode():
        full = await spawn(child(Busy).options(placement="both", max_messages=10))
        neighbour = await spawn(child(Busy).options(placement="both", max_messages=10))
        waiting = Busy.wait(full.within(None), coming.path)
        await coming.heard()
        Busy.note(full.within(None), "too much")
        flood = [Busy.note(full.within(None), n) for n in range(100)]
        assert await Busy.echo(neighbour, 1) == 1
        assert not flood[-1].done()
        waiting.cancel()
        await flood[-1]
        # Both flood each other beyond their bounds.
        await Busy.flood(full.within(None), neighbour, 1000)
        await Busy.flood(neighbour.within(None), full, 1000)
        while await Busy.count(full.within(None)) < 1102:  # noqa: ASYNC110 - in another process
            await asyncio.sleep(0.01)


# --- poison ------------------------------------------------------------------------------------


@holds("poison-1")
async def test_a_call_of_which_its_server_ends_three_times_is_given_up() -> None:
    async with ObservedNode():
        ref = await spawn(Poisonous)
        poisonous = Poisonous.swallow(ref, "kill")
        behind = [Poisonous.note(ref, n) for n in range(5)]
        with pytest.raises(PoisonedMessageError) as failure:
            await poisonous
        reasons = [report.reason for report in failure.value.reports]
        assert reasons == [Killed("SIGKILL")] * 3
        assert await asyncio.gather(*behind) == list(range(5))
        assert await Poisonous.all(ref) == list(range(5))


@holds("poison-2")
async def test_ends_in_which_a_call_had_no_part_are_not_counted(whistles: Whistles) -> None:
    started = whistles()
    tree = Supervisor(
        child(Poisonous).options(name="one"),
        child(Poisonous).options(id="two", name="two"),
        strategy="one_for_all",
    )
    async with ObservedNode(tree) as node:
        waiting = Poisonous.wait(named("one", Poisonous), started.path)
        two = await Poisonous.me(named("two", Poisonous))
        for _ in range(3):
            await started.heard()
            blocking = Poisonous.block(two, started.path)
            behind = Poisonous.swallow(two, "kill", __file__)
            await started.heard()
            node.kill(two)
            assert await outcomes(blocking, behind) == [ServerExitedError, "well"]
        await started.heard()
        await Poisonous.answer(named("one", Poisonous))
        assert await waiting == "answered"
        assert await node.dead_letters() == []


@holds("poison-3")
async def test_the_letter_is_there_when_the_caller_hears_of_it() -> None:
    async with ObservedNode() as node:
        ref = await spawn(Poisonous)
        with pytest.raises(PoisonedMessageError) as failure:
            await Poisonous.swallow_once(ref, "kill")
        # Asked for on another link.
        kept = await asyncio.to_thread(asyncio.run, node.dead_letters())
        assert [letter.id for letter in kept] == [failure.value.letter]
        await node.drop(kept[0])
        assert await node.dead_letters() == []


@holds("poison-4")
async def test_a_retry_counts_anew_and_the_letter_goes_with_the_reply(tmp_path: Path) -> None:
    cure = tmp_path / "cure"
    tree = Supervisor(child(Poisonous).options(name="lair"), max_restarts=100)
    async with ObservedNode(tree) as node:
        lair = named("lair", Poisonous)
        assert await outcomes(Poisonous.swallow(lair, "kill", str(cure))) == [PoisonedMessageError]
        [letter] = await node.dead_letters()
        with pytest.raises(PoisonedMessageError) as failure:
            await node.retry(letter)
        assert (failure.value.deliveries, failure.value.letter) == (3, letter.id)
        [letter] = await node.dead_letters()
        cure.touch()
        assert await node.retry(letter) == "well"
        assert await node.dead_letters() == []


# --- errors ------------------------------------------------------------------------------------


@holds("errors-1")
async def test_an_expected_error_is_raised_at_the_caller() -> None:
    async with ObservedNode():
        counter = await spawn(Counter, start=5)
        with pytest.raises(RefusedError) as failure:
            await Counter.increment(counter, 2000)
        assert (failure.value.wanted, failure.value.limit) == (2000, 1000)
        assert "raise RefusedError" in failure.value.__notes__[-1]
        assert await Counter.increment(counter) == 6


@holds("errors-2")
async def test_any_other_error_is_a_crash() -> None:
    async with ObservedNode():
        counter = await spawn(Counter, start=5)
        with pytest.raises(ServerExitedError) as failure:
            await Counter.fail(counter)
        assert failure.value.report.reason == Crash("LookupError", "no such thing")
        assert isinstance(failure.value.__cause__, LookupError)
        assert await Counter.increment(counter) == 6


@holds("errors-3")
async def test_a_callers_mistake_is_no_crash() -> None:
    async with ObservedNode():
        counter = await spawn(Counter, start=5)
        with pytest.raises(TypeError):
            await Counter.increment(counter, 1, 2)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
        with pytest.raises(UnknownOperationError):
            await counter.call("get")
        with pytest.raises(UnknownOperationError):
            await Journal.all(counter)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        assert await Counter.increment(counter) == 6


@holds("errors-4")
async def test_an_error_that_cannot_be_rebuilt_arrives_by_name() -> None:
    async with ObservedNode():
        expecting = await spawn(Expecting)
        with pytest.raises(RemoteError) as failure:
            await Expecting.fail(expecting, "broken str")
        assert failure.value.type_name == "tests.servers.faulty:BrokenStrError"
        # One that pickle could not rebuild can be.
        with pytest.raises(TwoArgumentsError):
            await Expecting.fail(expecting, "two arguments")


@holds("errors-5")
async def test_an_argument_that_cannot_be_sent_takes_nothing_along() -> None:
    async with ObservedNode():
        journal = await spawn(Journal)
        Journal.note(journal, 1)
        with pytest.raises(UnencodableError, match=r"args\[0\]\['rows'\]\[3\]: <generator>"):
            Journal.note(journal, {"rows": [1, 2, 3, (n for n in range(3))]})
        Journal.note(journal, 2)
        assert await Journal.all(journal) == [1, 2]


@holds("errors-6")
async def test_a_reply_that_cannot_be_sent_is_no_crash() -> None:
    async with ObservedNode(preload=(*SERVERS, "tests.servers.hostile")):
        faulty, hostile = await spawn(Faulty), await spawn(Hostile)
        os_pids = [await Faulty.os_pid(faulty), await Hostile.os_pid(hostile)]
        with pytest.raises(UnencodableError):
            await Faulty.unencodable(faulty)
        await Hostile.limit_memory(hostile, 65 * 2**20)
        with pytest.raises(MemoryError):
            await Hostile.reply_without_memory(hostile, 64 * 2**20, nested=False)
        assert [await Faulty.os_pid(faulty), await Hostile.os_pid(hostile)] == os_pids


@holds("errors-7")
async def test_nonsense_ends_a_link_and_no_process() -> None:
    async with ObservedNode() as node:
        counter = await spawn(Counter)
        os_pid = await Counter.os_pid(counter)
        route = current.client(node.id).route(counter.sid, "Counter")
        assert route.link is not None
        os.write(route.link.fd, msgpack.packb([99]))
        line = await node.line("link closed")
        assert Path(sys.argv[0]).name in line
        assert await Counter.os_pid(counter) == os_pid


@holds("errors-8")
async def test_a_buffer_without_memory_fails_its_own_call() -> None:
    async with ObservedNode(preload=(*SERVERS, "tests.servers.hostile")):
        hostile = await spawn(Hostile)
        await Hostile.limit_memory(hostile)
        big = Hostile.echo(hostile, bytes(64 * 2**20))
        behind = Hostile.step(hostile, 1)
        with pytest.raises(MemoryError, match="no memory for a buffer of 67108864 bytes"):
            await big
        assert await behind == 1


# --- values ------------------------------------------------------------------------------------


@holds("values-1")
async def test_values_keep_their_type_and_value() -> None:
    async with ObservedNode(pickle=False):
        echo = await spawn(Echo)
        for value in NATIVE:
            assert anatomy(await Echo.echo(echo, value)) == anatomy(value)
        shared = [1]
        one, other = await Echo.echo(echo, [shared, shared])
        assert one == other == [1]
        assert one is not other


@holds("values-4")
@pytest.mark.linux_only("values are copied where there are no memfds")
async def test_a_shared_value_is_read_in_place() -> None:
    async with ObservedNode():
        first, second = [await spawn(Reader) for _ in range(2)]
        value = shared(np.arange(100_000.0))
        assert await Reader.address(first, value) == (where(value), False)
        assert await Reader.pass_on(first, second, value) == float(value.sum())
        made = await Reader.make(first, 100_000, 2.0)
        assert await Reader.address(second, made) == (where(made), False)
        assert not made.flags.writeable


@holds("values-5")
@pytest.mark.linux_only("values are copied where there are no memfds")
async def test_a_shared_value_lives_as_long_as_anybody_has_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(leases, "GRACE", 0.1)
    async with ObservedNode() as node:
        owner, reader = [await spawn(Reader) for _ in range(2)]
        await Reader.make_and_keep(owner, 100_000, 7.0)
        given = await Reader.give_and_die(owner)
        await Reader.keep(reader, given)
        del given
        assert await Reader.total_kept(reader) == [700_000.0]
        os.kill(await Reader.os_pid(reader), signal.SIGKILL)
        await node.event("crashed", reader)
        await soon(lambda: memory() == 0)


@holds("values-2")
async def test_registered_values_go_their_own_way() -> None:
    async with ObservedNode():
        echo = await spawn(Echo)
        assert (await Echo.echo(echo, Guarded((1, 2)))).content == (1, 2)
        with pytest.raises(UnencodableError, match="not today"):
            Echo.echo(echo, Moody("encode"))
        with pytest.raises(RemoteProtocolError, match="not there"):
            await Echo.echo(echo, Moody("decode"))
        assert await Echo.echo(echo, 1) == 1


@holds("values-3")
async def test_programs_send_plain_values_only() -> None:
    async with ObservedNode(name="shop"), outside("shop") as client:
        route = client.route((await spawn(Echo)).sid, "Echo")
        for value in (Plain(1), Point(1), Guarded(1)):
            with pytest.raises(RemoteProtocolError, match="forbidden extension type"):
                await route.invoke(Sent("echo"), (value,), {}, 5.0)
        with pytest.raises(ConfigError):
            await client.request("spawn", {})
        assert await route.invoke(Sent("echo"), ((1,),), {}, 5.0) == (1,)


# --- refs and names ----------------------------------------------------------------------------


@holds("refs-1")
async def test_a_ref_is_an_address() -> None:
    async with ObservedNode() as node:
        counter, calling = await spawn(Counter, start=1), await spawn(Caller)
        assert await Caller.increment(calling, counter) == 2
        node.kill(counter)
        assert await Caller.increment(calling, counter) == 2
        assert await Counter.who(counter) == counter
        assert {counter: 1}[counter.within(3)] == 1


@holds("refs-2")
async def test_a_name_is_unique_and_kept_through_restarts() -> None:
    async with ObservedNode() as node:
        counter = await spawn(child(Counter).options(name="counter"))
        with pytest.raises(AlreadyRegisteredError):
            await spawn(child(Counter).options(name="counter"))
        node.kill(counter)
        await node.event("restarted", counter)
        assert whereis("counter", Counter) == counter


@holds("refs-3")
async def test_a_name_is_free_before_anybody_hears_of_the_end() -> None:
    async with ObservedNode():
        for _ in range(5):
            faulty = await spawn(child(Faulty).options(name="faulty", restart="temporary"))
            dying, behind = Faulty.kill(faulty), Faulty.step(faulty, 1)
            assert await outcomes(dying, behind) == [ServerExitedError, NoServerError]


@holds("refs-4")
async def test_a_ref_by_name_means_whoever_has_it_now() -> None:
    async with ObservedNode():
        by_name = named("counter", Counter)
        with pytest.raises(NoServerError):
            await Counter.increment(by_name)
        for start in (1, 2):
            await spawn(child(Counter, start).options(name="counter"))
            assert await Counter.increment(by_name) == start + 1
            await stop(by_name)


@holds("refs-5")
async def test_is_running_is_the_roots_word(tmp_path: Path, whistles: Whistles) -> None:
    in_init = whistles("marker.fifo")
    spec = child(Start, how="loop unless first", marker=str(tmp_path / "marker"))
    async with ObservedNode() as node:
        start = await spawn(spec.options(init_timeout=None))
        assert await start.is_running()
        node.kill(start)
        await in_init.heard()
        assert not await start.is_running()
        await stop(start)
        assert not await start.is_running()
        assert not await named("nobody", Counter).is_running()


@holds("names-1")
async def test_a_key_that_was_claimed_is_found_everywhere_and_once() -> None:
    async with ObservedNode(preload=("tests.servers.registered",)):
        rooms = [await spawn(Room) for _ in range(3)]
        claims = [Room.claim(room, "lobby") for room in rooms]
        done = await outcomes(*claims)
        assert done.count(None) == 1
        # The others crash, of the error in their handler, and are there again.
        assert done.count(ServerExitedError) == 2
        winner = rooms[done.index(None)]
        for room in rooms:
            assert await Room.find(room, "lobby") == winner


@holds("names-2")
async def test_a_key_is_free_before_anybody_hears_of_the_end() -> None:
    async with ObservedNode(preload=("tests.servers.registered",)) as node:
        watcher = await spawn(Room)
        for n in range(5):
            dying = await spawn(child(Room, f"key/{n}").options(restart="temporary"))
            await Room.watch_out_for(watcher, dying)
            node.kill(dying)
            while len(await Room.found_at_down(watcher)) <= n:
                pass
        assert await Room.found_at_down(watcher) == [[None, [], 0, []]] * 5


@holds("names-3")
async def test_no_change_of_metadata_is_lost() -> None:
    async with ObservedNode(preload=("tests.servers.registered",)):
        rooms = [await spawn(Room) for _ in range(3)]
        await ROOMS.register("lobby", rooms[0], metadata=0)
        await asyncio.gather(*(Room.count_up(room.within(60), "lobby", 10) for room in rooms))
        assert ROOMS.metadata("lobby") == 30


@holds("names-4")
async def test_a_watched_group_tells_of_its_members() -> None:
    async with ObservedNode(preload=("tests.servers.registered",)) as node:
        changes, members = PLAYERS.watch(), set[Ref[Any]]()
        rooms = [await spawn(child(Room).options(restart="temporary")) for _ in range(4)]
        for room in rooms:
            await Room.join(room)
        node.kill(rooms[0])
        await Room.leave(rooms[1])
        await node.event("crashed", rooms[0])
        while members != set(rooms[2:]):
            kind, ref = await anext(changes)
            (members.add if kind == "joined" else members.remove)(ref)


# --- time --------------------------------------------------------------------------------------


@holds("time-1")
async def test_a_call_has_a_time_limit(whistles: Whistles) -> None:
    started, release = whistles(), whistles()
    async with ObservedNode():
        journal = await spawn(Journal)
        assert journal.timeout == 5.0
        with pytest.raises(CallTimedOutError):
            await Journal.pause(journal.within(0.05), started.path, release.path)
        release.blow()
        assert await Journal.record(journal, 1) == 1


@holds("time-2")
async def test_none_is_no_limit(whistles: Whistles) -> None:
    started, release = whistles(), whistles()
    spec = child(Journal).options(init_timeout=None, shutdown=None)
    async with ObservedNode():
        journal = await spawn(spec)
        paused = Journal.pause(journal.within(None), started.path, release.path)
        await started.heard()
        stopping = asyncio.ensure_future(stop(journal, timeout=None))
        await journal.is_running()
        assert not stopping.done()
        release.blow()
        await stopping
        await paused


# --- start -------------------------------------------------------------------------------------


@holds("time-3")
async def test_a_nested_call_has_no_more_time_than_its_caller() -> None:
    async with ObservedNode():
        one, two = await spawn(Busy), await spawn(Busy)
        left = await Busy.ask_time_left(one.within(20.0), two, first_wait=True)
        in_thread = await Busy.ask_time_left_in_a_thread(one.within(20.0), two)
        in_executor = await Busy.ask_time_left_in_an_executor(one.within(20.0), two)
        assert left is not None
        assert in_thread is not None
        assert in_executor is not None
        assert max(left, in_thread) <= 20 < in_executor


@holds("time-4")
async def test_what_is_out_of_time_does_not_run(whistles: Whistles) -> None:
    coming, going = whistles(), whistles()
    async with ObservedNode():
        busy = await spawn(Busy)
        blocked = Busy.block(busy.within(None), coming.path, going.path)
        late = Busy.echo(busy.within(0.05), "late")
        await coming.heard()
        with pytest.raises(CallTimedOutError):
            await late
        going.blow()
        await blocked
        assert await Busy.notes(busy) == []
        begun = Busy.wait_and_note(busy.within(0.2), coming.path, going.path)
        await coming.heard()
        with pytest.raises(CallTimedOutError):
            await begun
        going.blow()
        assert await Busy.notes(busy) == ["went on", "cancelled: True"]


@holds("time-5")
async def test_a_cancelled_call_is_taken_back_or_its_handler_told(whistles: Whistles) -> None:
    coming = whistles()
    async with ObservedNode():
        busy = await spawn(Busy)
        waiting = Busy.wait(busy.within(None), coming.path)
        await coming.heard()
        waiting.cancel()
        assert await Busy.echo(busy, "next") == "next"
        spinning = Busy.spin_until_cancelled(busy.within(None), coming.path, 30.0)
        await coming.heard()
        spinning.cancel()
        assert await Busy.notes(busy) == ["cancelled", "next", "noticed"]


@holds("time-6")
async def test_a_circle_of_calls_is_found() -> None:
    async with ObservedNode():
        ring = [await spawn(Busy) for _ in range(3)]
        with pytest.raises(CallCycleError) as failure:
            await Busy.pass_on(ring[0].within(None), [*ring[1:], ring[0]])
        assert failure.value.path == ("Busy", "Busy", "Busy", "Busy")


@holds("time-7")
async def test_the_timers_of_an_incarnation_end_with_it(whistles: Whistles) -> None:
    heard = whistles()
    async with ObservedNode() as node:
        ticking = await spawn(Ticking, heard.path)
        await Ticking.every(ticking, "old", 0.01)
        await heard.heard()
        node.kill(ticking)
        await node.event("restarted", ticking)
        await Ticking.block(ticking, 0.05)
        assert await Ticking.all(ticking) == []


@holds("start-1")
async def test_continue_comes_before_any_message() -> None:
    async with ObservedNode():
        turns = await spawn(Turns, Continue("work"))
        assert await Turns.all(turns) == ["init", ("continue", "work")]


@holds("start-2")
async def test_a_failed_start_says_why() -> None:
    async with ObservedNode() as node:
        for how in ("raise", "raise in the constructor", "kill", "os._exit"):
            with pytest.raises(InitFailedError):
                await spawn(Start, how)
        assert await node.ps() == []


@pytest.mark.slow
@holds("start-3")
async def test_a_start_that_hangs_is_ended() -> None:
    async with ObservedNode() as node:
        for how in ("loop", "loop in C", "loop in the constructor"):
            with pytest.raises(InitTimedOutError):
                await spawn(child(Start, how).options(init_timeout=0.05))
        assert await node.ps() == []


@holds("start-4")
async def test_init_may_decline() -> None:
    async with ObservedNode(Supervisor(child(Start, "ignore"), child(Counter))) as node:
        with pytest.raises(InitFailedError, match="Ignore"):
            await spawn(Start, "ignore")
        with pytest.raises(InitFailedError, match="no work"):
            await spawn(Start, "stop")
        assert [row["server"] for row in await node.ps()] == ["Counter"]
        kept = {each.id: each.state for each in await supervisor("/").which_children()}
        assert kept == {"Start": "stopped", "Counter": "running"}


@holds("start-5")
async def test_a_failed_start_in_a_restart_is_an_exit(tmp_path: Path) -> None:
    async with ObservedNode():
        start = await spawn(Start, "raise unless first", str(tmp_path / "marker"))
        dying = Start.kill(start)
        assert await outcomes(dying) == [ServerExitedError]
        with pytest.raises(NoServerError) as failure:
            await Start.os_pid(start)
        assert failure.value.report is not None
        # A restart, and as many failed ones as are allowed.
        assert failure.value.report.incarnation == 5


@holds("start-6")
async def test_a_tree_that_fails_to_start_is_undone() -> None:
    names = [child(Counter).options(id=name) for name in "ab"]
    node = ObservedNode(Supervisor(*names, child(Start, "raise"), child(Counter)))
    with pytest.raises(InitFailedError):
        await node.start()
    await node.event("exited", nth=2)
    told = [(e.server, e.kind) for e in node.seen if e.kind in ("ready", "exited")]
    assert told == [("a", "ready"), ("b", "ready"), ("b", "exited"), ("a", "exited")]


# --- restart -----------------------------------------------------------------------------------


@holds("restart-1")
async def test_the_restart_type_decides() -> None:
    async with ObservedNode(Supervisor(child(Turns).options(name="permanent"))) as node:
        transient = await spawn(Turns)
        permanent = whereis("permanent", Turns)
        assert permanent is not None
        for ref in (permanent, transient):
            await Turns.reply_and(ref, Stop())
            await node.event("exited", ref)
        assert await Turns.all(permanent) == ["init"]
        assert not await transient.is_running()
        killed = await spawn(Counter)
        node.kill(killed)
        assert await Counter.increment(killed) == 1
        temporary = await spawn(child(Counter).options(restart="temporary"))
        node.kill(temporary)
        await node.event("crashed", temporary)
        assert not await temporary.is_running()


@holds("restart-2")
async def test_a_tree_gives_up() -> None:
    tree = Supervisor(child(Faulty).options(name="faulty"), child(Counter), max_restarts=1)
    async with ObservedNode(tree) as node:
        faulty = named("faulty", Faulty)
        for _ in range(2):
            with pytest.raises(ServerExitedError):
                await Faulty.kill(faulty)
        with pytest.raises(MaxRestartsExceededError):
            await node.wait()
    exited = [e.server for e in node.seen if e.kind == "exited"]
    assert exited == ["Counter"]


@holds("restart-3")
async def test_a_spawned_server_has_its_own_budget() -> None:
    async with ObservedNode() as node:
        neighbour, faulty = await spawn(Counter), await spawn(Faulty)
        for _ in range(4):
            with pytest.raises(ServerExitedError):
                await Faulty.kill(faulty)
        assert await outcomes(Faulty.all(faulty)) == [NoServerError]
        assert await Counter.increment(neighbour) == 1
        assert [row["server"] for row in await node.ps()] == ["Counter"]


@holds("restart-4")
async def test_a_restart_is_a_new_instance_of_the_same_spec() -> None:
    async with ObservedNode() as node:
        counter = await spawn(child(Counter, start=4).options(env={"NOEX_MP_TEST": "set"}))
        await Counter.increment(counter)
        node.kill(counter)
        assert await Counter.increment(counter) == 5
        assert await Counter.environment(counter, "NOEX_MP_TEST") == "set"


# --- monitors and links ------------------------------------------------------------------------


@holds("watch-1")
async def test_a_monitor_tells_of_one_end_once_behind_what_was_sent() -> None:
    async with ObservedNode():
        sender = await spawn(child(Watcher).options(name="sender", restart="temporary"))
        watcher = await spawn(Watcher)
        await Watcher.watch(watcher, sender)
        await Watcher.tell_and_die(sender, watcher, 200, "kill")
        *notes, down = await Watcher.heard(watcher, 201)
        assert notes == list(range(200))
        assert (down.ref, down.reason, down.restart) == (sender, Killed("SIGKILL"), None)
        assert whereis("sender", Watcher) is None


@holds("watch-2")
async def test_nobody_to_watch_is_said_at_once() -> None:
    async with ObservedNode():
        watcher = await spawn(Watcher, traps=True)
        await Watcher.watch(watcher, named("nobody", Watcher))
        await Watcher.link_with(watcher, named("nobody", Watcher))
        assert [each.reason for each in await Watcher.heard(watcher, 2)] == [NoServer()] * 2


@holds("watch-3")
async def test_a_watch_tells_of_every_end() -> None:
    async with ObservedNode() as node:
        one = await spawn(Watcher)
        ends = watch(one)
        for _ in range(2):
            await Watcher.os_pid(one)
            node.kill(one)
        await Watcher.os_pid(one)
        await stop(one)
        assert [down.restart async for down in ends] == [2, 3, None]


@holds("link-1")
async def test_all_of_a_chain_end_with_the_reason_of_the_first() -> None:
    async with ObservedNode() as node:
        one = await spawn(Watcher)
        two = await spawn(Watcher, links=one)
        three = await spawn(Watcher, links=two)
        ends = watch(three)
        await Watcher.os_pid(three)
        node.kill(one)
        assert (await anext(ends)).reason == Linked("Watcher", Killed("SIGKILL"))


@holds("link-2")
async def test_one_that_traps_exits_is_told_instead() -> None:
    async with ObservedNode():
        sender, trapping = await spawn(Watcher), await spawn(Watcher, traps=True)
        await Watcher.link_with(trapping, sender)
        await Watcher.tell_and_die(sender, trapping, 200, "kill")
        *notes, last = await Watcher.heard(trapping, 201)
        assert notes == list(range(200))
        assert (last.ref, last.reason) == (sender, Killed("SIGKILL"))


@holds("link-3")
async def test_an_exit_signal_ends_a_server_heeded_or_not(whistles: Whistles) -> None:
    spins = whistles()
    async with ObservedNode():
        one = await spawn(child(Watcher).options(shutdown=0.1))
        ends = watch(one)
        await one.exit(Crash("Stale", ""))
        call = Watcher.spin(one.within(None), spins.path)
        await spins.heard()
        await one.exit(Crash("Stale", "again"))
        assert [(await anext(ends)).reason for _ in range(2)] == [
            Crash("Stale", ""),
            Crash("Stale", "again"),
        ]
        with pytest.raises(ServerExitedError):
            await call


# --- stop --------------------------------------------------------------------------------------


@holds("restart-5")
async def test_a_group_shares_the_fate_of_one(tmp_path: Path) -> None:
    diary = tmp_path / "diary"
    tree = Supervisor(*(leaf(name, diary) for name in "abc"), strategy="rest_for_one")
    async with ObservedNode(tree) as node:
        c = await Leaf.me(named("c", Leaf))
        old = await Leaf.os_pid(c)
        node.kill(await Leaf.me(named("b", Leaf)))
        # It is called all the while, and nobody notices.
        pids = {await Leaf.os_pid(c.within(10)) for _ in range(50)}
        await node.event("restarted", c)
        assert diary.read_text().split() == ["+a", "+b", "+c", "-c", "+b", "+c"]
        new = await Leaf.os_pid(c)
        assert new != old
        assert pids <= {old, new}


@holds("restart-6")
async def test_the_supervisor_above_decides_over_one_that_gives_up(tmp_path: Path) -> None:
    diary = tmp_path / "diary"
    inner = Supervisor(leaf("b", diary), leaf("c", diary), max_restarts=0, id="inner")
    async with ObservedNode(Supervisor(leaf("a", diary), inner)) as node:
        c = await Leaf.me(named("c", Leaf))
        node.kill(await Leaf.me(named("b", Leaf)))
        await node.event("restarted", c)
        assert diary.read_text().split()[3:] == ["-c", "+b", "+c"]
        assert await Leaf.os_pid(c)


@holds("restart-7")
async def test_a_supervisor_whose_work_is_done_stops(tmp_path: Path) -> None:
    diary = tmp_path / "diary"
    work = leaf("work", diary, restart="transient", significant=True)
    tree = Supervisor(leaf("aid", diary), work, auto_shutdown="any_significant")
    async with ObservedNode(tree) as node:
        await Leaf.finish(named("work", Leaf))
        await node.wait()
        assert diary.read_text().split() == ["+aid", "+work", "-work", "-aid"]


@holds("restart-8")
async def test_a_terminated_child_can_be_started_again(tmp_path: Path) -> None:
    async with ObservedNode(Supervisor(leaf("a", tmp_path / "diary"))):
        a = await Leaf.me(named("a", Leaf))
        await supervisor("/").terminate_child("a")
        with pytest.raises(NoServerError):
            await Leaf.os_pid(a)
        assert await supervisor("/").restart_child("a") == a
        assert await Leaf.os_pid(a)


@holds("stop-1")
async def test_messages_sent_before_a_stop_are_handled_first(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    async with ObservedNode():
        journal = await spawn(Journal, str(path))
        for n in range(3000):
            Journal.note(journal, n)
        calls = [Journal.record_slowly(journal, n) for n in range(3000, 3050)]
        await stop(journal)
        assert await asyncio.gather(*calls) == list(range(3000, 3050))
    assert path.read_text() == f"{Shutdown()!r} {list(range(3050))!r}\n"


@holds("stop-2")
async def test_terminate_runs_at_a_stop_and_not_at_a_kill(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    async with ObservedNode() as node:
        journal = await spawn(Journal, str(path))
        node.kill(journal)
        await node.event("restarted", journal)
        assert not path.exists()
        await stop(journal, Shutdown("enough"))
        assert path.read_text() == "Shutdown(detail='enough') []\n"


@pytest.mark.slow
@holds("stop-3")
async def test_a_server_that_does_not_stop_is_ended() -> None:
    async with ObservedNode() as node:
        for deaf in (False, True):
            stubborn = await spawn(Stubborn, deaf)
            started = time.monotonic()
            await stop(stubborn, timeout=0.05)
            # SIGTERM is enough for the one; SIGKILL comes a second later for the other.
            assert (time.monotonic() - started > 1) is deaf
            report = (await node.event("exited", stubborn)).report
            assert report is not None
            assert report.reason == ShutdownTimedOut(0.05)


@holds("stop-4")
async def test_a_stop_is_for_good(tmp_path: Path, whistles: Whistles) -> None:
    in_init = whistles("marker.fifo")
    spec = child(Start, how="loop unless first", marker=str(tmp_path / "marker"))
    async with ObservedNode() as node:
        start = await spawn(spec.options(init_timeout=None, restart="permanent"))
        await Start.os_pid(start)
        node.kill(start)
        await in_init.heard()
        await asyncio.gather(stop(start), stop(start))
        await stop(start)
        assert await node.ps() == []


@holds("stop-5")
async def test_a_node_stops_in_reverse_order() -> None:
    tree = Supervisor(*(child(Counter).options(id=name) for name in "abc"))
    async with ObservedNode(tree) as node:
        for name in "de":
            await spawn(child(Counter).options(id=name))
    assert [e.server for e in node.seen if e.kind == "exited"] == list("edcba")


# --- processes ---------------------------------------------------------------------------------


@pytest.mark.slow
@holds("processes-1")
def test_nothing_outlives_the_root(tmp_path: Path) -> None:
    from tests.faults.test_root_killed import doomed_node

    with doomed_node(tmp_path, "uvloop") as (process, pidfds):
        process.kill()
        process.wait()
        assert wait_for_ends(pidfds) == []


@pytest.mark.parametrize("zygote", ["lives", "is dead"])
@holds("processes-2")
async def test_what_a_worker_started_ends_with_it(zygote: str) -> None:
    async with ObservedNode() as node:
        faulty = await spawn(Faulty)
        started = [await Faulty.grandchild(faulty), await Faulty.escaped_grandchild(faulty)]
        pidfds = [os.pidfd_open(os_pid) for os_pid in started]
        if zygote == "is dead":
            os.kill(node.zygote, signal.SIGKILL)
        node.kill(faulty)
        assert await asyncio.to_thread(wait_for_ends, pidfds) == []
        for pidfd in pidfds:
            os.close(pidfd)


@holds("processes-3")
async def test_a_death_costs_no_other_server_anything() -> None:
    async with ObservedNode() as node:
        faulty, counter = await spawn(Faulty), await spawn(Counter)
        os_pid = await Counter.os_pid(counter)
        calls = [Counter.increment(counter) for _ in range(50)]
        dying = Faulty.segfault(faulty)
        calls += [Counter.increment(counter) for _ in range(50)]
        assert await outcomes(dying) == [ServerExitedError]
        assert await asyncio.gather(*calls) == list(range(1, 101))
        assert await Counter.os_pid(counter) == os_pid
        await node.event("restarted", faulty)
        assert [e.server for e in node.seen if e.kind == "crashed"] == ["Faulty"]


@pytest.mark.slow
@holds("processes-8")
async def test_servers_of_one_placement_share_a_worker_and_its_death() -> None:
    tree = Supervisor(
        *(child(Faulty).options(id=n, name=n, placement="rooms") for n in "abc"), max_restarts=2
    )
    async with ObservedNode(tree) as node:
        one, two, three = (named(n, Faulty) for n in "abc")
        os_pid = await Faulty.os_pid(one)
        with pytest.raises(ServerExitedError):
            await Faulty.fail(two, "two arguments")
        assert [await Faulty.os_pid(n) for n in (one, two, three)] == [os_pid] * 3
        with pytest.raises(ServerExitedError):
            await Faulty.kill(one)
        again = {await Faulty.os_pid(n) for n in (one, two, three)}
        assert len(again) == 1
        assert again != {os_pid}
        dead = [e.report for e in node.seen if e.kind == "crashed"][1:]
        assert [r and (r.reason, r.os_pid) for r in dead] == [(Killed("SIGKILL"), os_pid)] * 3


@holds("processes-4")
async def test_the_death_of_the_zygote_costs_nobody_anything() -> None:
    async with ObservedNode() as node:
        faulty, counter = await spawn(Faulty), await spawn(Counter)
        os.kill(node.zygote, 9)
        assert await Counter.increment(counter) == 1
        assert await Counter.increment(await spawn(Counter)) == 1
        assert await outcomes(Faulty.kill(faulty)) == [ServerExitedError]
        assert await Faulty.echo(faulty, 1) == 1


@holds("processes-5")
async def test_the_death_of_a_caller_does_not_disturb_the_server(whistles: Whistles) -> None:
    started, release = whistles(), whistles()
    async with ObservedNode() as node:
        journal, calling = await spawn(Journal), await spawn(Caller)
        os_pid = await Journal.os_pid(journal)
        asked = Caller.pause(calling.within(None), journal, started.path, release.path)
        await started.heard()
        node.kill(calling)
        assert await outcomes(asked) == [ServerExitedError]
        release.blow()
        assert await Journal.os_pid(journal) == os_pid


ENDS = """
import asyncio
from noex_mp import child, spawn
from tests.servers.counters import Journal

if __name__ == "__main__":
    loop = asyncio.new_event_loop()
    # Not even a long time limit of a start that is over keeps it up.
    loop.run_until_complete(spawn(child(Journal, {path!r}).options(init_timeout=600)))
"""


@pytest.mark.slow
@holds("processes-6")
def test_a_program_that_just_ends_stops_its_servers(tmp_path: Path) -> None:
    script, path = tmp_path / "script.py", tmp_path / "journal"
    script.write_text(ENDS.format(path=str(path)))
    environ = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    subprocess.run([sys.executable, str(script)], env=environ, check=True, timeout=15)
    assert path.read_text() == "Shutdown(detail='the node is stopping') []\n"


@holds("processes-7")
async def test_a_blocked_loop_delays_no_restart(whistles: Whistles, tmp_path: Path) -> None:
    spec = child(Start, how="loop unless first", marker=str(tmp_path / "marker"))
    in_init = whistles("marker.fifo")
    async with ObservedNode() as node:
        start = await spawn(spec.options(init_timeout=None))
        node.kill(start)
        # Blocks our loop until the next incarnation is in its init.
        in_init.wait()
        await stop(start)


@holds("processes-9")
async def test_a_process_that_a_handler_forks_is_no_second_server(tmp_path: Path) -> None:
    async with ObservedNode(preload=(*SERVERS, "tests.servers.hostile")):
        hostile = await spawn(Hostile)
        log = tmp_path / "log"
        forking = Hostile.fork(hostile, "return", str(tmp_path / "forked"))
        behind = [Hostile.log_step(hostile, n, str(log)) for n in range(3)]
        await asyncio.gather(forking, *behind)
        assert await Hostile.child_status(hostile) == 70
        assert log.read_text().split() == ["0", "1", "2"]


# --- applications ------------------------------------------------------------------------------


@holds("application-1")
@pytest.mark.parametrize("order", ["", "raise"])
async def test_an_application_has_one_order_of_life(tmp_path: Path, order: str) -> None:
    async with Node(application(Told(str(tmp_path), prep_stop=order))):
        pass
    assert diary(tmp_path) == ["start", "+a", "+b", "prep_stop", "-b", "-a", "stop"]


@holds("application-2")
async def test_a_failed_start_of_an_application_leaves_nothing(tmp_path: Path) -> None:
    async with Node() as node:
        with pytest.raises(InitFailedError):
            await start_application(application(Told(str(tmp_path), start="raise")))
        assert await node.ps() == []
        await start_application(application(Told(str(tmp_path))))


@holds("application-3")
async def test_applications_start_and_stop_by_what_they_depend_on(tmp_path: Path) -> None:
    def of(name: str, *needs: Application[Any]) -> Application[Any]:
        tree = Supervisor(child(Leaf, name, str(tmp_path / "diary")))
        return Application[Any](name, tree, depends_on=needs)

    db = of("db")
    async with Node(applications(of("web", of("cache", db), db))):
        pass
    assert diary(tmp_path) == ["+db", "+cache", "+web", "-web", "-cache", "-db"]


@holds("application-4")
async def test_an_application_has_its_strongest_options(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "shop.toml"
    file.write_text(f'[shop]\nfolder = "{tmp_path}"\nstart = "raise"\nstop = "raise"\n')
    monkeypatch.setenv("SHOP_START", "wait")
    shop = Application("shop", Supervisor(), config=Told)
    config = shop.configured(file=file, arguments=["start=x"]).configuration()
    assert config == Told(str(tmp_path), start="x", stop="raise")
    with pytest.raises(BadConfigError, match="has 2 mistakes"):
        shop.configured(arguments=["strat=x"])


@holds("application-5")
async def test_a_node_is_ready_while_its_applications_run(tmp_path: Path) -> None:
    async with Node(Supervisor(application(Told(str(tmp_path))))) as node:
        assert (await node.health()).ready
        leaf: Ref[Leaf] = named("a", Leaf)
        os.kill(await Leaf.os_pid(leaf), signal.SIGKILL)
        assert await Leaf.os_pid(leaf)
        assert (await node.health()).ready
        await supervisor("/").terminate_child("shop")
        assert (await node.health()).not_ready == ("application shop is stopped",)


# --- output and reports ------------------------------------------------------------------------


@holds("output-1")
async def test_the_last_line_before_a_kill_is_passed_on() -> None:
    async with ObservedNode() as node:
        faulty = await spawn(Faulty)
        assert await outcomes(Faulty.say_and_kill(faulty, "my last words")) == [ServerExitedError]
        assert await node.line("my last words") == "my last words\n"


@holds("output-2")
async def test_every_end_has_a_report() -> None:
    async with ObservedNode() as node:
        faulty: Ref[Faulty] = await spawn(Faulty)
        for deed, reason in (
            (Faulty.kill, Killed("SIGKILL")),
            (Faulty.abort, Killed("SIGABRT")),
        ):
            os_pid = await Faulty.os_pid(faulty)
            with pytest.raises(ServerExitedError) as failure:
                await deed(faulty)
            report = failure.value.report
            assert (report.reason, report.os_pid, report.requested) == (reason, os_pid, False)
            assert report.next == "restarting"
        await stop(faulty)
        last = (await node.event("exited", faulty)).report
        assert last is not None
        assert (last.reason, last.incarnation, last.requested) == (Shutdown(), 3, True)


@holds("output-3")
async def test_a_crash_of_the_interpreter_leaves_its_stack() -> None:
    async with ObservedNode():
        faulty = await spawn(Faulty)
        with pytest.raises(ServerExitedError) as failure:
            await Faulty.segfault(faulty)
        assert failure.value.report.reason == Killed("SIGSEGV")
        assert "in segfault" in failure.value.report.stack


@holds("output-5")
@pytest.mark.linux_only("no real-time signals")
async def test_a_server_that_we_kill_says_where_it_hung() -> None:
    async with ObservedNode() as node:
        with pytest.raises(InitTimedOutError):
            await spawn(child(Start, how="loop in C").options(init_timeout=0.3))
        assert "in match" in (await node.exits())[-1].stack


@holds("output-6")
async def test_the_report_of_a_death_names_the_message() -> None:
    async with ObservedNode() as node:
        faulty = await spawn(Faulty)
        with pytest.raises(ServerExitedError) as failure:
            await Faulty.kill(faulty)
        message = failure.value.report.message
        assert message is not None
        assert message.operation == "kill"
        await Faulty.os_pid(faulty)
        node.kill(faulty)
        idle = (await node.event("crashed", faulty, nth=2)).report
        assert idle is not None
        assert idle.message is None


@holds("output-7")
async def test_a_report_is_bounded() -> None:
    async with ObservedNode():
        faulty = await spawn(Faulty)
        with pytest.raises(ServerExitedError) as failure:
            await Faulty.fail(faulty, "big")
        assert len(Encoder(allow_pickle=False).pack(failure.value.report)) < 16 * 1024


@holds("output-4")
def test_a_reader_that_hangs_delays_nothing() -> None:
    read_end, write_end = os.pipe()
    code = (
        "import asyncio, os, signal\n"
        "from tests.nodes.observed import *; from tests.servers.faulty import Faulty\n"
        "from noex_mp import Node, ServerExitedError, spawn\n"
        "async def main():\n"
        "    async with Node(preload=SERVERS):\n"
        "        faulty = await spawn(Faulty)\n"
        "        for _ in range(3):\n"
        # More than a pipe holds.
        "            try: await Faulty.say_and_kill(faulty, 'x' * 100_000)\n"
        "            except ServerExitedError: pass\n"
        "    os._exit(7)\n"
        "asyncio.run(main())\n"
    )
    try:
        done = subprocess.run(
            [sys.executable, "-c", code],
            cwd=REPOSITORY,
            stderr=write_end,
            timeout=15,
            check=False,
        )
    finally:
        os.close(read_end)
        os.close(write_end)
    assert done.returncode == 7


# --- events ------------------------------------------------------------------------------------


async def _life_of_a_server() -> list[Event]:
    node = Node(preload=SERVERS)
    stream = node.events()
    async with node:
        counter = await spawn(child(Counter).options(name="visits"))
        [shown] = await node.ps()
        os.kill(shown["os_pid"], signal.SIGKILL)
        assert await Counter.increment(counter) == 1
    return [event async for event in stream]


@holds("limits-1")
@pytest.mark.linux_only("nobody says what a process is doing")
async def test_a_handler_that_hangs_is_ended_and_a_busy_one_is_not() -> None:
    async with ObservedNode():
        hangs, busy = await spawn(child(Hangs).options(hang_timeout=0.2)), await spawn(Hangs)
        napping, begun = Hangs.nap(busy, 1.0), time.monotonic()
        with pytest.raises(ServerExitedError) as failure:
            await Hangs.loop(hangs)
        assert 0.2 <= time.monotonic() - begun < 1
        assert failure.value.report.reason == Hung(0.2, "python", "", "loop")
        assert await napping == 1.0


@holds("limits-2")
@pytest.mark.linux_only("it has no such limit")
async def test_memory_is_limited_during_the_handler_and_pressure_told_before() -> None:
    async with ObservedNode():
        eats = await spawn(child(Eats).options(memory_limit="96MiB"))
        await Eats.eat(eats, 84)
        while not (heard := await Eats.heard(eats)):
            pass
        assert isinstance(heard[0], MemoryPressure)
        with pytest.raises(ServerExitedError) as failure:
            await Eats.nibble(eats, 128)
        assert isinstance(failure.value.report.reason, OutOfMemory)
        assert failure.value.report.rule == "memory_limit"


@holds("limits-3")
@pytest.mark.linux_only("it has no such limit")
async def test_lack_of_memory_has_its_own_budget_or_escalates() -> None:
    limits: dict[str, Any] = {"memory_limit": "96MiB"}
    patient = child(Eats).options(name="patient", **limits)
    strict = child(Eats).options(name="strict", on_oom="escalate", **limits)
    tree = Supervisor(
        Supervisor(patient, id="one", max_restarts=0, max_ooms=1),
        Supervisor(strict, name="two", max_ooms=9),
    )
    async with ObservedNode(tree) as node:
        for name in ("patient", "strict"):
            with pytest.raises(ServerExitedError):
                await Eats.eat(named(name, Eats), 1024)
            await Eats.heard(named(name, Eats))
        assert [e.name for e in node.seen if e.kind == "gave_up"] == ["two"]


@holds("events-1")
async def test_events_are_told_in_order_up_to_the_last() -> None:
    assert [event.kind for event in await _life_of_a_server() if event.name == "visits"] == [
        *("name_claimed", "started", "ready"),
        *("crashed", "restarting", "started", "ready", "restarted"),
        *("stopping", "name_freed", "exited"),
    ]


@holds("events-2")
async def test_a_name_is_free_before_an_end_is_told() -> None:
    visits = child(Counter).options(name="visits", restart="temporary")
    async with Node(preload=SERVERS) as node:
        heard: list[str] = []
        free: asyncio.Future[Ref[Counter]] = asyncio.get_running_loop().create_future()

        async def take_the_name() -> None:
            free.set_result(await spawn(visits))

        def listen(event: Event) -> None:
            heard.append(event.kind)
            if event.kind == "crashed":
                tasks.append(asyncio.create_task(take_the_name()))

        tasks: list[asyncio.Task[None]] = []
        await spawn(visits)
        node.on_event(listen)
        [shown] = await node.ps()
        os.kill(shown["os_pid"], signal.SIGKILL)
        assert await Counter.increment(await free) == 1
    assert heard[:2] == ["name_freed", "crashed"]


@holds("events-3")
async def test_a_listener_that_is_slow_or_raises_delays_nothing() -> None:
    def fail(event: Event) -> None:
        raise ValueError("the listener's own")

    async with Node(preload=SERVERS) as node:
        stream = node.events(buffer=2)
        node.on_event(fail)
        counter = await spawn(Counter)
        await stop(counter)
        # It has not been read until now.
        last = [await anext(stream), await anext(stream)]
        assert [(event.kind, event.missed) for event in last] == [("stopping", 2), ("exited", 0)]


# --- reload ------------------------------------------------------------------------------------


@holds("reload-1")
async def test_a_reload_replaces_servers_and_fails_no_call(app: App) -> None:
    async with ObservedNode(app.tree("abc")) as node:
        app.write(2)
        calls = [app.server.number(app.at(name), n) for n in range(1, 100) for name in "abc"]
        assert (await node.reload()).replaced == 3
        assert await asyncio.gather(*calls) == [True] * len(calls)
        assert await app.versions("abc") == [2] * 3


@holds("reload-2")
async def test_a_replaced_server_keeps_its_ref_and_uses_no_budget(app: App) -> None:
    async with ObservedNode(app.tree("a", max_restarts=0)) as node:
        [before] = await supervisor("/").which_children()
        await node.reload()
        [after] = await supervisor("/").which_children()
        assert after.ref == before.ref
        app.write(2)
        await node.reload()
        assert await app.server.version(before.ref) == 2


@holds("reload-3")
async def test_new_code_that_fails_leaves_the_old_one(app: App) -> None:
    async with ObservedNode(app.tree("ab")) as node:
        app.write(2, init='if self.name == "b": raise ValueError("no b")')
        with pytest.raises(ReloadFailedError) as failure:
            await node.reload()
        assert failure.value.server == "b"
        assert await app.versions("ab") == [1, 1]


# --- stopping tasks ----------------------------------------------------------------------------


@holds("stopping-1")
@pytest.mark.parametrize(("task", "rung"), LADDER)
async def test_a_task_that_runs_is_stopped_by_the_first_rung_that_does_it(
    task: Callable[[Path], object], rung: str, tmp_path: Path
) -> None:
    started = tmp_path / "started"
    async with Node(), Pool(size=1, grace=0.1) as pool:
        before = await pool.run(pid)
        future = pool.run(task, started)
        await there(started)
        assert future.cancel()
        assert future.cancelled()
        assert await future.stopped() == rung
        assert (await pool.run(pid) == before) == (rung != "kill")


@holds("stopping-2")
async def test_a_task_that_was_sent_ahead_is_dropped_before_it_runs(tmp_path: Path) -> None:
    gate = Gate(tmp_path)
    async with Node(), Pool(size=1) as pool:
        await asyncio.gather(*(pool.run(double, n) for n in range(500)))
        first = pool.run(wait_for, *gate.arguments)
        ahead = [pool.run(mark, tmp_path / f"mark-{n}") for n in range(6)]
        await gate.begun()
        for future in ahead[::2]:
            future.cancel()
        # They are known to be dropped while the first one runs.
        assert [await future.stopped() for future in ahead[::2]] == ["dropped"] * 3
        assert not first.done()
        await gate.open()
        await asyncio.gather(first, *ahead[1::2])
        assert await pool.run(double, 2) == 4
        assert marks(tmp_path) == ["mark-1", "mark-3", "mark-5"]


@holds("stopping-3")
async def test_a_stop_at_the_very_end_hits_no_other_task() -> None:
    chance = random.Random(20)
    ends: list[str] = []
    async with Node(), Pool(size=2, grace=0.0005) as pool:
        for _ in range(150):
            victims = [pool.run(spin, chance.uniform(0, 0.003)) for _ in range(2)]
            others = [pool.run(double, n) for n in range(20)]
            await asyncio.sleep(chance.uniform(0, 0.004))
            for future in victims:
                future.cancel()
            assert await asyncio.gather(*others) == list(range(0, 40, 2))
            ends += [await future.stopped() for future in victims if future.cancelled()]
    assert "exception" in ends


# --- recycling ------------------------------------------------------------------------------------


@holds("recycling-1")
async def test_there_are_never_fewer_processes_than_the_pool_has_lanes() -> None:
    up: list[int] = []

    def count(event: Event) -> None:
        if event.server.startswith("lane-"):
            if event.kind == "ready":
                up.append(up[-1] + 1 if up else 1)
            elif event.kind == "stopping":
                up.append(up[-1] - 1)

    async with Node() as node:
        node.on_event(count)
        async with Pool(size=2, max_tasks_per_child=1) as pool:
            results = await asyncio.gather(*(pool.run(double, n) for n in range(10)))
            assert results == list(range(0, 20, 2))
            seen = list(up)
    assert len(seen) > 10
    assert min(seen[1:]) == 2


# --- limits of the system ----------------------------------------------------------------------


def _with_256_descriptors(scenario: str) -> None:
    subprocess.run(
        [sys.executable, "-m", "tests.faults.few_descriptors", scenario, "uvloop"],
        cwd=REPOSITORY,
        timeout=18,
        check=True,
    )


@holds("system-1")
@pytest.mark.parametrize(
    "scenario",
    [
        "the_limit_is_met_by_a_typed_error_and_life_goes_on",
        "servers_that_nobody_has_called_yet_can_be_called",
        "a_call_that_gets_no_link_says_so_in_the_log",
    ],
)
def test_a_start_that_would_take_the_last_descriptors_is_refused(scenario: str) -> None:
    _with_256_descriptors(scenario)


@holds("system-2")
def test_a_restart_waits_for_descriptors() -> None:
    _with_256_descriptors("a_program_that_eats_all_descriptors_delays_restarts_and_no_more")
