"""Tasks that are stopped: on real processes."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from noex_mp import (
    Hung,
    Pool,
    ProcessPoolExecutor,
    TaskCancelledError,
    TaskTimedOutError,
    WorkerExitedError,
    sync,
)
from tests.nodes.observed import (
    shared_node,
)
from tests.pools import tasks
from tests.pools.gates import LADDER, Gate, marks, there
from tests.pools.tasks import double, mark, pid, wait_for

pytestmark = pytest.mark.usefixtures("shared_nodes")


@pytest.fixture
def started(tmp_path: Path) -> Path:
    return tmp_path / "started"


@pytest.mark.parametrize(("task", "rung"), LADDER[1::2])
async def test_a_time_limit_stops_a_task_in_the_same_way(
    task: Callable[[Path], object], rung: str, started: Path
) -> None:
    async with shared_node(), Pool(size=1, grace=0.1) as pool:
        # The time in which the process imports the task is the task's.
        await pool.run(pid)
        with pytest.raises(TaskTimedOutError) as failure:
            await pool.options(timeout=0.1).run(task, started)
        assert failure.value.rung == rung
        assert failure.value.limit == 0.1
        assert isinstance(failure.value, TimeoutError)
        assert await pool.run(double, 2) == 4


async def test_what_ends_in_time_is_not_touched() -> None:
    async with shared_node(), Pool(size=1) as pool:
        limited = pool.options(timeout=60)
        assert await asyncio.gather(*(limited.run(double, n) for n in range(100))) == [
            2 * n for n in range(100)
        ]
        with pytest.raises(ValueError, match="invalid literal"):
            await limited.run(int, "x")


async def test_a_task_that_waits_for_its_turn_uses_no_time(tmp_path: Path) -> None:
    gate = Gate(tmp_path)
    async with shared_node(), Pool(size=1) as pool:
        await asyncio.gather(*(pool.run(double, n) for n in range(500)))
        pool.run(wait_for, *gate.arguments)
        second = pool.options(timeout=0.05).run(double, 4)
        await gate.begun()
        # Several times its limit.
        await asyncio.sleep(0.3)
        assert not second.done()
        await gate.open()
        assert await second == 8


async def test_a_task_that_is_being_stopped_may_reach_its_time_limit_as_well(
    started: Path,
) -> None:
    faults: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, fault: faults.append(fault))
    async with shared_node(), Pool(size=1, grace=0.7) as pool:
        await pool.run(pid)
        future = pool.options(timeout=1.5).run(tasks.hold_on, started)
        await there(started)
        future.cancel()
        # After 2.1 s.
        assert await future.stopped() == "kill"
        assert await pool.run(double, 2) == 4
    assert not faults


async def test_the_code_of_a_task_tidies_up(started: Path, tmp_path: Path) -> None:
    async with shared_node(), Pool(size=1, grace=0.01) as pool:
        future = pool.run(tasks.tidy_up, started, tmp_path / "mark")
        await there(started)
        future.cancel()
        assert await future.stopped() == "exception"
        assert marks(tmp_path)


async def test_what_a_task_that_is_to_stop_raises_of_other_servers_is_no_end_of_its_own(
    tmp_path: Path,
) -> None:
    gate = Gate(tmp_path)
    async with shared_node(), Pool(size=1, grace=60) as pool:
        future = pool.run(tasks.tell_behind_a_gate, *gate.arguments)
        await gate.begun()
        future.cancel()
        await gate.open()
        assert await future.stopped() == "token"


async def test_the_report_of_a_kill_says_that_it_was_us_and_what_the_task_did(
    started: Path,
) -> None:
    async with shared_node(), Pool(size=1, grace=0.01) as pool:
        # The time in which the process imports the task is the task's.
        await pool.run(pid)
        with pytest.raises(TaskTimedOutError) as failure:
            await pool.options(timeout=0.05).run(tasks.keep_the_gil, started)
        cause = failure.value.__cause__
        assert isinstance(cause, WorkerExitedError)
        reason = cause.report.reason
        assert isinstance(reason, Hung)
        assert (reason.verdict, reason.callback) == ("c", "keep_the_gil")
        assert cause.report.rule == "task_stop"
        assert "keep_the_gil" in cause.report.stack


async def test_a_task_that_waits_is_never_sent(tmp_path: Path) -> None:
    gate = Gate(tmp_path)
    async with shared_node(), Pool(size=1) as pool:
        first = pool.run(wait_for, *gate.arguments)
        second = pool.run(mark, tmp_path / "mark")
        await gate.begun()
        assert second.cancel()
        assert await second.stopped() == "dropped"
        await gate.open()
        await first
        assert await pool.run(double, 2) == 4
        assert not marks(tmp_path)


async def test_what_was_sent_ahead_goes_on_after_a_kill(started: Path, tmp_path: Path) -> None:
    async with shared_node(), Pool(size=1, grace=0.05) as pool:
        await asyncio.gather(*(pool.run(double, n) for n in range(500)))
        stuck = pool.run(tasks.keep_the_gil, started)
        ahead = [pool.run(double, n) for n in range(5)]
        dropped = pool.run(mark, tmp_path / "mark")
        await there(started)
        dropped.cancel()
        stuck.cancel()
        assert await stuck.stopped() == "kill"
        assert await asyncio.gather(*ahead) == [0, 2, 4, 6, 8]
        assert await dropped.stopped() == "dropped"
        assert not marks(tmp_path)


async def test_nothing_is_sent_to_a_process_whose_task_is_being_stopped(started: Path) -> None:
    async with shared_node(), Pool(size=2, grace=1000.0) as pool:
        # So short that several are sent at a time.
        await asyncio.gather(*(pool.run(double, n) for n in range(3000)))
        stubborn = pool.run(tasks.sleep_long, started)
        await there(started)
        stubborn.cancel()
        assert await asyncio.gather(*(pool.run(double, n) for n in range(50)))
        await pool.abort()


async def test_a_time_limit_around_a_task_stops_it(started: Path) -> None:
    async with shared_node(), Pool(size=1, grace=0.05) as pool:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await pool.run(tasks.sleep_long, started)
        assert await pool.run(double, 2) == 4


async def test_the_signal_alone_does_nothing(tmp_path: Path) -> None:
    gate = Gate(tmp_path)
    async with shared_node(), Pool(size=1) as pool:
        lane = await pool.run(pid)
        os.kill(lane, signal.SIGURG)
        running = pool.run(wait_for, *gate.arguments)
        await gate.begun()
        os.kill(lane, signal.SIGURG)
        await gate.open()
        assert await running == "go"
        assert await pool.run(pid) == lane


async def test_only_what_was_cancelled_can_say_how_it_was_stopped() -> None:
    async with shared_node(), Pool(size=1) as pool:
        future = pool.run(double, 2)
        await future
        assert not future.cancel()
        with pytest.raises(Exception, match=r"Write future.cancel\(\) first"):
            await future.stopped()


@pytest.mark.parametrize(
    ("grace", "error"),
    [(-1, ValueError), (float("nan"), ValueError), ("1", TypeError), (True, TypeError)],
)
async def test_a_grace_has_to_be_one(grace: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="grace"):
        Pool(size=1, grace=grace)


# --- the executor ---------------------------------------------------------------------------------


@pytest.fixture
def executor() -> Iterator[ProcessPoolExecutor]:
    with ProcessPoolExecutor(max_workers=1) as pool:
        yield pool
    sync.shutdown()


def test_an_executor_stops_a_task_that_runs(executor: ProcessPoolExecutor, tmp_path: Path) -> None:
    gate = Gate(tmp_path)
    running = executor.submit(wait_for, *gate.arguments)
    waiting = executor.submit(mark, tmp_path / "mark")
    gate.wait_for_it()
    # As the standard library's.
    assert not running.cancel()
    assert executor.stop(running)
    assert executor.stop(waiting)
    assert waiting.cancelled()
    with pytest.raises(TaskCancelledError) as failure:
        running.result()
    assert failure.value.rung == "exception"
    assert executor.submit(double, 2).result() == 4
    assert not executor.stop(running)
    assert not marks(tmp_path)


def test_an_executor_outlives_a_task_that_reaches_its_time_limit_while_it_is_being_stopped(
    executor: ProcessPoolExecutor, started: Path
) -> None:
    limited = executor.options(timeout=1.0).submit(tasks.hold_on, started)
    waiting = executor.submit(double, 1)
    while not started.exists():
        pass
    assert executor.stop(limited)
    with pytest.raises(TaskCancelledError) as failure:
        limited.result(timeout=10)
    assert failure.value.rung == "kill"
    assert waiting.result(timeout=10) == 2
    assert executor.submit(double, 2).result(timeout=10) == 4
