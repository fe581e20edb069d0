"""Handlers that never return: the rest goes on, calls time out in their time, a stop ends them."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable
from typing import Any

import pytest

from noex_mp import (
    CallTimedOutError,
    ServerExitedError,
    Shutdown,
    ShutdownTimedOut,
    child,
    spawn,
    stop,
)
from tests.faults.aftermath import scene
from tests.nodes.observed import Whistles, on_both_loops
from tests.processes.harness import wait_for_ends
from tests.servers.counters import Counter
from tests.servers.faulty import Faulty
from tests.servers.hostile import Hostile

pytestmark = pytest.mark.slow

ENDLESS: dict[str, Callable[..., asyncio.Future[Any]]] = {
    "a loop in Python": Hostile.loop,
    "a loop in C that holds the GIL": Hostile.loop_in_c,
    "an async handler that never awaits": Hostile.spin,
    "a sleep": Hostile.doze,
    "a wait for nothing": Hostile.wait,
}


@on_both_loops
async def test_calls_time_out_in_their_time_and_the_rest_goes_on(whistles: Whistles) -> None:
    async with scene() as (node, _):
        counter = await spawn(Counter)
        for endless in ENDLESS.values():
            hostile, started = await spawn(Hostile), whistles()
            going_on = endless(hostile.within(None), started.path)
            await started.heard()
            begun = time.monotonic()
            with pytest.raises(CallTimedOutError) as failure:
                await Hostile.step(hostile.within(0.1), 1)
            # A loop's clock may count in milliseconds.
            assert 0.098 <= time.monotonic() - begun < 1
            assert failure.value.timeout == 0.1
            # Neither another server nor a new one has to wait for it.
            await Counter.increment(counter.within(1))
            await Counter.increment((await spawn(Counter)).within(1))
            node.kill(hostile)
            with pytest.raises(ServerExitedError):
                await going_on


@on_both_loops
async def test_a_stop_ends_them_by_force_within_its_limits_and_says_so(whistles: Whistles) -> None:
    async with scene() as (node, _):
        for endless in ENDLESS.values():
            hostile, started = await spawn(Hostile), whistles()
            pidfd = os.pidfd_open(node.os_pid_of(hostile))
            going_on = endless(hostile.within(None), started.path)
            await started.heard()
            await asyncio.wait_for(stop(hostile, timeout=0.1), 5)
            assert wait_for_ends([pidfd], 0) == []
            os.close(pidfd)
            with pytest.raises(ServerExitedError) as failure:
                await going_on
            report = failure.value.report
            if endless is Hostile.wait:
                # One that waits can be asked: its loop runs.
                assert report.reason in (Shutdown(), ShutdownTimedOut(0.1))
            else:
                assert report.reason == ShutdownTimedOut(0.1)
            assert (report.requested, report.next) == (True, "stays down")


async def test_one_that_ignores_sigterm_is_killed_a_second_later(whistles: Whistles) -> None:
    async with scene() as (node, hostile):
        started = whistles()
        await Hostile.handle_signals(hostile)
        pidfd = os.pidfd_open(node.os_pid_of(hostile))
        looping = Hostile.loop(hostile.within(None), started.path)
        await started.heard()
        os.kill(node.os_pid_of(hostile), signal.SIGTERM)
        await asyncio.wait_for(stop(hostile, timeout=0.1), 5)
        assert wait_for_ends([pidfd], 0) == []
        os.close(pidfd)
        with pytest.raises(ServerExitedError, match="was killed"):
            await looping


async def test_a_node_with_endless_handlers_stops_in_its_limits(whistles: Whistles) -> None:
    pidfds: list[int] = []
    calls: list[asyncio.Future[Any]] = []
    async with scene() as (node, _):
        for endless in (Faulty.loop, Faulty.loop_in_c):
            started = whistles()
            faulty = await spawn(child(Faulty).options(shutdown=0.1))
            pidfds.append(os.pidfd_open(node.os_pid_of(faulty)))
            calls.append(endless(faulty.within(None), started.path))
            await started.heard()
    assert wait_for_ends(pidfds, 0) == []
    for pidfd in pidfds:
        os.close(pidfd)
    for failure in await asyncio.gather(*calls, return_exceptions=True):
        assert isinstance(failure, ServerExitedError)
