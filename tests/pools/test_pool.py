"""`Pool` on real processes."""

from __future__ import annotations

import asyncio
import os

import pytest

from noex_mp import Node, Pool, WorkerExitedError
from tests.pools.tasks import die, double, later, pid


async def test_tasks_run_in_other_processes() -> None:
    async with Node(), Pool(size=2) as pool:
        assert await pool.run(pow, 2, exp=10) == 1024
        assert await pool.run(pid) != os.getpid()


async def test_closures_and_coroutine_functions_run_too() -> None:
    factor = 3

    def times(n: int) -> int:
        return n * factor

    async with Node(), Pool(size=1) as pool:
        assert await pool.run(times, 5) == 15
        assert await pool.run(later, 5) == 5


async def test_map_and_imap_keep_the_order() -> None:
    async with Node(), Pool(size=2) as pool:
        assert await pool.map(double, range(500)) == list(range(0, 1000, 2))
        assert [n async for n in pool.imap(double, range(500))] == list(range(0, 1000, 2))


async def test_a_killed_process_fails_its_task_and_nothing_else() -> None:
    async with Node(), Pool(size=2) as pool:
        futures = [pool.run(double, n) for n in range(100)]
        killed = pool.run(die)
        futures += [pool.run(double, n) for n in range(100)]
        assert len(await asyncio.gather(*futures)) == 200
        with pytest.raises(WorkerExitedError, match="SIGKILL"):
            await killed
