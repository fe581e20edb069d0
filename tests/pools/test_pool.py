"""`Pool` on real processes."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest

from noex_mp import ConfigError, Node, Pool, UnencodableError, WorkerExitedError, spawn
from noex_mp.pools.named_pool import LINES
from tests.nodes.observed import (
    shared_node,
)
from tests.pools.tasks import apply, die, double, fill, later, pid, wait_for

pytestmark = pytest.mark.usefixtures("shared_nodes")


async def test_tasks_run_in_other_processes() -> None:
    async with shared_node(), Pool(size=2) as pool:
        assert await pool.run(pow, 2, exp=10) == 1024
        assert await pool.run(pid) != os.getpid()


async def test_closures_and_coroutine_functions_run_too() -> None:
    factor = 3

    def times(n: int) -> int:
        return n * factor

    async with shared_node(), Pool(size=1) as pool:
        assert await pool.run(times, 5) == 15
        assert await pool.run(later, 5) == 5


async def test_an_initializer_may_be_a_coroutine_function() -> None:
    async def prepare(value: str) -> None:
        await asyncio.sleep(0)
        os.environ["PREPARED"] = value

    async with Node(), Pool(size=1, initializer=prepare, initargs=("yes",)) as pool:
        assert await pool.run(os.getenv, "PREPARED") == "yes"


async def test_lambdas_may_be_among_the_arguments() -> None:
    factor = 3
    times: Callable[[int], int] = lambda value: value * factor  # noqa: E731 - it is about lambdas
    async with shared_node(), Pool(size=1) as pool:
        assert await pool.run(apply, times, 2) == 6
        assert await pool.map(apply, [times], [3]) == [9]


async def test_an_argument_that_cannot_be_sent_is_named_as_the_task_counts_it() -> None:
    lock, printing = threading.Lock(), cast(Any, print)
    async with shared_node():
        cpu = await spawn(Pool(size=1))
        async with Pool(size=1, seed=1) as own:
            for pool in (own, own.options(memory_limit="1GB"), Pool.named(cpu)):
                with pytest.raises(UnencodableError) as first:
                    await pool.run(id, lock)
                assert first.value.path == "args[0]"
                with pytest.raises(UnencodableError) as second:
                    await pool.run(print, 1, [lock])
                assert second.value.path == "args[1][0]"
                with pytest.raises(UnencodableError) as named:
                    await pool.run(printing, end=lock)
                assert named.value.path == "kwargs['end']"


async def test_what_a_named_pool_cannot_send_takes_nobodys_place() -> None:
    async with shared_node():
        pool = Pool.named(await spawn(Pool(size=1)))
        for _ in range(LINES + 1):
            with pytest.raises(UnencodableError):
                await pool.run(id, threading.Lock())
        async with asyncio.timeout(10):
            assert await pool.run(double, 2) == 4


async def test_map_and_imap_keep_the_order() -> None:
    async with shared_node(), Pool(size=2) as pool:
        assert await pool.map(double, range(500)) == list(range(0, 1000, 2))
        assert [n async for n in pool.imap(double, range(500))] == list(range(0, 1000, 2))


async def test_a_killed_process_fails_its_task_and_nothing_else() -> None:
    async with shared_node(), Pool(size=2) as pool:
        futures = [pool.run(double, n) for n in range(100)]
        killed = pool.run(die)
        futures += [pool.run(double, n) for n in range(100)]
        assert len(await asyncio.gather(*futures)) == 200
        with pytest.raises(WorkerExitedError, match="SIGKILL"):
            await killed


async def test_a_higher_priority_goes_first(tmp_path: Path) -> None:
    started, gate = tmp_path / "started", tmp_path / "gate"
    os.mkfifo(started)
    os.mkfifo(gate)
    done: list[str] = []

    async def run(name: str, priority: int) -> None:
        await pool.options(priority=priority).run(double, 1)
        done.append(name)

    async with Node(), Pool(size=1) as pool:
        busy = pool.run(wait_for, str(started), str(gate))
        await asyncio.to_thread(started.read_text)
        async with asyncio.TaskGroup() as tasks:
            for name, priority in (("low", -1), ("first", 0), ("second", 0), ("high", 9)):
                tasks.create_task(run(name, priority))
            await asyncio.sleep(0)
            await asyncio.to_thread(gate.write_text, "go")
        assert await busy == "go"
    assert done == ["high", "first", "second", "low"]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"timeout": 0}, ValueError, "timeout to be seconds above 0, or None, got 0"),
        ({"timeout": float("nan")}, ValueError, "timeout to be seconds"),
        ({"timeout": "1"}, TypeError, "timeout to be seconds"),
        ({"timeout": True}, TypeError, "timeout to be seconds"),
        ({"retries": -1}, ValueError, "retries to be a whole number"),
        ({"retries": 1.5}, TypeError, "retries to be a whole number"),
        ({"priority": "high"}, TypeError, "priority to be a whole number"),
        ({"colour": 1}, TypeError, "no option colour"),
        ({"memory_limit": "much"}, ValueError, 'memory_limit as bytes or "500MB"'),
        ({"memory_limit": 0}, ValueError, "memory_limit as bytes"),
        ({"memory_limit": [1]}, TypeError, "memory_limit as bytes"),
    ],
)
async def test_options_are_checked(options: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Pool(size=1).options(**options)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits the data of a process")
async def test_a_task_that_takes_more_than_its_limit_fails_alone() -> None:
    async with shared_node(), Pool(size=1) as pool:
        limited = pool.options(memory_limit="64MB")
        before = await pool.run(pid)
        with pytest.raises(MemoryError):
            await limited.run(fill, 100_000_000)
        assert await limited.run(fill, 1_000_000) == 1_000_000
        assert await limited.map(fill, [10, 20]) == [10, 20]
        assert await limited.run(later, 5) == 5
        # It is the task's, not the process's.
        assert await pool.run(fill, 100_000_000) == 100_000_000
        assert await pool.run(pid) == before


async def test_a_pool_that_was_not_started_says_so() -> None:
    with pytest.raises(ConfigError, match="async with Pool"):
        Pool(size=1).run(double, 1)
