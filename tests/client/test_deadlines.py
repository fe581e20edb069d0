"""Deadlines, looked at once a tick: with a clock that the test moves."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from noex_mp import CallTimedOutError
from noex_mp.client import client
from noex_mp.client import route as route_module
from noex_mp.client.client import TICK, Client
from noex_mp.client.route import Route
from noex_mp.core.operations import OperationInfo
from noex_mp.core.ref import CALLBACK, SentOperation

ECHO = OperationInfo("echo", "call", print)


class Control:
    """A control link that leads nowhere."""

    closed = False

    def post(self, frame: list[Any]) -> None:
        """Take a frame."""


class Time:
    """The clock, and the client's ticker: both stand still until the test moves them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._now = 1000.0
        self._callback: Callable[[], None] | None = None
        self.is_ticking = False
        monkeypatch.setattr(client, "monotonic", lambda: self._now)
        monkeypatch.setattr(route_module, "monotonic", lambda: self._now)
        monkeypatch.setattr(client, "Ticker", self._ticker)

    def _ticker(self, loop: object, seconds: float, callback: Callable[[], None]) -> Time:
        assert seconds == TICK
        self._callback = callback
        return self

    def start(self) -> None:
        """Begin to tick, when the test says so."""
        self.is_ticking = True

    def stop(self) -> None:
        """Tick no more."""
        self.is_ticking = False

    def pass_by(self, seconds: float) -> None:
        """Let time go by in a blocked loop: no timer fires."""
        self._now += seconds

    def tick(self, seconds: float = TICK) -> None:
        """Let time go by, and the ticker tick once if it runs."""
        self._now += seconds
        if self.is_ticking and self._callback is not None:
            self._callback()


@pytest.fixture
async def time(monkeypatch: pytest.MonkeyPatch) -> Time:
    return Time(monkeypatch)


@pytest.fixture
async def route(time: Time) -> Route:
    control: Any = Control()
    return Client(asyncio.get_running_loop(), control, "n").route(1, "Counter")


def call(route: Route, limit: float | None) -> asyncio.Future[Any]:
    return route.invoke(ECHO, (), {}, limit)


async def test_a_call_fails_when_its_time_is_over_and_never_before(
    time: Time, route: Route
) -> None:
    future = call(route, 1.0)
    for _ in range(int(1.0 / TICK)):
        time.tick()
        assert not future.done()
    time.tick()
    assert future.done()
    with pytest.raises(CallTimedOutError) as failure:
        await future
    assert failure.value.timeout == 1.0


@pytest.mark.parametrize(
    ("operation", "name"), [(ECHO, "Counter.echo"), (CALLBACK, "Counter.handle_call")]
)
async def test_what_ran_out_of_time_is_named(
    operation: SentOperation, name: str, time: Time, route: Route
) -> None:
    future = route.invoke(operation, ("a message",), {}, 1.0)
    time.pass_by(1.5)
    time.tick()
    with pytest.raises(CallTimedOutError) as failure:
        await future
    assert failure.value.operation == name


async def test_a_cast_that_ran_out_of_time_is_named(time: Time, route: Route) -> None:
    future = route.cast(CALLBACK, ("a message",), {}, 1.0)
    time.pass_by(1.5)
    time.tick()
    with pytest.raises(CallTimedOutError) as failure:
        await future
    assert failure.value.operation == "Counter.handle_cast"


async def test_a_call_made_after_the_loop_was_blocked_has_all_its_time(
    time: Time, route: Route
) -> None:
    call(route, None)
    early = call(route, 3.0)
    time.tick()
    time.pass_by(10.0)
    late = call(route, 3.0)
    time.tick()
    assert early.done()
    assert not late.done()
    for _ in range(int(3.0 / TICK) - 1):
        time.tick()
    assert not late.done()
    for _ in range(3):
        time.tick()
    assert late.done()
    early.exception()
    late.exception()


async def test_limits_of_all_lengths_hold_beside_each_other(time: Time, route: Route) -> None:
    limits = [2.0, 0.1, None, 1.0, 0.5, 0.1]
    futures = [call(route, limit) for limit in limits]
    for passed in range(1, int(2.5 / TICK)):
        time.tick()
        for limit, future in zip(limits, futures, strict=True):
            over = limit is not None and passed * TICK > limit
            assert future.done() == over
    for future in futures:
        assert not future.done() or isinstance(future.exception(), CallTimedOutError)


async def test_a_call_that_was_cancelled_is_noticed_whatever_its_limit(
    time: Time, route: Route
) -> None:
    for limit in (None, 60.0):
        call(route, limit).cancel()
        time.tick()
        assert not route.pending


async def test_no_timer_runs_while_nobody_waits(time: Time, route: Route) -> None:
    call(route, 60.0).cancel()
    assert time.is_ticking
    route.pending.clear()
    for _ in range(20):
        time.tick()
    assert not time.is_ticking
    call(route, 60.0).cancel()
    assert time.is_ticking
