"""Calls that end their server each time that it gets them, and what becomes of all others."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from noex_mp import (
    CallTimedOutError,
    Crash,
    Exited,
    ExitReason,
    Killed,
    Node,
    NodeDownError,
    NoServerError,
    PoisonedMessageError,
    Ref,
    ServerExitedError,
    Supervisor,
    child,
    named,
    spawn,
    supervisor,
)
from noex_mp.client import poison
from noex_mp.core.specs import Backoff
from tests.nodes.observed import ObservedNode, Whistles, on_all_loops, on_both_loops
from tests.servers.poisonous import Feeder, Poisonous

PRELOAD = ("tests.servers.poisonous",)

ENDS: dict[str, ExitReason] = {
    "exit": Exited(3),
    "segfault": Killed("SIGSEGV"),
    "kill": Killed("SIGKILL"),
    "memory": Crash("MemoryError", ""),
    "raise": Crash("ValueError", "this is poison"),
}


def patient(*children: Any, **options: Any) -> ObservedNode:
    """Return a node whose tree stands any number of deaths."""
    tree = Supervisor(*children, max_restarts=1000, **options)
    return ObservedNode(tree, preload=PRELOAD)


def at(name: str) -> Ref[Poisonous]:
    return named(name, Poisonous).within(10)


def lair(name: str = "lair") -> Any:
    return child(Poisonous).options(id=name, name=name)


async def error_of(call: asyncio.Future[Any]) -> PoisonedMessageError:
    """Return the error of a poisonous call."""
    with pytest.raises(PoisonedMessageError) as caught:
        await call
    return caught.value


# --- what is counted ----------------------------------------------------------------------------


@on_all_loops
async def test_a_call_that_ends_its_server_three_times_is_given_up() -> None:
    async with ObservedNode(preload=PRELOAD):
        for how, reason in ENDS.items():
            # As it is, without a word about restarts: three deaths are what it stands.
            ref = await spawn(Poisonous)
            before = Poisonous.note(ref, 1)
            poisonous = Poisonous.swallow(ref, how)
            behind = [Poisonous.note(ref, n) for n in (2, 3, 4)]
            error = await error_of(poisonous)
            assert await asyncio.gather(before, *behind) == [1, 2, 3, 4]
            assert (error.operation, error.server) == ("Poisonous.swallow", "Poisonous")
            assert error.deliveries == len(error.reports) == 3
            assert [report.reason for report in error.reports] == [reason] * 3
            assert [report.incarnation for report in error.reports] == [1, 2, 3]
            attempts = [report.message and report.message.attempts for report in error.reports]
            assert attempts == [1, 2, 3]
            assert isinstance(error.__cause__, ValueError) == (how == "raise")
            # The server goes on with the next, in order.
            assert await Poisonous.all(ref) == [2, 3, 4]


@on_both_loops
async def test_a_tree_as_it_is_does_not_give_up_before_poison_is_recognised() -> None:
    async with ObservedNode(Supervisor(lair()), preload=PRELOAD) as node:
        await error_of(Poisonous.swallow(at("lair"), "kill"))
        assert await Poisonous.note(at("lair"), 1) == 1
        assert [event.kind for event in node.seen].count("crashed") == 3
        assert "gave_up" not in [event.kind for event in node.seen]


@on_both_loops
async def test_an_async_operation_is_counted_as_well() -> None:
    async with patient(lair()):
        error = await error_of(Poisonous.swallow_slowly(at("lair"), "exit"))
        assert error.deliveries == 3


async def test_a_server_in_an_interpreter_of_its_own_is_counted_as_well() -> None:
    async with ObservedNode() as node:
        ref = await spawn(child(Poisonous).options(start="exec"))
        error = await error_of(Poisonous.swallow(ref.within(20), "kill"))
        assert error.deliveries == 3
        assert [letter.id for letter in await node.dead_letters()] == [error.letter]


async def test_an_operation_says_how_often_it_may_be_delivered(tmp_path: Path) -> None:
    async with patient(lair()) as node:
        once = await error_of(Poisonous.swallow_once(at("lair"), "kill"))
        assert (once.deliveries, len(once.reports)) == (1, 1)
        deaths = str(tmp_path / "deaths")
        assert await Poisonous.swallow_for_ever(at("lair"), "kill", deaths, 6) == "well"
        [last] = [event for event in node.seen if event.incarnation == 7 and event.kind == "ready"]
        assert last.name == "lair"


async def test_what_merely_waited_is_not_counted(whistles: Whistles) -> None:
    started = whistles()
    async with patient(lair()) as node:
        ref = await Poisonous.me(at("lair"))
        for _ in range(4):
            blocking = Poisonous.block(ref, started.path)
            waiting = Poisonous.swallow(ref, "kill", __file__)
            await started.heard()
            node.kill(ref)
            with pytest.raises(ServerExitedError):
                await blocking
            assert await waiting == "well"
        # One that waits at four deaths has three of its own before it.
        blocked = [Poisonous.block(ref, started.path) for _ in range(4)]
        poisonous = Poisonous.swallow(ref, "exit")
        for _ in blocked:
            await started.heard()
            node.kill(ref)
        error = await error_of(poisonous)
        assert [report.reason for report in error.reports] == [Exited(3)] * 3
        await asyncio.gather(*blocked, return_exceptions=True)


async def test_an_end_that_somebody_wanted_is_not_counted(whistles: Whistles) -> None:
    started = whistles()
    async with patient(lair(), lair("neighbour"), strategy="one_for_all"):
        waiting = Poisonous.wait(at("lair"), started.path)
        for _ in range(4):
            await started.heard()
            with pytest.raises(ServerExitedError):
                await Poisonous.kill(at("neighbour"))
        await started.heard()
        assert await Poisonous.answer(at("lair")) == 1
        assert await waiting == "answered"


async def test_all_that_have_begun_are_counted(whistles: Whistles) -> None:
    started = whistles()
    async with patient(lair()) as node:
        ref = await Poisonous.me(at("lair"))
        # Its handler has returned, and it waits for its reply: who knows what works on it.
        waiting = Poisonous.wait(at("lair"), started.path)
        for _ in range(3):
            await started.heard()
            await Poisonous.note(ref, 1)
            node.kill(ref)
        error = await error_of(waiting)
        assert error.deliveries == 3


async def test_each_call_of_a_thread_counts_for_itself() -> None:
    async with patient(lair()):
        ref = await Poisonous.me(at("lair"))

        def kill_twice() -> list[Any]:
            failures: list[Any] = []
            for _ in range(2):
                with pytest.raises(ServerExitedError) as caught:
                    Poisonous.kill.sync(ref)
                failures.append(caught.value.report.message)
            return failures

        messages = await asyncio.to_thread(kill_twice)
        assert [message.attempts for message in messages] == [1, 1]


async def test_each_call_counts_for_itself_where_a_server_was_gone_in_between() -> None:
    async with patient(lair()) as node:
        ref = await Poisonous.me(at("lair"))
        await supervisor("/").terminate_child("lair")
        attempts: list[int | None] = []
        for _ in range(2):
            await supervisor("/").restart_child("lair")
            with pytest.raises(ServerExitedError) as caught:
                await Poisonous.kill(ref)
            message = caught.value.report.message
            attempts.append(message.attempts if message else None)
            await node.event("restarted", ref, len(attempts))
            await supervisor("/").terminate_child("lair")
            await until_gone(ref)
        assert attempts == [1, 1]


async def until_gone(ref: Ref[Poisonous]) -> None:
    """Wait until this event loop has heard that a server is gone."""
    with pytest.raises(NoServerError):
        await Poisonous.note(ref, 1)


# --- others -------------------------------------------------------------------------------------


@on_both_loops
async def test_several_senders_of_poison_at_once(tmp_path: Path) -> None:
    async with patient(lair(), child(Feeder).options(name="feeder")) as node:
        ref = await Poisonous.me(at("lair"))

        def from_a_thread() -> PoisonedMessageError:
            with pytest.raises(PoisonedMessageError) as caught:
                Poisonous.swallow.sync(ref.within(30), "kill")
            return caught.value

        threads = [asyncio.to_thread(from_a_thread) for _ in range(2)]
        mine = [error_of(Poisonous.swallow(ref.within(30), "kill")) for _ in range(2)]
        server = error_of(Feeder.feed(named("feeder", Feeder).within(30), ref.within(30), "kill"))
        healthy = [Poisonous.note(ref.within(30), n) for n in range(10)]
        errors = await asyncio.gather(*threads, *mine, server)
        assert [error.deliveries for error in errors] == [3] * 5
        assert await asyncio.gather(*healthy) == list(range(10))
        letters = await node.dead_letters()
        assert sorted(letter.id for letter in letters) == sorted(e.letter or 0 for e in errors)
        # Each death was of one of them, and counted for that one only.
        incarnations = [report.incarnation for error in errors for report in error.reports]
        assert sorted(incarnations) == list(range(1, 16))
        # So do the exit reports, though others came between.
        for error in errors:
            attempts = [report.message and report.message.attempts for report in error.reports]
            assert attempts == [1, 2, 3]


@on_both_loops
async def test_poison_in_a_placement_group_costs_the_neighbours_no_call() -> None:
    den = [lair(name).options(placement="den") for name in ("lair", "left", "right")]
    async with patient(*den):
        poisonous = Poisonous.swallow(at("lair"), "segfault")
        calls = [Poisonous.note(at(name), n) for n in range(20) for name in ("left", "right")]
        error = await error_of(poisonous)
        assert all("den" in report.shared for report in error.reports)
        assert await asyncio.gather(*calls) == [n for n in range(20) for _ in "lr"]


async def test_the_error_arrives_at_a_server_that_called_and_at_its_own_caller() -> None:
    async with patient(lair()) as node:
        ref = await Poisonous.me(at("lair"))
        feeder = await spawn(Feeder)
        error = await error_of(Feeder.feed(feeder, ref, "exit"))
        assert [report.reason for report in error.reports] == [Exited(3)] * 3
        assert [letter.id for letter in await node.dead_letters()] == [error.letter]


async def test_when_the_sender_dies_nobody_sends_it_again(whistles: Whistles) -> None:
    started, release = whistles(), whistles()
    async with patient(lair()) as node:
        ref = await Poisonous.me(at("lair"))
        feeder = await spawn(Feeder)
        feeding = Feeder.feed_and_tell(feeder.within(None), ref, started.path, release.path)
        for _ in range(2):
            await started.heard()
            release.blow()
        await started.heard()
        node.kill(feeder)
        with pytest.raises(ServerExitedError):
            await feeding
        release.blow()
        await node.event("restarted", ref, 3)
        assert await Poisonous.note(at("lair"), 1) == 1
        assert [event.kind for event in node.seen].count("crashed") == 4
        assert await node.dead_letters() == []


# --- time, and the end --------------------------------------------------------------------------


async def test_a_call_whose_time_is_over_before_it_is_poison_has_just_timed_out() -> None:
    slow = lair().options(backoff=Backoff(first=60.0, max=60.0))
    async with patient(slow) as node:
        with pytest.raises(CallTimedOutError):
            await Poisonous.swallow(named("lair", Poisonous).within(0.3), "kill")
        assert await node.dead_letters() == []


async def test_a_node_that_stops_in_between_fails_the_call(whistles: Whistles) -> None:
    started, release = whistles(), whistles()
    async with patient(lair()) as node:
        ref = await Poisonous.me(at("lair"))
        poisonous = Poisonous.tell_and_swallow(ref.within(None), started.path, release.path)
        await started.heard()
        release.blow()
        await started.heard()
        node.kill(ref)
    with pytest.raises((NoServerError, NodeDownError)):
        await poisonous


async def test_a_server_that_is_gone_with_its_poison_leaves_the_letter() -> None:
    async with ObservedNode(preload=PRELOAD) as node:
        ref = await spawn(child(Poisonous).options(restart="temporary", name="once"))
        error = await error_of(Poisonous.swallow_once(ref, "kill"))
        [letter] = await node.dead_letters()
        assert (letter.id, letter.name, letter.server) == (error.letter, "once", "once")
        with pytest.raises(NoServerError):
            await node.retry(letter)
        assert await node.dead_letters() == [letter]


async def test_a_root_that_does_not_answer_keeps_no_caller_waiting(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(poison, "PATIENCE", 0.05)
    async with patient(lair()) as node:
        await Poisonous.note(at("lair"), 1)

        is_over = asyncio.Event()

        async def too_late(*parameters: Any) -> int:
            await is_over.wait()
            return 1

        root, loop = node._root, node._loop  # pyright: ignore[reportPrivateUsage]
        assert root is not None
        assert loop is not None
        answers = root._answers  # pyright: ignore[reportPrivateUsage]
        answers._methods["bury"] = too_late  # pyright: ignore[reportPrivateUsage]
        error = await error_of(Poisonous.swallow(at("lair"), "exit"))
        assert error.letter is None
        # A node that stops waits for what it was asked.
        loop.call_soon_threadsafe(is_over.set)


def test_a_blocking_caller_gets_the_error_too() -> None:
    with Node(Supervisor(lair()), preload=PRELOAD) as node:
        with pytest.raises(PoisonedMessageError) as caught:
            Poisonous.swallow.sync(at("lair"), "kill")
        assert caught.value.deliveries == 3
        assert [letter.id for letter in node.dead_letters()] == [caught.value.letter]
        assert Poisonous.note.sync(at("lair"), 1) == 1
