"""Servers that wait for each other in a circle, and those that only seem to."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from noex_mp import CallCycleError, Ref, ServerExitedError, child, spawn, stop
from tests.nodes.observed import (
    Whistles,
    on_both_loops,
    shared_node,
)
from tests.servers.answering import Answering, Racing, SelfCalling
from tests.servers.busy import Busy

pytestmark = pytest.mark.usefixtures("shared_nodes")


async def several(count: int) -> list[Ref[Busy]]:
    return list(await asyncio.gather(*(spawn(Busy) for _ in range(count))))


@on_both_loops
async def test_a_server_that_calls_itself_is_told() -> None:
    async with shared_node():
        (one,) = await several(1)
        with pytest.raises(CallCycleError) as failure:
            await Busy.pass_on(one.within(None), [one])
        assert failure.value.path == ("Busy", "Busy")
        assert "Busy -> Busy" in str(failure.value)
        assert await Busy.echo(one, 1) == 1


@on_both_loops
@pytest.mark.parametrize("size", [2, 3, 5])
async def test_a_ring_is_found(size: int) -> None:
    async with shared_node():
        ring = await several(size)
        with pytest.raises(CallCycleError) as failure:
            await Busy.pass_on(ring[0].within(None), [*ring[1:], ring[0]])
        assert len(failure.value.path) == size + 1
        assert [await Busy.echo(server, 1) for server in ring] == [1] * size


@on_both_loops
@pytest.mark.parametrize("how", ["wait_for", "gather", "shield", "task", "task group"])
@pytest.mark.parametrize("size", [1, 2])
async def test_a_ring_is_found_however_a_handler_waits(how: str, size: int) -> None:
    async with shared_node():
        ring = await several(size)
        with pytest.raises((CallCycleError, ServerExitedError)) as failure:
            await Busy.pass_on_by(ring[0].within(None), how, [*ring[1:], ring[0]])
        if how == "task group":
            # The group's own error is none that the server has announced.
            cause: Any = failure.value.__cause__
            assert [type(error) for error in cause.exceptions] == [CallCycleError]
        else:
            assert isinstance(failure.value, CallCycleError)


PLACES = ["init", "handle_continue", "handle_info", "timeout", "handle_cast", "terminate"]


@on_both_loops
@pytest.mark.parametrize("place", PLACES)
async def test_a_server_that_calls_itself_is_told_wherever_it_does(place: str) -> None:
    async with shared_node():
        log = await spawn(Busy)
        spec = child(SelfCalling, place, log).options(init_timeout=None, restart="temporary")
        server = await spawn(spec)
        if place == "handle_cast":
            await server.cast("go")
        elif place == "handle_info":
            await SelfCalling.remind(server)
        if place != "terminate":
            # Not a message to the server itself: it would call its timeout off.
            while not await Busy.notes(log):
                pass
        await stop(server, timeout=None)
        assert await Busy.notes(log) == ["CallCycleError"]


async def test_a_circle_is_found_as_fast_after_a_long_wait(whistles: Whistles) -> None:
    coming, going = whistles(), whistles()
    async with shared_node():
        one, two, three = await several(3)
        # Somebody waits for one, which waits for long: it looks more and more rarely.
        waiting = Busy.pass_on_when_told(one.within(None), coming.path, going.path, [two, one])
        await coming.heard()
        asked = Busy.pass_on(three.within(None), [one])
        await asyncio.sleep(0.7)
        going.blow()
        before = time.monotonic()
        with pytest.raises(CallCycleError):
            await waiting
        # Far below the second that it would take without news.
        assert time.monotonic() - before < 0.4
        assert await asked == ["on", "end"]


@on_both_loops
async def test_two_calls_that_wait_for_each_other_are_found(whistles: Whistles) -> None:
    coming, going, also_going = whistles(), whistles(), whistles()
    async with shared_node():
        one, two = await several(2)
        first = Busy.call_when_told(one.within(None), two, coming.path, going.path)
        second = Busy.call_when_told(two.within(None), one, coming.path, also_going.path)
        await coming.heard()
        await coming.heard()
        going.blow()
        also_going.blow()
        results = await asyncio.gather(first, second, return_exceptions=True)
        failed = [result for result in results if isinstance(result, CallCycleError)]
        # One of them gives up, and so the other gets its reply.
        assert len(failed) == 1
        assert failed[0].path == ("Busy", "Busy", "Busy")
        assert "hello" in results


async def test_a_circle_behind_a_tail_is_found_in_the_circle(whistles: Whistles) -> None:
    async with shared_node():
        outside, one, two = await several(3)
        with pytest.raises(CallCycleError) as failure:
            await Busy.pass_on(outside.within(None), [one, two, one])
        assert len(failure.value.path) == 3


async def test_calls_that_meet_in_one_server_are_no_circle(whistles: Whistles) -> None:
    coming, going = whistles(), whistles()
    async with shared_node():
        one, two, busy = await several(3)
        blocked = Busy.block(busy, coming.path, going.path)
        await coming.heard()
        meeting = [Busy.pass_on(server.within(None), [busy]) for server in (one, two)]
        await asyncio.sleep(0.1)
        assert not any(call.done() for call in meeting)
        going.blow()
        assert await asyncio.gather(*meeting) == [["on", "end"]] * 2
        assert await blocked == "went on"


async def test_a_server_that_does_not_wait_for_the_call_is_in_no_circle(
    whistles: Whistles,
) -> None:
    going = whistles()
    async with shared_node():
        one, two = await several(2)
        # One has called two, which calls back; but one waits for something else.
        calling = Busy.call_without_waiting(one.within(None), two, going.path)
        await asyncio.sleep(0.1)
        assert not calling.done()
        going.blow()
        assert await calling == "done"
        assert await Busy.echo(two, 1) == 1


async def test_a_handler_that_replies_later_is_in_no_circle(whistles: Whistles) -> None:
    coming = whistles()
    async with shared_node():
        one, two = await several(2)
        await Busy.note(one, "a note")
        assert await Busy.reply_later(one, two, coming.path) == "['a note']"


async def test_a_task_that_outlives_its_handler_is_in_no_circle(whistles: Whistles) -> None:
    coming, going = whistles(), whistles()
    async with shared_node():
        one, two = await several(2)
        assert await Busy.leave_task(one.within(1.0), two, coming.path, going.path) == "done"
        going.blow()
        await coming.heard()
        (left,) = await Busy.notes(one)
        # And it does not inherit the time of a call that is over.
        assert left > 10


async def test_a_handler_that_waits_for_the_first_of_several_is_in_no_circle() -> None:
    async with shared_node():
        one, two, other = await spawn(Racing), await spawn(Racing), await spawn(Answering)
        assert await Racing.first_of(one.within(None), two, other) == "other"
