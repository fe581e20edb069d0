"""Faults on order: each happens where it should, once, and the server is the same otherwise."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from noex_mp import (
    CallTimedOutError,
    ChildSpec,
    InitFailedError,
    Killed,
    MailboxFullError,
    MaxRestartsExceededError,
    Ref,
    ServerExitedError,
    StartError,
    Supervisor,
    child,
    named,
)
from noex_mp.testing.faults import (
    FailInit,
    Fault,
    FaultPlan,
    FillMailbox,
    Happened,
    KillAtMessage,
    KillBeforeReply,
    KillInInit,
    KillInTerminate,
    LoseLink,
    Pause,
    SlowInit,
)
from tests.nodes.observed import ObservedNode
from tests.servers.journals import Journal, KeptError

pytestmark = pytest.mark.slow

PRELOAD = ["tests.servers.journals", "noex_mp.testing.faults"]


@dataclass
class Scene:
    """A node with a journal that has faults."""

    node: ObservedNode
    journal: Ref[Journal]
    plan: FaultPlan

    def happened(self) -> list[tuple[Fault, int, int]]:
        return [(each.fault, each.start, each.message) for each in self.plan.happened()]


@asynccontextmanager
async def scene(
    folder: Path, *faults: Fault, max_failed_inits: int | None = None
) -> AsyncGenerator[Scene]:
    with FaultPlan() as plan:
        spec = plan.inject(journal(folder), *faults)
        tree = Supervisor(spec, max_restarts=10, max_failed_inits=max_failed_inits)
        async with ObservedNode(tree, preload=PRELOAD) as node:
            yield Scene(node, named("journal", Journal).within(10), plan)


def journal(folder: Path) -> ChildSpec[Journal]:
    return child(Journal, str(folder / "journal")).options(name="journal")


# --- each kind ---------------------------------------------------------------------------------


OPERATIONS: list[Any] = [Journal.keep, Journal.keep_slowly, Journal.keep_later]
KILLS: list[tuple[Fault, list[int]]] = [
    (KillAtMessage(3), [1, 2]),
    (KillBeforeReply(3), [1, 2, 3]),
]


async def test_a_kill_at_a_message_comes_before_its_handler_or_behind_it(tmp_path: Path) -> None:
    with FaultPlan() as plan:
        cases = {
            f"{operation.__name__} {type(fault).__name__}": (operation, fault, kept)
            for operation in OPERATIONS
            for fault, kept in KILLS
        }
        specs = [
            plan.inject(child(Journal, str(tmp_path / name)).options(id=name, name=name), fault)
            for name, (_, fault, _) in cases.items()
        ]
        async with ObservedNode(Supervisor(*specs, max_restarts=10), preload=PRELOAD):
            for name, (operation, _, kept) in cases.items():
                ref = named(name, Journal).within(10)
                assert [await operation(ref, n) for n in (1, 2)] == [1, 2], name
                with pytest.raises(ServerExitedError) as failure:
                    await operation(ref, 3)
                assert failure.value.started
                assert failure.value.report.reason == Killed("SIGKILL")
                assert await Journal.all(ref) == kept, name
                # The count goes on: that one, which was the third, comes once.
                assert await operation(ref, 4) == len(kept) + 1, name
        assert plan.happened() == [
            Happened(name, fault, 1, 3) for name, (_, fault, _) in cases.items()
        ]


async def test_casts_and_callbacks_are_counted_too(tmp_path: Path) -> None:
    async with scene(tmp_path, KillAtMessage(3, signal=15)) as s:
        await Journal.note(s.journal, 1)
        await s.journal.cast(2)
        await Journal.note(s.journal, 3)
        report = (await s.node.event("crashed")).report
        assert report is not None
        assert report.reason == Killed("SIGTERM")
        assert await Journal.all(s.journal) == [1, 2]


async def test_an_init_fails_as_often_as_it_is_told_to(tmp_path: Path) -> None:
    faults = KillAtMessage(1), FailInit(times=2), KillAtMessage(2), KillInInit(after=4)
    async with scene(tmp_path, *faults) as s:
        for number, incarnation in ((1, 4), (2, 6)):
            with pytest.raises(ServerExitedError):
                await Journal.keep(s.journal, number)
            event = await s.node.event("restarted", nth=number)
            assert event.incarnation == incarnation
        assert await Journal.all(s.journal) == []
        assert [start for _, start, _ in s.happened()] == [1, 2, 3, 4, 5]
        assert {fault for fault, _, _ in s.happened()} == set(faults)


async def test_the_first_start_fails_if_none_is_to_be_good_before(tmp_path: Path) -> None:
    with pytest.raises(StartError, match="start 1 fails, as was asked for") as failure:
        async with scene(tmp_path, FailInit(after=0)):
            pass
    assert isinstance(failure.value, InitFailedError)


async def test_failed_inits_use_up_their_budget(tmp_path: Path) -> None:
    async with scene(tmp_path, KillAtMessage(1), FailInit(times=3), max_failed_inits=2) as s:
        await Journal.note(s.journal, 1)
        with pytest.raises(MaxRestartsExceededError):
            await s.node.wait()
        assert len(s.happened()) == 4


async def test_a_slow_init_delays_the_start(tmp_path: Path) -> None:
    async with scene(tmp_path, SlowInit(0.2, after=0)) as s:
        await s.node.event("ready")
        times = {event.kind: event.time for event in s.node.seen}
        assert times["ready"] - times["started"] >= 0.2
        assert s.happened() == [(SlowInit(0.2, after=0), 1, 0)]


async def test_a_kill_in_terminate_comes_before_its_first_line(tmp_path: Path) -> None:
    async with scene(tmp_path, KillInTerminate()) as s:
        await Journal.leave(s.journal)
        await s.node.event("restarted")
        assert await Journal.all(s.journal) == []
        await Journal.leave(s.journal)
        await s.node.event("restarted", nth=2)
        # Only the second one was good.
        assert await Journal.all(s.journal) == [0]
        assert s.happened() == [(KillInTerminate(), 1, 1)]


async def test_a_pause_stops_the_process_and_lets_it_go_on(tmp_path: Path) -> None:
    async with scene(tmp_path, Pause(2, 0.3)) as s:
        os_pid = await Journal.os_pid(s.journal)
        with pytest.raises(CallTimedOutError):
            await Journal.keep(s.journal.within(0.1), 1)
        assert await Journal.keep(s.journal, 2) == 2
        assert await Journal.os_pid(s.journal) == os_pid


async def test_a_full_mailbox_is_full_until_its_server_goes_on(tmp_path: Path) -> None:
    async with scene(tmp_path, FillMailbox(2, 0.5)) as s:
        await Journal.all(s.journal)
        blocked = Journal.keep(s.journal, 1)
        casts = [Journal.note(s.journal.within(0.1), n) for n in (2, 3, 4)]
        results = await asyncio.gather(*casts, return_exceptions=True)
        assert any(isinstance(each, CallTimedOutError) for each in results)
        with pytest.raises(MailboxFullError):
            Journal.note.nowait(s.journal, 5)
        assert await blocked == 1
        await Journal.note(s.journal, 6)
        assert 6 in await Journal.all(s.journal)


async def test_a_lost_link_costs_what_was_in_hand_and_no_more(tmp_path: Path) -> None:
    async with scene(tmp_path, LoseLink(2)) as s:
        os_pid = await Journal.os_pid(s.journal)
        with pytest.raises(ServerExitedError):
            await Journal.keep(s.journal, 1)
        # It was handled, and only its reply is lost: the server lives on.
        assert await Journal.all(s.journal) == [1]
        assert await Journal.os_pid(s.journal) == os_pid


# --- what stays as it was ----------------------------------------------------------------------


async def test_a_server_with_faults_is_the_same_otherwise(tmp_path: Path) -> None:
    async with scene(tmp_path, KillAtMessage(1000)) as s:
        wrong: Any = "1", "2"
        with pytest.raises(TypeError, match="keep"):
            await Journal.keep(s.journal, *wrong)
        with pytest.raises(TypeError, match="keep_slowly"):
            await Journal.keep_slowly(s.journal, *wrong)
        assert await Journal.keep(s.journal, 1) == 1
        with pytest.raises(KeptError):
            await Journal.keep(s.journal, 1)
        (server,) = await s.node.ps()
        assert (server["id"], server["name"]) == ("Journal", "journal")


def test_faults_change_nothing_else_of_a_child(tmp_path: Path) -> None:
    spec = journal(tmp_path).options(shutdown=3.0, max_messages=7)
    with FaultPlan() as plan:
        injected = plan.inject(spec, KillAtMessage(1))
        assert injected.options(id=None).child_id != spec.child_id == injected.child_id
        assert (injected.name, injected.shutdown, injected.max_messages) == ("journal", 3.0, 7)
        assert plan.happened() == []


# --- plans -------------------------------------------------------------------------------------


def test_the_same_seed_chooses_the_same_faults() -> None:
    with FaultPlan(seed=3) as one, FaultPlan(seed=3) as same, FaultPlan(seed=4) as other:
        chosen = one.some(20)
        assert chosen == same.some(20)
        assert chosen != other.some(20)
        assert len({type(fault) for fault in chosen}) > 4


def test_a_plan_takes_its_folder_along(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with FaultPlan() as plan:
        plan.inject(journal(tmp_path), KillAtMessage(1))
        assert list(tmp_path.iterdir())
    assert not list(tmp_path.iterdir())


async def test_what_happened_says_to_which_child(tmp_path: Path) -> None:
    with FaultPlan() as plan:
        specs = [child(Journal, str(tmp_path / name)).options(id=name, name=name) for name in "ab"]
        tree = Supervisor(*(plan.inject(spec, KillAtMessage(1)) for spec in specs))
        async with ObservedNode(tree, preload=PRELOAD):
            for name in "ba":
                refs = named(name, Journal)
                await asyncio.gather(Journal.keep(refs, 1), return_exceptions=True)
        assert plan.happened() == [Happened(name, KillAtMessage(1), 1, 1) for name in "ba"]
