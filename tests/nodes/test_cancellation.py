"""Deadlines and cancellation: nobody works for those who do not wait any more."""

from __future__ import annotations

import asyncio
import contextlib
import time

import pytest

from noex_mp import CallTimedOutError, child, spawn
from noex_mp.client import current
from tests.nodes.observed import (
    Whistles,
    on_both_loops,
    shared_node,
)
from tests.servers.answering import Answering
from tests.servers.busy import Busy

pytestmark = pytest.mark.usefixtures("shared_nodes")


@on_both_loops
@pytest.mark.parametrize("first_wait", [False, True])
async def test_a_nested_call_inherits_what_is_left(first_wait: bool) -> None:
    async with shared_node():
        one, two = await spawn(Busy), await spawn(Busy)
        left = await Busy.ask_time_left(one.within(20.0), two, first_wait=first_wait)
        assert left is not None
        assert 10 < left <= 20
        left = await Busy.ask_time_left(one.within(None), two, first_wait=first_wait)
        assert left is not None
        assert 20 < left <= 60
        left = await Busy.ask_time_left_later(one.within(20.0), two)
        assert left is not None
        assert 10 < left <= 20


async def test_current_call_knows_the_limit() -> None:
    async with shared_node():
        busy = await spawn(Busy)
        assert await Busy.time_left(busy.within(None)) is None
        left = await Busy.time_left(busy.within(30))
        assert left is not None
        assert 0 < left <= 30
        await Busy.note_current_call(busy)
        assert await Busy.notes(busy) == [True]


async def test_a_call_in_a_handler_whose_time_is_over_is_not_sent() -> None:
    async with shared_node():
        one, two = await spawn(Busy), await spawn(Busy)
        while not (notes := await Busy.notes(one)):
            # One that comes too late, on a busy machine, is never begun.
            with pytest.raises(CallTimedOutError):
                await Busy.ask_too_late(one.within(0.05), two)
        assert notes == ["refused"]
        assert await Busy.notes(two) == []


@on_both_loops
@pytest.mark.parametrize("blocked_by", ["call", "cast"])
async def test_what_is_out_of_time_is_dropped_before_it_runs(
    blocked_by: str, whistles: Whistles
) -> None:
    coming, going = whistles(), whistles()
    async with shared_node():
        busy = await spawn(Busy)
        block = Busy.block if blocked_by == "call" else Busy.block_cast
        blocked = asyncio.ensure_future(block(busy.within(None), coming.path, going.path))
        late = [Busy.echo(busy.within(0.05), n) for n in range(100)]
        in_time = Busy.echo(busy.within(None), "in time")
        await coming.heard()
        for call in late:
            with pytest.raises(CallTimedOutError):
                await call
        going.blow()
        await blocked
        assert await in_time == "in time"
        assert await Busy.notes(busy) == ["in time"]


@on_both_loops
async def test_what_waits_behind_an_async_handler_is_dropped_too(whistles: Whistles) -> None:
    coming = whistles()
    async with shared_node():
        busy = await spawn(Busy)
        waiting = Busy.wait(busy.within(None), coming.path)
        await coming.heard()
        late = Busy.echo(busy.within(0.05), "late")
        with pytest.raises(CallTimedOutError):
            await late
        waiting.cancel()
        assert await Busy.echo(busy, "next") == "next"
        assert await Busy.notes(busy) == ["cancelled", "next"]


@on_both_loops
async def test_a_cancelled_call_that_waits_never_runs(whistles: Whistles) -> None:
    coming = whistles()
    async with shared_node():
        busy = await spawn(Busy)
        waiting = Busy.wait(busy.within(None), coming.path)
        await coming.heard()
        never = Busy.echo(busy.within(None), "never")
        after = Busy.echo(busy.within(None), "after")
        never.cancel()
        # It is told within a tick or two; the handler in front goes on until then.
        await asyncio.sleep(0.1)
        waiting.cancel()
        assert await after == "after"
        assert await Busy.notes(busy) == ["cancelled", "after"]


@on_both_loops
async def test_an_async_handler_is_cancelled_with_its_call_and_the_server_lives(
    whistles: Whistles,
) -> None:
    coming = whistles()
    async with shared_node():
        busy = await spawn(Busy)
        for _ in range(3):
            waiting = Busy.wait(busy, coming.path)
            await coming.heard()
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(waiting, 0.01)
        assert await Busy.notes(busy) == ["cancelled"] * 3


async def test_a_handler_may_swallow_the_cancel_and_its_reply_goes_nowhere(
    whistles: Whistles,
) -> None:
    coming = whistles()
    async with shared_node():
        busy = await spawn(Busy)
        waiting = Busy.wait_stubbornly(busy, coming.path)
        await coming.heard()
        waiting.cancel()
        assert await Busy.echo(busy, 5) == 5
        assert await Busy.notes(busy) == ["swallowed", 5]


@on_both_loops
async def test_a_handler_that_never_waits_can_ask(whistles: Whistles) -> None:
    coming = whistles()
    async with shared_node():
        busy = await spawn(Busy)
        spinning = Busy.spin_until_cancelled(busy.within(None), coming.path, 30.0)
        behind = Busy.echo(busy.within(None), "behind")
        await coming.heard()
        spinning.cancel()
        assert await behind == "behind"
        assert await Busy.notes(busy) == ["noticed", "behind"]


async def test_a_handler_that_never_waits_sees_the_end_of_its_callers_time(
    whistles: Whistles,
) -> None:
    coming = whistles()
    async with shared_node():
        busy = await spawn(Busy)
        while not (notes := await Busy.notes(busy.within(30))):
            # It replies as soon as the time is over, perhaps before anybody has looked; and one
            # that comes too late, on a busy machine, is never begun.
            with contextlib.suppress(CallTimedOutError):
                await Busy.spin_until_cancelled(busy.within(0.05), coming.path, 30.0)
        assert notes == ["noticed"]


@on_both_loops
async def test_a_late_reply_never_reaches_a_later_call(whistles: Whistles) -> None:
    coming, going = whistles(), whistles()
    async with shared_node():
        busy = await spawn(Busy)
        with pytest.raises(CallTimedOutError):
            await Busy.block(busy.within(0.05), coming.path, going.path)
        later = [Busy.echo(busy.within(None), n) for n in range(50)]
        going.blow()
        assert await asyncio.gather(*later) == list(range(50))


async def test_limits_of_many_calls_at_once_are_kept(whistles: Whistles) -> None:
    coming, going = whistles(), whistles()
    async with shared_node():
        busy = await spawn(Busy)
        blocked = Busy.block(busy.within(None), coming.path, going.path)
        await coming.heard()
        limits = [0.02 + 0.001 * n for n in range(100)]
        start = time.monotonic()
        calls = [Busy.echo(busy.within(limit), 0) for limit in limits]
        for limit, call in zip(limits, calls, strict=True):
            with pytest.raises(CallTimedOutError):
                await call
            # Never early. How late it is, the benchmark says.
            assert time.monotonic() - start >= limit
        going.blow()
        await blocked


@pytest.mark.slow
@on_both_loops
async def test_a_thread_of_a_handler_may_look_and_disturbs_nobody(whistles: Whistles) -> None:
    coming = whistles()
    async with shared_node():
        one, two = [await spawn(child(Answering).options(placement="p")) for _ in range(2)]
        assert await Answering.count(two) == 0
        looking = Answering.look_from_a_thread(one.within(20.0), coming.path, 15.0)
        await coming.heard()
        for n in range(200):
            # What comes in pieces must be read in one thread.
            await Answering.put(two, b"x" * 20_000)
            await Answering.put(one, b"x" * 20_000)
            assert await Answering.count(two) == n + 1
        looking.cancel()
        assert await Answering.count(one.within(20.0)) == 200


@on_both_loops
async def test_a_call_that_is_cancelled_as_it_begins_cancels_what_it_waits_for() -> None:
    async with shared_node():
        busy = await spawn(Busy)
        # Its task is there, and waits for messages.
        assert await Busy.pass_on(busy, []) == ["end"]
        # Both in one batch over there.
        first = Busy.notes(busy)
        waiting = Busy.wait_for_a_future(busy.within(None))
        route = current.client().route(busy.sid, busy.label)
        route.cancel(route.seq)
        await first
        # Mostly it begins; not if its server had something else to do in that moment.
        assert await Busy.notes(busy) in (["begun", "cancelled"], [])
        waiting.cancel()


@on_both_loops
async def test_a_call_in_a_thread_of_a_handler_inherits_what_is_left() -> None:
    async with shared_node():
        one, two = await spawn(Busy), await spawn(Busy)
        left = await Busy.ask_time_left_in_a_thread(one.within(20.0), two)
        assert left is not None
        assert 10 < left <= 20
