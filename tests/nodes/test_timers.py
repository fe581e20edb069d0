"""Timers: messages that come later."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from noex_mp import (
    NoNodeError,
    Ref,
    UnencodableError,
    cancel_timer,
    send_after,
    send_interval,
    spawn,
    stop,
)
from noex_mp.client import timers
from tests.nodes.observed import (
    ObservedNode,
    Whistles,
    on_both_loops,
    shared_node,
)
from tests.servers.busy import Ticking

pytestmark = pytest.mark.usefixtures("shared_nodes")


@on_both_loops
async def test_a_message_comes_once(whistles: Whistles) -> None:
    heard = whistles()
    async with shared_node():
        ticking = await spawn(Ticking, heard.path)
        await Ticking.after(ticking, {"a": 1}, 0.01)
        await heard.heard()
        assert await Ticking.all(ticking) == [{"a": 1}]
        assert await Ticking.cancel(ticking) is None


@on_both_loops
@pytest.mark.parametrize("seconds", [0, 0.0001, 0.0004, 0.0006])
async def test_a_short_time_is_a_time_too(seconds: float, whistles: Whistles) -> None:
    heard = whistles()
    async with shared_node():
        ticking = await spawn(Ticking, heard.path)
        await Ticking.after(ticking, "soon", seconds)
        await heard.heard()
        await Ticking.every(ticking, "tick", seconds or 0.0001)
        for _ in range(5):
            await heard.heard()
        assert await Ticking.cancel(ticking) is not None


@on_both_loops
async def test_an_interval_lives_on_if_the_next_time_is_near(whistles: Whistles) -> None:
    heard = whistles()
    async with shared_node():
        for missing in (0.0002, 0.0003, 0.0004):
            ticking = await spawn(Ticking, heard.path)
            await Ticking.every_and_block(ticking, "tick", 0.02, 2 * 0.02 - missing)
            for _ in range(3):
                await heard.heard()
            await stop(ticking)


@on_both_loops
async def test_messages_of_an_interval_come_until_it_is_cancelled(whistles: Whistles) -> None:
    heard = whistles()
    async with shared_node():
        ticking = await spawn(Ticking, heard.path)
        await Ticking.every(ticking, "tick", 0.005)
        for _ in range(5):
            await heard.heard()
        assert await Ticking.cancel(ticking) is not None
        count = len(await Ticking.all(ticking))
        assert count >= 5
        await Ticking.block(ticking, 0.03)
        assert len(await Ticking.all(ticking)) == count
        assert await Ticking.cancel(ticking) is None


async def test_a_timer_that_is_cancelled_sends_nothing() -> None:
    async with shared_node():
        ticking = await spawn(Ticking)
        await Ticking.after(ticking, "never", 30.0)
        left = await Ticking.cancel(ticking)
        assert left is not None
        assert 0 < left < 30.1
        assert await Ticking.cancel(ticking) is None


async def test_what_has_fired_and_waits_is_taken_back_too() -> None:
    async with shared_node():
        ticking = await spawn(Ticking)
        assert await Ticking.cancel_what_has_fired(ticking, 0.005) == 0.0
        assert await Ticking.all(ticking) == []


async def test_what_an_interval_has_missed_does_not_come_in_a_heap(whistles: Whistles) -> None:
    heard = whistles()
    async with shared_node():
        ticking = await spawn(Ticking, heard.path)
        await Ticking.every(ticking, "tick", 0.02)
        await heard.heard()
        # Both are there at once, so that no tick comes while the second is on its way.
        counting, asking = Ticking.count_and_block(ticking, 0.5), Ticking.all(ticking)
        # What came while nobody could take it is one message, whatever the machine does.
        assert len(await asking) <= await counting + 2
        await heard.heard()


async def test_a_program_may_send_later_to_any_server(whistles: Whistles) -> None:
    heard = whistles()
    async with shared_node():
        ticking = await spawn(Ticking, heard.path)
        timer = send_after(ticking, "from afar", 0.01)
        await heard.heard()
        assert await Ticking.all(ticking) == ["from afar"]
        assert cancel_timer(timer) is None
        again = send_interval(ticking, "again", 0.01)
        await heard.heard()
        await heard.heard()
        assert cancel_timer(again) is not None
        await stop(ticking)
        lost = send_after(ticking, "to nobody", 0)
        for _ in range(5):
            await asyncio.sleep(0.001)
        assert cancel_timer(lost) is None


async def test_a_message_that_cannot_be_sent_is_refused_where_the_timer_is_set() -> None:
    async with shared_node():
        ticking = await spawn(Ticking)
        for send_later in (send_after, send_interval):
            with pytest.raises(UnencodableError) as failure:
                send_later(ticking, ["x", threading.Lock()], 0.001)
            assert failure.value.path == "message[1]"


async def test_an_interval_ends_with_its_server(
    whistles: Whistles, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard, ended = whistles(), asyncio.Event()
    cancel = timers.Timer.cancel

    def noted(timer: timers.Timer) -> float | None:
        ended.set()
        return cancel(timer)

    monkeypatch.setattr(timers.Timer, "cancel", noted)
    async with ObservedNode():
        ticking = await spawn(Ticking, heard.path)
        timer = send_interval(ticking, "tick", 0.001)
        await heard.heard()
        await stop(ticking)
        await ended.wait()
        assert cancel_timer(timer) is None


@pytest.mark.parametrize("ref", [None, "counter", Ticking()])
def test_a_timer_takes_a_ref(ref: Any) -> None:
    for send_later in (send_after, send_interval):
        with pytest.raises(TypeError, match=r"takes a Ref first, got .*\n.*self.ref"):
            send_later(ref, "x", 1)


def test_only_a_timer_can_be_cancelled() -> None:
    none: Any = None
    with pytest.raises(
        TypeError, match="takes what send_after or send_interval gave you, got None"
    ):
        cancel_timer(none)


@pytest.mark.parametrize("seconds", [-1, float("nan"), float("inf"), "1", None, True])
def test_an_odd_time_is_refused(seconds: Any) -> None:
    with pytest.raises(ValueError, match=r"send_after takes seconds, a number 0 or more, got"):
        send_after(Ref("n", 1), "x", seconds)
    with pytest.raises(ValueError, match=r"send_interval takes seconds, a number above 0, got"):
        send_interval(Ref("n", 1), "x", 0 if seconds == -1 else seconds)


def test_a_timer_needs_a_running_loop() -> None:
    with pytest.raises(NoNodeError, match="needs a running event loop"):
        send_after(Ref("n", 1), "x", 1)
