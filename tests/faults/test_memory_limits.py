"""Servers with a `memory_limit`: they are warned, and then ended; the report says by which rule."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from noex_mp import (
    BadChildSpecError,
    ExitReport,
    MemoryPressure,
    OutOfMemory,
    ServerExitedError,
    Supervisor,
    child,
    named,
    spawn,
)
from noex_mp.core.report_plain import as_plain, from_plain
from noex_mp.core.specs import Start
from noex_mp.node import memory
from noex_mp.supervision.validate import validate
from noex_mp.transport.private_memory import private_at_most, private_memory
from tests.nodes.observed import ObservedNode, kill_zygote
from tests.servers.limited import MIB, Eats

pytestmark = [
    pytest.mark.slow,
    pytest.mark.linux_only("it has no such limit"),
]

LIMIT = 96 * MIB

SERVERS = ("tests.servers.limited", "tests.servers.shared_pages")


@asynccontextmanager
async def scene(*specs: Any, **options: Any) -> AsyncGenerator[ObservedNode]:
    options = {"max_ooms": 20, "max_restarts": 0, **options}
    async with ObservedNode(Supervisor(*specs, **options), preload=SERVERS) as node:
        yield node


def eats(start: Start = "fork", name: str = "eats", **options: Any) -> Any:
    options = {"memory_limit": LIMIT, "start": start, "id": name, "name": name, **options}
    return child(Eats).options(**options)


def eats_of(name: str = "eats") -> Any:
    return named(name, Eats).within(None)


async def end_of(call: asyncio.Future[Any]) -> ExitReport:
    with pytest.raises(ServerExitedError) as failure:
        await call
    assert failure.value.report is not None
    return failure.value.report


@pytest.mark.parametrize("start", ["fork", "exec"])
async def test_it_is_ended_while_the_handler_runs(start: Start) -> None:
    async with scene(eats(start)):
        report = await end_of(Eats.nibble(eats_of(), 256))
        reason = report.reason
        assert isinstance(reason, OutOfMemory)
        assert reason.limit == LIMIT
        assert reason.used is not None
        assert reason.used > LIMIT
        assert report.rule == "memory_limit"
        assert report.message is not None
        assert report.message.operation == "nibble"
        assert "limited.py" in report.stack
        assert "asked by: the memory limit of its process" in report.text
        assert from_plain(as_plain(report)) == report
        # It is up again.
        assert await Eats.heard(eats_of()) == []


@pytest.mark.parametrize("start", ["fork", "exec"])
async def test_what_asks_for_far_too_much_at_once_is_refused(start: Start) -> None:
    async with scene(eats(start)):
        report = await end_of(Eats.eat(eats_of(), 1024))
        assert report.reason == OutOfMemory(LIMIT)
        assert report.rule == "memory_limit"
        assert "MemoryError" in report.traceback
        assert await Eats.heard(eats_of()) == []


async def test_it_hears_of_pressure_once_until_it_has_given_back() -> None:
    async with scene(eats()) as node:
        await Eats.eat(eats_of(), 84)
        for nth in (1, 2):
            event = await node.event("memory_pressure", nth=nth)
            assert event.name == "eats"
            assert LIMIT * 0.8 < event.count < LIMIT
            assert event.detail == "memory_limit of 96 MiB"
            while len(heard := await Eats.heard(eats_of())) < nth:
                pass
            assert heard[nth - 1 :] == [MemoryPressure(event.count, LIMIT)]
            os_pid = await Eats.os_pid(eats_of())
            await Eats.give_back(eats_of())
            assert private_memory(os_pid) < LIMIT // 2
            # Until the root has looked again.
            await asyncio.sleep(0.5)
            await Eats.eat(eats_of(), 84)
        assert len(await Eats.heard(eats_of())) in (2, 3)


async def test_who_comes_near_its_limit_in_its_init_hears_of_it_afterwards() -> None:
    async with scene(child(Eats, at_start=80).options(memory_limit=LIMIT, name="eats")):
        heard = await Eats.heard(eats_of())
        assert [message.limit for message in heard] == [LIMIT]


async def test_what_is_shared_with_the_zygote_does_not_count() -> None:
    async with scene(eats()) as node:
        os_pid = await Eats.os_pid(eats_of())
        # 128 MiB of the zygote's.
        assert private_at_most(os_pid) > LIMIT
        await asyncio.sleep(0.5)
        assert private_memory(os_pid) < LIMIT // 2
        assert not [e for e in node.seen if e.kind in ("memory_pressure", "crashed")]


async def test_a_copy_of_what_was_shared_counts() -> None:
    async with scene(eats()):
        # Its resident memory is the same afterwards.
        await Eats.write_all(eats_of(), 40)
        await asyncio.sleep(1.2)
        assert await Eats.heard(eats_of()) == []
        report = await end_of(Eats.write_all(eats_of(), 120, stay=600))
        assert isinstance(report.reason, OutOfMemory)


async def test_what_was_shared_does_not_count_when_the_zygote_has_died() -> None:
    async with scene(eats()) as node:
        os_pid = await Eats.os_pid(eats_of())
        # Until the root has looked once.
        await asyncio.sleep(0.3)
        await kill_zygote(node)
        await asyncio.sleep(1.2)
        assert private_memory(os_pid) > LIMIT
        assert await Eats.os_pid(eats_of()) == os_pid
        assert not [e for e in node.seen if e.kind in ("memory_pressure", "crashed")]
        # What it takes itself does.
        report = await end_of(Eats.nibble(eats_of(), 256))
        assert isinstance(report.reason, OutOfMemory)
        assert report.reason.used is not None
        assert LIMIT < report.reason.used < 2 * LIMIT


async def test_who_comes_near_its_limit_and_stays_there_is_not_looked_at_exactly_all_the_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    looks: list[Callable[[int], int]] = []

    def counted(look: Callable[[int], int]) -> Callable[[int], int]:
        def counting(os_pid: int) -> int:
            looks.append(look)
            return look(os_pid)

        return counting

    monkeypatch.setattr(memory, "private_at_most", counted(private_at_most))
    monkeypatch.setattr(memory, "private_memory", counted(private_memory))
    async with scene(eats()) as node:
        await Eats.eat(eats_of(), 84)
        await node.event("memory_pressure")
        looks.clear()
        await asyncio.sleep(1.2)
        assert looks.count(private_at_most) >= 5
        # 128 MiB of the zygote's are to be told from its own, but not each time.
        assert looks.count(private_memory) <= 2


async def test_in_a_placement_group_the_limit_is_that_of_the_process() -> None:
    first, second = (eats(name=name, placement="all") for name in ("eats", "other"))
    async with scene(first, second.options(memory_limit=None)) as node:
        other = Eats.heard(eats_of("other"))
        await other
        report = await end_of(Eats.nibble(eats_of(), 256))
        assert isinstance(report.reason, OutOfMemory)
        assert "with all of placement 'all' (2 servers)" in report.summary
        for name in ("eats", "other"):
            await Eats.heard(eats_of(name))
        ends = [e.report for e in node.seen if e.kind == "crashed"]
        assert {end.reason for end in ends if end} == {report.reason}
        # Both are warned, as it is not known whose memory it is.
        await Eats.eat(eats_of(), 84)
        for name in ("eats", "other"):
            while not await Eats.heard(eats_of(name)):
                pass
        warned = [e.name for e in node.seen if e.kind == "memory_pressure"]
        assert set(warned[-2:]) == {"eats", "other"}


async def test_members_of_a_placement_group_agree_on_it() -> None:
    two = [
        child(Eats).options(id=limit, placement="all", memory_limit=limit)
        for limit in ("64MB", "128MB")
    ]
    with pytest.raises(BadChildSpecError, match="expected one memory_limit for all of placement"):
        validate(Supervisor(*two))
    async with scene(eats(placement="all")):
        with pytest.raises(BadChildSpecError, match="another memory_limit than placement 'all'"):
            await spawn(child(Eats).options(placement="all", memory_limit="64MB"))


async def test_a_lack_of_memory_has_a_budget_of_its_own() -> None:
    async with scene(eats(), max_ooms=1, max_seconds=60) as node:
        await end_of(Eats.eat(eats_of(), 1024))
        await end_of(Eats.eat(eats_of(), 1024))
        detail = (await node.event("gave_up")).detail
        assert "gave up: more than 1 restarts for want of memory in 60 s" in detail


async def test_it_may_be_for_the_supervisor_above_to_decide() -> None:
    inner = Supervisor(eats(on_oom="escalate"), eats(name="other"), name="inner", max_restarts=9)
    async with scene(inner, max_restarts=1) as node:
        await end_of(Eats.eat(eats_of(), 1024))
        gave_up = await node.event("gave_up")
        assert gave_up.name == "inner"
        assert "more than 0 restarts for want of memory" in gave_up.detail
        # That one has started both of them again.
        await Eats.heard(eats_of("other"))
        await Eats.heard(eats_of())
        assert [e.name for e in node.seen if e.kind == "exited"].count("other") == 1


async def test_who_has_no_limit_has_none() -> None:
    async with scene(eats(memory_limit=None)) as node:
        await Eats.eat(eats_of(), 300)
        await asyncio.sleep(0.3)
        assert not [e for e in node.seen if e.kind in ("memory_pressure", "crashed")]
