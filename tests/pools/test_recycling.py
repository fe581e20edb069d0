"""Processes of a pool that are replaced, and what they are like: on real processes."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import weakref
from pathlib import Path

import pytest

from noex_mp import Node, OutOfMemory, Pool, ProcessPoolExecutor, WorkerExitedError, sync
from noex_mp.pools.lanes import lane_options
from tests.nodes.observed import (
    shared_node,
)
from tests.pools.gates import Gate
from tests.pools.tasks import die, double, pid, sleep_long, wait_for

pytestmark = pytest.mark.usefixtures("shared_nodes")


def leak(megabytes: int) -> int:
    leaked.append(bytearray(os.urandom(1024)) * 1024 * megabytes)
    return os.getpid()


leaked: list[bytearray] = []


def mark_and_block_third(folder: Path) -> None:
    number = len(list(folder.iterdir()))
    (folder / f"{number} {os.getpid()}").touch()
    while number >= 2:
        signal.pause()


def ups(folder: Path) -> list[int]:
    """Return the pids of the processes that are up, or blocked, in their order."""
    return [int(path.name.split()[1]) for path in sorted(folder.iterdir())]


async def two_are_there(folder: Path) -> None:
    while len(ups(folder)) < 2:  # noqa: ASYNC110 - other processes make them
        await asyncio.sleep(0.001)


def variable(name: str) -> str | None:
    return os.environ.get(name)


def nice() -> int:
    return os.getpriority(os.PRIO_PROCESS, 0)


async def test_a_process_is_replaced_after_so_many_tasks() -> None:
    async with shared_node(), Pool(size=1, max_tasks_per_child=2) as pool:
        pids = [await pool.run(pid) for _ in range(10)]
        assert len(set(pids)) == 5
        assert pids[::2] == pids[1::2]


@pytest.mark.parametrize("size", [1, 3])
async def test_many_tasks_at_once_are_all_done(size: int) -> None:
    async with shared_node(), Pool(size=size, max_tasks_per_child=2) as pool:
        results = await asyncio.gather(*(pool.run(double, n) for n in range(20)))
        assert results == list(range(0, 40, 2))
        assert await pool.map(double, range(20)) == list(range(0, 40, 2))


async def test_a_process_is_replaced_when_it_is_old() -> None:
    async with shared_node(), Pool(size=1, max_age=0.05) as pool:
        first = await pool.run(pid)
        # A task after the other, until one runs elsewhere.
        while await pool.run(pid) == first:
            pass


async def test_a_pool_that_has_stopped_is_not_kept_until_its_processes_would_be_old() -> None:
    async with Node():
        async with Pool(size=1, max_age=3600) as pool:
            await pool.run(pid)
        gone = asyncio.Event()
        weakref.finalize(pool.dispatcher, gone.set)
        del pool
        while not gone.is_set():
            await asyncio.sleep(0)
            gc.collect()


async def test_a_death_during_a_replacement_loses_its_own_task_only(tmp_path: Path) -> None:
    gate = Gate(tmp_path)
    async with shared_node(), Pool(size=1, max_tasks_per_child=1) as pool:
        first = pool.run(wait_for, *gate.arguments)
        await gate.begun()
        killed = pool.run(die)
        rest = [pool.run(double, n) for n in range(5)]
        await gate.open()
        assert await first == "go"
        with pytest.raises(WorkerExitedError):
            await killed
        assert await asyncio.gather(*rest) == [0, 2, 4, 6, 8]


async def test_another_stands_by_before_it_is_needed(tmp_path: Path) -> None:
    # The third process does not come up: its initializer waits for ever.
    async with Node(preload=[__name__]):
        pool = Pool(
            size=1, max_tasks_per_child=1, initializer=mark_and_block_third, initargs=(tmp_path,)
        )
        await pool.start()
        await two_are_there(tmp_path)
        # One after the other: nothing is to start between them.
        assert [await pool.run(pid), await pool.run(pid)] == ups(tmp_path)[:2]
        await pool.abort()


@pytest.mark.linux_only("macOS has no memory limit")
async def test_the_one_that_stands_by_takes_the_place_of_one_that_leaks(tmp_path: Path) -> None:
    async with Node(preload=[__name__]):
        pool = Pool(
            size=1, memory_limit="300MB", initializer=mark_and_block_third, initargs=(tmp_path,)
        )
        await pool.start()
        await two_are_there(tmp_path)
        first, second = ups(tmp_path)[:2]
        assert await pool.run(leak, 260) == first
        # A task after the other, until one runs elsewhere.
        while (found := await pool.run(pid)) == first:
            pass
        assert found == second
        await pool.abort()


@pytest.mark.linux_only("macOS has no memory limit")
async def test_a_process_that_leaks_is_replaced_between_two_tasks() -> None:
    async with shared_node(), Pool(size=1, memory_limit="300MB") as pool:
        first = await pool.run(leak, 260)
        for _ in range(500):
            if await pool.run(pid) != first:
                break
            await asyncio.sleep(0.01)
        else:
            pytest.fail("it was not replaced")


@pytest.mark.linux_only("macOS has no memory limit")
async def test_a_task_that_takes_more_than_it_may_is_killed() -> None:
    async with shared_node(), Pool(size=1, memory_limit="100MB") as pool:
        with pytest.raises(WorkerExitedError) as failure:
            await pool.run(_eat)
        assert isinstance(failure.value.report.reason, OutOfMemory)
        assert await pool.run(double, 2) == 4


def _eat() -> None:
    while True:
        leak(10)


async def test_processes_share_the_cpus_or_are_what_the_pool_says(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    async with Node():
        async with Pool(size=2, nice=7) as pool:
            share = max(1, len(os.sched_getaffinity(0)) // 2)
            assert await pool.run(variable, "OMP_NUM_THREADS") == str(share)
            assert await pool.run(nice) == 7
        async with Pool(size=1, threads=3) as pool:
            assert await pool.run(variable, "OMP_NUM_THREADS") == "3"


def test_an_executor_replaces_its_processes_too() -> None:
    # The standard library's hangs here, or did.
    with ProcessPoolExecutor(max_workers=2, max_tasks_per_child=2) as executor:
        futures = [executor.submit(pid) for _ in range(10)]
        assert len({future.result() for future in futures}) >= 5
    sync.shutdown()


async def test_an_exception_that_leaves_the_pool_ends_it_at_once(tmp_path: Path) -> None:
    async with shared_node():
        pool = Pool(size=1)
        await pool.start()
        running = pool.run(sleep_long, tmp_path / "started")
        waiting = pool.run(double, 2)
        await pool.__aexit__(ZeroDivisionError, ZeroDivisionError(), None)
        assert running.cancelled()
        assert waiting.cancelled()


def test_an_initializer_may_take_its_time() -> None:
    # Unlike the start of other servers, which has five seconds.
    assert lane_options(size=1).get("init_timeout", 5.0) is None
