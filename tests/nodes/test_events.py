"""What a program hears of its servers: `node.events()` and `node.on_event(...)`."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import threading
from collections.abc import AsyncIterator, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from noex_mp import (
    AlreadyRegisteredError,
    Backoff,
    ConfigError,
    Event,
    InitFailed,
    Killed,
    MailboxFullError,
    Node,
    NoNodeError,
    Ref,
    Shutdown,
    Supervisor,
    SupervisorRef,
    child,
    current_node,
    named,
    registry,
    shutdown,
    spawn,
    stop,
    supervisor,
    sync,
    watch,
)
from noex_mp.node import events as node_events
from noex_mp.node.listeners import Listeners
from tests.nodes.observed import SERVERS, Whistles, on_both_loops
from tests.nodes.test_trees import at, diary, leaf
from tests.servers.busy import Busy, Rejects
from tests.servers.counters import Counter
from tests.servers.threads import Threaded
from tests.servers.trees import Leaf

__all__ = ["diary"]


def an_event(number: int) -> Event:
    ref = Ref[Any]("node", number)
    return Event(kind="ready", ref=ref, server="visits", incarnation=number, time=0.0)


def numbers(events: Iterable[Event]) -> list[tuple[int, int]]:
    return [(event.incarnation, event.missed) for event in events]


def kinds(events: Iterable[Event], ref: Ref[Any] | SupervisorRef) -> list[str]:
    return [event.kind for event in events if event.ref == ref]


async def until(stream: AsyncIterator[Event], kind: str, ref: object = None) -> list[Event]:
    """Return the events up to the first of a kind, of one server or of any."""
    heard: list[Event] = []
    async for event in stream:
        heard.append(event)
        if event.kind == kind and ref in (None, event.ref):
            return heard
    raise AssertionError(f"no {kind} in {heard}")


async def kill(node: Node, ref: Ref[Any]) -> None:
    [os_pid] = [server["os_pid"] for server in await node.ps() if server["sid"] == ref.sid]
    os.kill(os_pid, signal.SIGKILL)


# --- what is told ------------------------------------------------------------------------------


@on_both_loops
async def test_the_life_of_a_server_is_told_in_order() -> None:
    node = Node(Supervisor(child(Counter).options(name="visits")), preload=SERVERS)
    stream = node.events()
    async with node:
        [server] = await node.ps()
        visits = Ref[Counter](node.id, server["sid"])
        await kill(node, visits)
        heard = await until(stream, "restarted")
    heard += [event async for event in stream]
    assert {event.ref for event in heard} == {visits}
    assert {(event.server, event.name) for event in heard} == {("visits", "visits")}
    killed, stopped = Killed("SIGKILL"), Shutdown("the node is stopping")
    assert [(e.kind, e.incarnation, e.attempt, e.reason) for e in heard] == [
        ("name_claimed", 0, 0, None),
        ("started", 1, 1, None),
        ("ready", 1, 1, None),
        ("crashed", 1, 0, killed),
        ("restarting", 2, 1, killed),
        ("started", 2, 1, None),
        ("ready", 2, 1, None),
        ("restarted", 2, 1, None),
        ("stopping", 2, 0, stopped),
        ("name_freed", 2, 0, None),
        ("exited", 2, 0, stopped),
    ]
    assert heard == sorted(heard, key=lambda event: event.time)
    assert {e.os_pid for e in heard if e.incarnation == 1} == {server["os_pid"]}
    reports = {e.kind: e.report for e in heard if e.report is not None}
    assert {kind: report.next for kind, report in reports.items()} == {
        "crashed": "restarting",
        "exited": "stays down",
    }


async def test_failed_starts_supervisors_and_groups_are_told(diary: Path) -> None:
    front = Supervisor(
        leaf("a", diary),
        leaf("shy", diary, backoff=Backoff(first=0.01, factor=2, jitter=0)),
        strategy="one_for_all",
        id="front",
        name="front",
        max_restarts=1,
    )
    async with Node(Supervisor(front), preload=("tests.servers.trees",)) as node:
        stream = node.events()
        a, shy = await Leaf.me(at("a")), await Leaf.me(at("shy"))
        above = await supervisor("/").get_child("front")
        assert isinstance(above, SupervisorRef)

        diary.with_suffix(".fail").write_text("x")
        await kill(node, shy)
        heard = await until(stream, "restarted", shy)
        assert kinds(heard, a) == [
            "stopping", "exited", "restarting", "started", "ready", "restarted",
            "stopping", "exited", "restarting", "started", "ready", "restarted",
        ]  # fmt: skip
        assert [(e.kind, e.attempt, e.delay) for e in heard if e.ref == shy] == [
            ("crashed", 0, 0),
            ("restarting", 1, 0.01),
            ("started", 1, 0),
            ("crashed", 1, 0),
            ("restarting", 2, 0.02),
            ("started", 2, 0),
            ("ready", 2, 0),
            ("restarted", 2, 0),
        ]
        [failed] = [e.reason for e in heard if e.ref == shy and e.kind == "crashed"][1:]
        assert isinstance(failed, InitFailed)

        # One more is too many: the supervisor above starts all of it again.
        await kill(node, a)
        heard = await until(stream, "restarted", above)
        assert kinds(heard, above) == [
            "gave_up", "exited", "restarting", "started", "ready", "restarted",
        ]  # fmt: skip
        [gave_up] = [event for event in heard if event.kind == "gave_up"]
        assert gave_up.reason == Killed("SIGKILL")
        assert "front" in gave_up.detail
        assert kinds(heard, a) == ["crashed", "restarting", "started", "ready", "restarted"]

        with pytest.raises(Exception, match="bad by name"):
            await supervisor("/").start_child(leaf("bad", diary))
        heard = await until(stream, "not_started")
        assert [event.kind for event in heard] == [
            "name_claimed", "started", "name_freed", "not_started",
        ]  # fmt: skip


async def test_one_that_waits_for_its_group_and_is_stopped_is_told_to_be_gone(
    diary: Path,
) -> None:
    slow = leaf("shy", diary, backoff=Backoff(first=60, jitter=0))
    tree = Supervisor(leaf("a", diary), slow, strategy="one_for_all")
    async with Node(tree, preload=("tests.servers.trees",)) as node:
        stream = node.events()
        a, shy = await Leaf.me(at("a")), await Leaf.me(at("shy"))
        await kill(node, shy)
        await until(stream, "restarting", shy)
        await supervisor("/").terminate_child("a")
        heard = await until(stream, "exited", a)
        assert kinds(heard, a) == ["name_freed", "exited"]
        report = heard[-1].report
        assert report is not None
        assert report.next == "stays down"


async def test_a_spawned_server_that_dies_too_often_has_an_event_of_its_own() -> None:
    async with Node(preload=SERVERS) as node:
        stream = node.events()
        counter = await spawn(Counter)
        for _ in range(4):
            await Counter.increment(counter)
            await kill(node, counter)
        heard = await until(stream, "gave_up", counter)
        assert kinds(heard, counter)[-2:] == ["crashed", "gave_up"]
        assert heard[-1].reason == Killed("SIGKILL")
        await until(stream, "started", await spawn(Counter))


async def test_a_full_mailbox_is_told_of_and_what_it_refuses_is_counted(
    whistles: Whistles, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(node_events, "FULL_AGAIN", 0.05)
    coming, goings = whistles(), (whistles(), whistles())
    async with Node(preload=("tests.servers.busy",)) as node:
        rejects, waits = await spawn(Rejects), await spawn(child(Busy).options(max_messages=10))
        stream = node.events()
        both = zip((rejects.within(None), waits.within(None)), goings, strict=True)
        blocked = [Busy.block(ref, coming.path, going.path) for ref, going in both]
        await coming.heard()
        await coming.heard()

        casts = [Busy.note(waits, n) for n in range(100)]
        heard = (await until(stream, "mailbox_full"))[-1]
        assert (heard.ref, heard.count) == (waits, 0)

        refused = 0
        while refused < 100:
            try:
                Busy.note.nowait(rejects, 1)
            except MailboxFullError:
                refused += 1
                # Each in a turn of its own, and in a frame.
                await asyncio.sleep(0)
        counts: list[int] = []
        while sum(counts) < refused:
            counts.append((await until(stream, "mailbox_full", rejects))[-1].count)
        assert sum(counts) == refused
        assert len(counts) < refused / 4
        for going in goings:
            going.blow()
        await asyncio.gather(*blocked, *casts)


# --- streams -----------------------------------------------------------------------------------


async def test_who_is_slow_loses_the_oldest_and_is_told_how_many() -> None:
    listeners = Listeners()
    slow, other = listeners.stream(buffer=3), listeners.stream(buffer=100)
    for number in range(10):
        listeners.hear(an_event(number))
    assert [(await anext(slow)).missed, (await anext(slow)).missed] == [7, 0]
    for number in range(10, 13):
        listeners.hear(an_event(number))
    listeners.close()
    assert numbers([event async for event in slow]) == [(10, 1), (11, 0), (12, 0)]
    assert numbers([event async for event in other]) == [(n, 0) for n in range(13)]


async def test_each_task_has_a_stream_of_its_own() -> None:
    listeners = Listeners()
    one, two = listeners.stream(10), listeners.stream(10)
    waiting = [asyncio.ensure_future(anext(stream)) for stream in (one, two)]
    await asyncio.sleep(0)
    with pytest.raises(RuntimeError, match="another task waits"):
        await anext(one)
    threading.Thread(target=listeners.hear, args=(an_event(1),)).start()
    assert numbers(await asyncio.gather(*waiting)) == [(1, 0), (1, 0)]

    # One that is cancelled loses nothing.
    waiting = [asyncio.ensure_future(anext(stream)) for stream in (one, two)]
    await asyncio.sleep(0)
    listeners.hear(an_event(2))
    waiting[0].cancel()
    assert numbers([await anext(one), await waiting[1]]) == [(2, 0), (2, 0)]


async def test_who_leaves_the_loop_does_not_listen_any_more() -> None:
    listeners = Listeners()
    for _ in range(3):
        listeners.hear(an_event(0))
        stream = listeners.stream(10)
        listeners.hear(an_event(1))
        async for event in stream:
            assert event.incarnation == 1
            break
        del stream
        gc.collect()
        assert [known() for known in listeners._streams] == [None]  # pyright: ignore[reportPrivateUsage]


async def test_an_event_is_made_only_for_somebody(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []

    def counted(**fields: Any) -> Event:
        made.append(fields["kind"])
        return Event(**fields)

    monkeypatch.setattr(node_events, "Event", counted)
    async with Node(preload=SERVERS) as node:
        counter = await node.spawn(Counter)
        await registry.register("visits", counter)
        assert made == []
        stream = node.events()
        await registry.unregister("visits")
        assert [(await anext(stream)).kind, *made] == ["name_freed", "name_freed"]
        del stream
        gc.collect()
        await registry.register("visits", counter)
        assert made == ["name_freed"]
        # That is for the log, in any case.
        death = watch(counter)
        await kill(node, counter)
        await anext(death)
        # The next one is up behind it.
        assert await Counter.increment(counter) == 1
        assert made == ["name_freed", "crashed"]


async def test_a_stream_ends_with_its_node_and_at_once_after_that() -> None:
    node = Node(preload=SERVERS)
    reading = asyncio.create_task(_all_of(node))
    async with node:
        counter = await node.spawn(Counter)
        await stop(counter)
    assert kinds(await reading, counter) == ["started", "ready", "stopping", "exited"]
    assert await _all_of(node) == []


async def _all_of(node: Node) -> list[Event]:
    return [event async for event in node.events()]


async def test_a_start_that_fails_ends_the_stream(diary: Path) -> None:
    node = Node(Supervisor(leaf("bad", diary)), preload=("tests.servers.trees",))
    stream = node.events()
    with pytest.raises(Exception, match="bad by name"):
        await node.start()
    assert [event.kind async for event in stream] == [
        "name_claimed", "started", "name_freed", "not_started",
    ]  # fmt: skip


@pytest.mark.parametrize("buffer", [0, -1, None, "many"])
def test_a_buffer_has_room_for_an_event(buffer: Any) -> None:
    node = Node()
    for listen in (node.events, node.blocking_events, partial(node.on_event, print)):
        with pytest.raises(ConfigError, match="expected buffer to be a number of events"):
            listen(buffer)


# --- callbacks ---------------------------------------------------------------------------------


@on_both_loops
async def test_callbacks_run_in_the_loop_and_may_raise(caplog: pytest.LogCaptureFixture) -> None:
    heard: list[tuple[threading.Thread, Event]] = []
    late: list[Event] = []
    node = Node(preload=SERVERS)
    node.on_event(lambda event: heard.append((threading.current_thread(), event)))
    broken = node.on_event(_raise)
    with caplog.at_level(logging.ERROR, "noex_mp"):
        async with node:
            stop_listening = node.on_event(late.append)
            stop_listening()
            stop_listening()
            counter = await spawn(Counter)
            await asyncio.sleep(0)
            broken()
            await stop(counter)
    assert {thread for thread, _ in heard} == {threading.current_thread()}
    assert kinds((event for _, event in heard), counter) == [
        "started", "ready", "stopping", "exited",
    ]  # fmt: skip
    assert late == []
    complaints = [record for record in caplog.records if "failed" in record.getMessage()]
    assert len(complaints) == 2
    assert complaints[0].exc_info is not None
    node.on_event(late.append)
    assert late == []


def _raise(event: Event) -> None:
    raise ValueError("the listener's own")


def test_what_cannot_be_called_is_refused() -> None:
    node = Node()
    with pytest.raises(TypeError, match=r"async for event in node.events\(\)"):
        node.on_event(_coroutine)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    with pytest.raises(TypeError, match="expected a function that takes an Event"):
        node.on_event("no function")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


async def _coroutine(event: Event) -> None:
    raise AssertionError


def test_a_blocking_program_listens_in_threads_that_harm_nobody() -> None:
    goes_on, heard = threading.Event(), list[Event]()
    read: list[Event] = []
    threads: set[str] = set()

    def listen(event: Event) -> None:
        threads.add(threading.current_thread().name)
        assert goes_on.wait(10)
        heard.append(event)

    with Node(preload=SERVERS) as node:
        stream = node.events()
        reader = threading.Thread(target=lambda: read.extend(stream))
        reader.start()
        node.on_event(listen)
        counter = node.spawn(Counter)
        # The listener stands still; the servers do not.
        for _ in range(2):
            os.kill(node.ps()[0]["os_pid"], signal.SIGKILL)
            assert Counter.increment.sync(counter) == 1
        assert heard == []
        assert sync.current_node().id == node.id
        goes_on.set()
    reader.join(10)
    assert kinds(heard, counter).count("restarted") == 2
    assert heard == read
    assert threads == {"noex-mp events"}


# --- the node that nobody has named ------------------------------------------------------------


async def test_the_implicit_node_can_be_listened_to() -> None:
    with pytest.raises(NoNodeError):
        current_node()
    counter = await spawn(Counter)
    heard: list[Event] = []
    current_node().on_event(heard.append)
    await stop(counter)
    await shutdown()
    assert kinds(heard, counter) == ["stopping", "exited"]


async def test_a_server_is_told_where_events_are_heard() -> None:
    async with Node(), Node(preload=("tests.servers.threads",)) as node:
        assert current_node() is node
        watching = await spawn(Threaded)
        with pytest.raises(Exception, match="its node lives in another"):
            await Threaded.current_node(watching)


async def test_whoever_hears_of_the_end_may_have_the_name() -> None:
    async with Node(preload=SERVERS) as node:
        visits = child(Counter).options(name="visits", restart="temporary")
        first = await spawn(visits)
        with pytest.raises(AlreadyRegisteredError):
            await spawn(visits)
        stream = node.events()
        await kill(node, first)
        assert [e.kind for e in await until(stream, "crashed")] == ["name_freed", "crashed"]
        assert await spawn(visits) != first
        assert await Counter.increment(named("visits", Counter)) == 1
