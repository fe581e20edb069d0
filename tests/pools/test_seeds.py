"""Random numbers of tasks: distinct without a seed, and with one the same wherever they run."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest

import noex_mp.joblib
from noex_mp import (
    ConfigError,
    Node,
    Pool,
    ProcessPoolExecutor,
    Supervisor,
    current_task,
    sync,
)
from noex_mp.pools.named_pool import NamedPool
from tests.pools.tasks import die_of

Drawn = tuple[float, float, int | None]

# The node is that of the module, and grows.
pytestmark = pytest.mark.may_leave("processes", "fds", "shared memory")


@pytest.fixture(scope="module", autouse=True)
def node() -> Iterator[None]:
    with ProcessPoolExecutor(max_workers=1) as pool:
        pool.submit(draw).result()
    yield
    sync.shutdown()


def draw(_: object = None) -> Drawn:
    return random.random(), float(np.random.random()), current_task().seed


async def draw_later(_: object = None) -> Drawn:
    await asyncio.sleep(0)
    return draw()


def draw_and_die_once(once: Path) -> Drawn:
    drawn = draw()
    die_of(1, 1, once)
    return drawn


def all_ways(size: int, chunksize: int | None = 1, seed: int = 7, **options: Any) -> list[Any]:
    # Any: an executor's types know nothing of `async` functions.
    later: Any = draw_later
    with ProcessPoolExecutor(max_workers=size, seed=seed, **options) as pool:
        return [
            pool.submit(draw).result(),
            *pool.map(draw, range(30), chunksize=chunksize),
            *pool.map(draw, range(30), chunksize=chunksize, buffersize=2),
            *pool.map(later, range(10), chunksize=chunksize),
            pool.options(priority=1, timeout=60).submit(later).result(),
        ]


def test_a_task_draws_the_same_numbers_wherever_and_with_whomever_it_runs() -> None:
    expected = all_ways(1)
    assert all_ways(3) == expected
    assert all_ways(2, chunksize=7) == expected
    assert all_ways(2, chunksize=None) == expected
    assert all_ways(2, max_tasks_per_child=20) == expected


def test_each_task_and_each_seed_has_numbers_of_its_own() -> None:
    drawn = all_ways(1) + all_ways(1, seed=8)
    assert [len(set(column)) for column in zip(*drawn, strict=True)] == [len(drawn)] * 3


def test_a_task_that_is_run_again_draws_the_same_numbers(tmp_path: Path) -> None:
    with ProcessPoolExecutor(max_workers=1, seed=7) as pool:
        expected = pool.submit(draw).result()
    with ProcessPoolExecutor(max_workers=1, seed=7) as pool:
        assert (
            pool.options(retries=1).submit(draw_and_die_once, tmp_path / "x").result() == expected
        )


async def drawn_from(pool: Pool | NamedPool, chunksize: int | None) -> list[Any]:
    return [
        await pool.run(draw),
        await pool.map(draw, range(30), chunksize=chunksize),
        # How many these are is not known before.
        await pool.map(draw, iter(range(30)), chunksize=chunksize),
        [each async for each in pool.imap(draw_later, range(9), chunksize=chunksize)],
        await pool.options(memory_limit="1GB").run(draw),
    ]


async def drawn_by(size: int, chunksize: int | None) -> list[Any]:
    async with Pool(size=size, seed=7) as pool:
        return await drawn_from(pool, chunksize)


async def test_a_pool_of_an_event_loop_has_seeds_too() -> None:
    async with Node(preload=[__name__]):
        assert await drawn_by(1, 1) == await drawn_by(2, 4) == await drawn_by(2, None)


async def test_who_uses_a_pool_of_the_node_has_seeds_of_their_own() -> None:
    async with Node(Supervisor(Pool(size=2, name="cpu")), preload=[__name__]):
        seeded, disturbing = Pool.named("cpu", seed=7), Pool.named("cpu")
        others = disturbing.map(draw, range(100), chunksize=1)
        assert await drawn_from(seeded, 4) == await drawn_by(1, 1)
        assert len({*await others}) == 100


def test_without_a_seed_each_process_draws_numbers_of_its_own() -> None:
    with ProcessPoolExecutor(max_workers=2, max_tasks_per_child=1) as pool:
        drawn = list(pool.map(draw, range(6)))
    assert [len(set(column)) for column in zip(*drawn, strict=True)] == [6, 6, 1]


def test_a_seed_is_a_whole_number_and_for_pools_that_count_their_calls() -> None:
    wrong: Any = "7"
    with pytest.raises(TypeError, match="expected seed to be a whole number"):
        ProcessPoolExecutor(seed=wrong)
    with pytest.raises(ConfigError, match=r"shares has no seed.*\n.*seed="):
        Pool(size=1, seed=7).as_supervisor()
    noex_mp.joblib.register()
    with pytest.raises(TypeError, match="give each task a seed"):
        joblib.Parallel(n_jobs=2, backend="noex", seed=7)([joblib.delayed(draw)()])
