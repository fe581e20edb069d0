"""Event loops of tasks: a plain function may run one, as in any process; `async` ones share one."""

from __future__ import annotations

import asyncio
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from noex_mp import (
    Node,
    Pool,
    ProcessPoolExecutor,
    Ref,
    ServerExitedError,
    TaskCancelledError,
    spawn,
)
from tests.nodes.observed import Whistles, on_both_loops, shared_node
from tests.pools.gates import there
from tests.pools.tasks import await_long, later, run_later, run_with_a_signal, stay_in_a_loop
from tests.servers.counters import Counter
from tests.servers.hostile import Hostile

pytestmark = pytest.mark.usefixtures("shared_nodes")


@pytest.mark.usefixtures("own_node")
def test_a_plain_function_of_an_executor_may_run_a_loop() -> None:
    with ProcessPoolExecutor(max_workers=1, initializer=run_later, initargs=(1,)) as pool:
        assert pool.submit(run_later, 2).result(timeout=10) == 2
        assert list(pool.map(run_later, range(6), chunksize=3)) == list(range(6))
        of_the_process: Future[Any] = pool.submit(later, 3)
        assert of_the_process.result(timeout=10) == 3


async def test_a_plain_function_of_a_pool_may_run_a_loop() -> None:
    async with shared_node(), Pool(size=1, initializer=run_later, initargs=(1,)) as pool:
        # More than one, of which some are timed.
        assert [await pool.run(run_later, n) for n in range(3)] == [0, 1, 2]
        assert await pool.map(run_later, range(6), chunksize=3) == list(range(6))
        assert await pool.options(memory_limit="1GB").run(run_later, 4) == 4
        # What it returns is awaited in the loop of the process.
        assert await pool.run(partial(later, 5)) == 5
        assert await pool.run(later, 6) == 6


async def test_with_a_seed_too() -> None:
    async with shared_node(), Pool(size=1, seed=1) as pool:
        assert await pool.run(run_later, 2) == 2


async def test_a_loop_that_is_stopped_leaves_that_of_the_process(tmp_path: Path) -> None:
    started = tmp_path / "started"
    async with shared_node(), Pool(size=1) as pool:
        task = pool.run(stay_in_a_loop, started)
        await there(started)
        task.cancel()
        assert await task.stopped() == "exception"
        assert await pool.run(later, 3) == 3
        with pytest.raises(TaskCancelledError):
            await pool.options(timeout=0.01).run(stay_in_a_loop, started)
        assert await pool.run(run_later, 4) == 4


@on_both_loops
async def test_a_loop_with_signals_leaves_the_process_its_own(tmp_path: Path) -> None:
    async with Node(preload=["tests.pools.tasks"]), Pool(size=1, grace=2.0) as pool:
        assert await pool.run(run_with_a_signal, 3) == 3
        started = tmp_path / "started"
        task = pool.run(await_long, started)
        await there(started)
        task.cancel()
        assert await task.stopped() == "cancel"


def add_to(counter: Ref[Counter]) -> None:
    Counter.add(counter, 1)
    Counter.add.nowait(counter, 2)


async def until(counter: Ref[Counter], value: int) -> None:
    async with asyncio.timeout(10):
        while await Counter.increment(counter, 0) < value:
            pass


def add_in_turn(counter: Ref[Counter], by: int) -> int:
    Counter.add.sync(counter, by)
    return Counter.increment.sync(counter, 0)


def wait_for_it(hostile: Ref[Hostile], started: str, go_on: str) -> None:
    Hostile.pause.sync(hostile.within(None), started, go_on)


async def test_what_a_plain_function_sends_goes_on_through_the_loop_of_the_process() -> None:
    async with shared_node(), Pool(size=1) as pool:
        counter = await spawn(Counter)
        await pool.run(add_to, counter)
        await until(counter, 3)


async def test_a_plain_function_may_call_servers_as_a_thread_does() -> None:
    async with shared_node(), Pool(size=1) as pool:
        counter = await spawn(Counter)
        assert await pool.run(add_in_turn, counter, 1) == 1
        assert await pool.map(add_in_turn, [counter] * 3, [2, 3, 4]) == [3, 6, 10]
        # Its process calls by its loop as well.
        await pool.run(add_to, counter)
        await until(counter, 13)


async def test_a_plain_function_that_waits_for_a_server_is_stopped_like_any(
    whistles: Whistles,
) -> None:
    started, go_on = whistles("started"), whistles("go on")
    async with shared_node(), Pool(size=1) as pool:
        hostile, counter = await spawn(Hostile), await spawn(Counter)
        task = pool.run(wait_for_it, hostile, started.path, go_on.path)
        await started.heard()
        task.cancel()
        assert await task.stopped() == "exception"
        # It was told that nobody waits, or it would be at this for ever.
        assert await Hostile.echo(hostile, 5) == 5
        assert await pool.run(add_in_turn, counter, 1) == 1


async def test_a_plain_function_hears_that_the_server_it_waits_for_dies(
    whistles: Whistles,
) -> None:
    started, go_on = whistles("started"), whistles("go on")
    async with shared_node() as node, Pool(size=1) as pool:
        hostile, counter = await spawn(Hostile), await spawn(Counter)
        task = pool.run(wait_for_it, hostile, started.path, go_on.path)
        await started.heard()
        node.kill(hostile)
        with pytest.raises(ServerExitedError):
            await task
        assert await pool.run(add_in_turn, counter, 1) == 1
