"""Processes that are stopped for a while (SIGSTOP): nothing is lost, and nothing doubled."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from itertools import pairwise
from pathlib import Path

import pytest

from noex_mp import CallTimedOutError, ServerExitedError, ShutdownTimedOut, spawn, stop
from tests.cli.harness import noex_mp, running
from tests.faults.aftermath import scene
from tests.nodes.observed import on_both_loops
from tests.processes.harness import REPOSITORY
from tests.servers.counters import Counter
from tests.servers.hostile import Hostile, Pump

pytestmark = pytest.mark.slow


@on_both_loops
async def test_a_worker_that_is_stopped_under_traffic_answers_everything_once(
    tmp_path: Path,
) -> None:
    log = tmp_path / "log"
    async with scene() as (node, hostile):
        os_pid = await Hostile.os_pid(hostile)
        calls = [Hostile.log_step(hostile.within(None), n, str(log)) for n in range(500)]
        await calls[100]
        os.kill(os_pid, signal.SIGSTOP)
        calls += [Hostile.log_step(hostile.within(None), n, str(log)) for n in range(500, 1000)]
        with pytest.raises(CallTimedOutError):
            await Hostile.recall(hostile.within(0.05), 0)
        assert not calls[-1].done()
        counter = await spawn(Counter)
        assert await Counter.increment(counter.within(2)) == 1
        os.kill(os_pid, signal.SIGCONT)
        assert await asyncio.gather(*calls) == list(range(1000))
        assert [int(line) for line in log.read_text().split()] == list(range(1000))
        assert await Hostile.os_pid(hostile) == os_pid
        assert [e for e in node.seen if e.kind == "crashed"] == []


async def test_a_stopped_worker_can_be_stopped_for_good() -> None:
    async with scene() as (node, hostile):
        os.kill(await Hostile.os_pid(hostile), signal.SIGSTOP)
        calling = Hostile.step(hostile.within(None), 1)
        await asyncio.wait_for(stop(hostile, timeout=0.1), 5)
        exited = await node.event("exited", hostile)
        assert exited.report is not None
        assert exited.report.reason == ShutdownTimedOut(0.1)
        assert isinstance((await asyncio.gather(calling, return_exceptions=True))[0], Exception)


@on_both_loops
async def test_while_the_zygote_is_stopped_calls_go_on_and_starts_wait() -> None:
    async with scene() as (node, hostile):
        counter = await spawn(Counter)
        os.kill(node.zygote, signal.SIGSTOP)
        spawning = asyncio.ensure_future(spawn(Counter))
        for n in range(1, 101):
            assert await Counter.increment(counter.within(2)) == n
        # Its death is noticed without the zygote, a second later; the restart waits for it.
        with pytest.raises(ServerExitedError):
            await Hostile.kill(hostile)
        waiting = Hostile.step(hostile.within(None), 1)
        await Counter.increment(counter)
        assert not spawning.done()
        assert not waiting.done()
        os.kill(node.zygote, signal.SIGCONT)
        assert await waiting == 1
        assert await Counter.increment(await spawning) == 1


@pytest.mark.timeout(60)
def test_while_the_root_is_stopped_for_ten_seconds_calls_between_workers_go_on(
    tmp_path: Path,
) -> None:
    log = tmp_path / "calls"
    with running("tests.faults.run_app:tree", "--name", "paused", folder=REPOSITORY) as run:
        assert noex_mp("call", "pump", "begin", f'"{log}"').returncode == 0
        before = Pump.read(log)
        run.send(signal.SIGSTOP)
        try:
            os.kill(run.os_pid_of("hostile"), signal.SIGKILL)
            # It is the pause itself that is tried here.
            begun = time.monotonic()
            samples = [before]
            while time.monotonic() - begun < 10:
                time.sleep(0.5)
                samples.append(Pump.read(log))
        finally:
            run.send(signal.SIGCONT)
        # In each half second of it calls were made.
        assert all(later.calls > earlier.calls for earlier, later in pairwise(samples))
        assert samples[-1].calls - before.calls > 1000
        run.until("hostile killed by SIGKILL")
        run.until("hostile restarted")
        assert noex_mp("call", "hostile", "step", "5").stdout == "5\n"
        assert int(noex_mp("call", "target", "increment").stdout) > samples[-1].calls
        run.send(signal.SIGTERM)
        assert run.status() == 0
