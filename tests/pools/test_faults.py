"""Tasks that harm their pool before they begin, or while they wait to begin once more."""

from __future__ import annotations

import asyncio
import gc
import os
import sys
from concurrent.futures import CancelledError
from contextlib import suppress
from pathlib import Path
from types import FunctionType

import psutil
import pytest

from noex_mp import Node, Pool, ProcessPoolExecutor, WorkerExitedError
from tests.pools.gates import there
from tests.pools.tasks import die_of, sleep_long, wait_for

pytestmark = pytest.mark.usefixtures("own_node")


class Deadly:
    """Ends each process that reads it."""

    def __reduce__(self) -> tuple[object, tuple[int]]:
        return os._exit, (3,)


async def test_an_argument_that_ends_the_process_which_reads_it_fails_its_task() -> None:
    async with Node(preload=["tests.pools.tasks"]), Pool(size=1) as pool:
        deadly = pool.run(repr, Deadly())
        behind = pool.run(abs, -1)
        with pytest.raises(WorkerExitedError, match="status 3"):
            await asyncio.wait_for(deadly, 20)
        assert await behind == 1


async def test_a_start_that_is_cancelled_leaves_nothing_behind(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with Node(preload=["tests.pools.tasks"]):
        pool = Pool(size=2, initializer=sleep_long, initargs=(tmp_path / "started",))
        starting = asyncio.create_task(pool.start())
        await there(tmp_path / "started")
        starting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await starting
        [root] = psutil.Process().children()
        assert root.children() == []
    gc.collect()
    assert "never retrieved" not in caplog.text


async def test_a_value_may_use_the_pool_while_it_is_sent() -> None:
    async with Node(preload=["tests.pools.tasks"]), Pool(size=1) as pool:
        inner: list[asyncio.Future[int]] = []

        class Asking:
            def __reduce__(self) -> tuple[object, tuple[int]]:
                inner.append(pool.run(abs, -1))
                return abs, (-2,)

        # Short ones, so that the lane has several at a time.
        await asyncio.gather(*(pool.run(abs, -n) for n in range(200)))
        outer = pool.run(repr, Asking())
        assert await asyncio.wait_for(outer, 20) == "2"
        assert await asyncio.gather(*inner) == [1] * len(inner)


def wait_the_second_time(before: Path, started: Path, gate: Path) -> None:
    if before.exists():
        wait_for(str(started), str(gate))
    before.touch()


def test_a_task_that_waits_to_be_run_again_is_cancelled(tmp_path: Path) -> None:
    before, started, gate = tmp_path / "before", tmp_path / "started", tmp_path / "gate"
    os.mkfifo(started)
    os.mkfifo(gate)
    prepare = (before, started, gate)
    with ProcessPoolExecutor(1, initializer=wait_the_second_time, initargs=prepare) as pool:
        future = pool.options(retries=1).submit(die_of, 1, 1, tmp_path / "died")
        started.read_text()
        pool.shutdown(wait=False, cancel_futures=True)
        # Not blocking: the pool may have ended that process before it came so far.
        with open(os.open(gate, os.O_RDWR), "w") as here:
            here.write("go")
        # It is run again if the pool has heard of the death only now.
        with suppress(CancelledError):
            assert future.result(20) == 1


class Counter:
    """Counts how often it was called."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self) -> int:
        self.count += 1
        return self.count


def functions_called(name: str) -> int:
    found = (each for each in gc.get_objects() if isinstance(each, FunctionType))
    return sum(1 for each in found if each.__name__ == name)


async def test_a_lane_keeps_no_state_and_no_data_of_a_function_for_the_next_task() -> None:
    data = bytes(1_000_000)

    def with_data() -> int:
        return len(data)

    async with Node(preload=["tests.pools.tasks"]), Pool(size=1) as pool:
        counter = Counter()
        assert [await pool.run(counter) for _ in range(3)] == [1, 1, 1]
        assert await pool.run(with_data) == len(data)
        assert await pool.run(functions_called, "with_data") == 0


def test_a_callback_that_raises_what_it_likes_ends_no_pool(
    caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    started, gate = tmp_path / "started", tmp_path / "gate"
    os.mkfifo(started)
    os.mkfifo(gate)
    with ProcessPoolExecutor(1) as pool:
        future = pool.submit(wait_for, str(started), str(gate))
        future.add_done_callback(lambda _: sys.exit("from a callback"))
        started.read_text()
        gate.write_text("go")
        assert future.result(20) == "go"
        assert pool.submit(abs, -2).result(20) == 2
    assert "from a callback" in caplog.text
