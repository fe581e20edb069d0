"""What is measured of the pools. Each function is one run, in a process of its own."""

from __future__ import annotations

import asyncio
import importlib
import statistics
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor, Future, ProcessPoolExecutor, wait
from functools import partial
from tempfile import TemporaryDirectory
from time import perf_counter, perf_counter_ns
from typing import Any

import psutil

from bench.floor import Numbers, percentiles
from bench.pools import tasks
from bench.pools.sides import SIDES, WORKERS, warm_up, warm_up_ours
from bench.pools.work import WORK, Work, no_ops

__all__ = [
    "array",
    "array_of_ours",
    "in_flight",
    "in_flight_of_ours",
    "kill",
    "maps",
    "maps_of_ours",
    "ready",
    "real_work",
    "round_trip",
]

TASKS = 10_000
GOES = 7
CHUNKSIZES = (100, 400, 1_250, 2_500, 5_000)
IN_FLIGHT = 64
KILL_TASKS = 1_000
KILL_AT = 100
TASK_SECONDS = 1e-3
ARRAY_MIB = 64
READY = 8

NewPool = Callable[..., Executor]


def _ours() -> Any:
    """Return the package; imported here, that no peer carries what it loads."""
    return importlib.import_module("noex_mp")


def _pool(name: str) -> NewPool:
    """Return the class of an executor, imported here for the same reason."""
    if name == "executor":
        return ProcessPoolExecutor
    module = {"ours": "noex_mp", "loky": "loky"}[name]
    new: NewPool = importlib.import_module(module).ProcessPoolExecutor
    return new


def round_trip(name: str) -> Numbers:
    """One task at a time: `p50` and `p99` in µs."""
    with _pool(name)(max_workers=1) as pool:
        for i in range(200):
            pool.submit(tasks.same, i).result()
        took: list[int] = []
        for i in range(3_000):
            start = perf_counter_ns()
            pool.submit(tasks.same, i).result()
            took.append(perf_counter_ns() - start)
        return percentiles(took)


def maps(name: str) -> Numbers:
    """10,000 tasks that do nothing through `map`: `one` task a chunk, and the `best` chunksize.

    The median of some goes each, in tasks per second; the best of the chunksizes.
    """
    with SIDES[name](no_ops(TASKS, 1)) as do:
        found = {"one": _rate_of(do)}
    rates: list[float] = []
    for chunksize in CHUNKSIZES:
        with SIDES[name](no_ops(TASKS, chunksize)) as do:
            rates.append(_rate_of(do))
    return {**found, "best": max(rates)}


async def maps_of_ours() -> Numbers:
    """The same of ours: `one`, and `own`, the chunksize that the pool chooses.

    And `executor`: our executor's `map`, with one task a chunk.
    """
    found: Numbers = {}
    for name, chunksize in (("one", 1), ("own", None)):
        async with _ours().Pool(size=WORKERS) as pool:
            await warm_up_ours(pool, WORKERS)
            took: list[float] = []
            for _ in range(GOES):
                start = perf_counter()
                results = await pool.map(tasks.same, range(TASKS), chunksize=chunksize)
                took.append(perf_counter() - start)
                assert results[-1] == TASKS - 1
            found[name] = _rate(took)
    with _pool("ours")(max_workers=WORKERS) as executor:
        warm_up(executor, WORKERS)
        found["executor"] = _rate_of(
            lambda: list(executor.map(tasks.same, range(TASKS), chunksize=1))
        )
    return found


def _rate_of(do: Callable[[], list[Any]]) -> float:
    took: list[float] = []
    for _ in range(GOES):
        start = perf_counter()
        results = do()
        took.append(perf_counter() - start)
        assert results[-1] == TASKS - 1
    return _rate(took)


def _rate(took: list[float]) -> float:
    # The first go is for the pages and caches of new processes.
    return TASKS / statistics.median(took[1:])


async def in_flight() -> Numbers:
    """64 tasks in flight by `loop.run_in_executor`: tasks per second."""
    with ProcessPoolExecutor(WORKERS) as pool:
        warm_up(pool, WORKERS)
        loop = asyncio.get_running_loop()
        return await _rate_in_flight(lambda i: loop.run_in_executor(pool, tasks.same, i))


async def in_flight_of_ours() -> Numbers:
    """64 tasks in flight by `await pool.run`: tasks per second."""
    async with _ours().Pool(size=WORKERS) as pool:
        await warm_up_ours(pool, WORKERS)
        return await _rate_in_flight(lambda i: pool.run(tasks.same, i))


async def _rate_in_flight(run: Callable[[int], Awaitable[int]]) -> Numbers:
    """Keep 64 callers busy, each of which waits for its task before it asks for the next."""

    async def caller() -> None:
        for i in range(each):
            await run(i)

    each = 5
    await asyncio.gather(*(caller() for _ in range(IN_FLIGHT)))
    each = 60
    rates: list[float] = []
    for _ in range(3):
        start = perf_counter()
        await asyncio.gather(*(caller() for _ in range(IN_FLIGHT)))
        rates.append(IN_FLIGHT * each / (perf_counter() - start))
    return {"per_second": statistics.median(rates)}


def real_work(name: str, side: str) -> Numbers:
    """A real workload, done by one side: `s`."""
    work = WORK[name]()
    with SIDES[side](work) as do:
        start = perf_counter()
        results = do()
        took = perf_counter() - start
    assert len(results) == len(work.items)
    _check(work, results)
    return {"s": took}


def _check(work: Work, results: list[Any]) -> None:
    if work.run is tasks.burn:
        assert len(set(results)) == WORKERS, "not all workers took part"
        return
    for i in (0, len(results) - 1):
        expected = work.run(work.items[i])
        same = (expected == results[i]).all() if work.run is tasks.products else (
            expected == results[i]
        )  # fmt: skip
        assert same, f"result {i} is another's"


def _array() -> Any:
    import numpy as np

    return np.random.default_rng(1).random(ARRAY_MIB * 1024 * 1024 // 8)


def array(name: str) -> Numbers:
    """64 MiB of numbers to both of 2 workers, and their sums back: `ms`."""
    data = _array()
    with _pool(name)(max_workers=WORKERS) as pool:
        warm_up(pool, WORKERS)
        return {"ms": _array_ms(pool, data, lambda: data)}


def array_of_ours() -> Numbers:
    """The same of ours: `ms`; by `shared`, which is a part of what is timed: `shared_ms`.

    And `again_ms`: what was put there once already, and goes to both once more.
    """
    shared = _ours().shared
    data = _array()
    with _pool("ours")(max_workers=WORKERS) as pool:
        warm_up(pool, WORKERS)
        there = shared(data)
        return {
            "ms": _array_ms(pool, data, lambda: data),
            "shared_ms": _array_ms(pool, data, lambda: shared(data)),
            "again_ms": _array_ms(pool, data, lambda: there),
        }


def _array_ms(pool: Executor, data: Any, argument: Callable[[], Any]) -> float:
    expected = tasks.total(data)
    took: list[float] = []
    for _ in range(5):
        start = perf_counter()
        value = argument()
        sums = [pool.submit(tasks.total, value) for _ in range(WORKERS)]
        assert [future.result() for future in sums] == [expected] * WORKERS
        took.append((perf_counter() - start) * 1e3)
    return statistics.median(took[1:])


def kill(name: str, retries: int = 0) -> Numbers:
    """1,000 tasks of 1 ms, of which the 100th kills its worker, one of 2: `failed`, `ratio`.

    The ratio is of the time until the last one is done or has failed to that of a run in peace.
    """
    with _pool(name)(max_workers=WORKERS) as pool, TemporaryDirectory() as folder:
        warm_up(pool, WORKERS)
        chosen: Any = pool
        if retries:
            chosen = chosen.options(retries=retries)
        _, undisturbed = _burned(chosen, partial(tasks.burn, TASK_SECONDS))
        failed, disturbed = _burned(chosen, partial(tasks.die_once, f"{folder}/died"))
        assert failed or retries, "a task that kills its worker was given to another"
        return {"failed": failed, "ratio": disturbed / undisturbed}


def _burned(pool: Any, other: Callable[[], int]) -> tuple[int, float]:
    start = perf_counter()
    futures: list[Future[int]] = [
        pool.submit(other) if i == KILL_AT else pool.submit(tasks.burn, TASK_SECONDS)
        for i in range(KILL_TASKS)
    ]
    wait(futures)
    took = perf_counter() - start
    return sum(future.exception() is not None for future in futures), took


async def ready() -> Numbers:
    """A pool of 8 that is ready: `ms`; and what one of its workers has for itself: `mb`.

    Idle, in a node that is up, with the application preloaded, and numpy in it. `used_mb` is what
    the worker has that has run some tasks.
    """
    noex_mp = _ours()
    async with noex_mp.Node(preload=["bench.pools.tasks", "numpy"]):
        async with noex_mp.Pool(size=1) as pool:
            await pool.run(tasks.same, 1)
        before = _children()
        start = perf_counter()
        async with noex_mp.Pool(size=READY) as pool:
            took = (perf_counter() - start) * 1e3
            await asyncio.sleep(0.2)
            lanes = [child for child in _children() if child not in before]
            assert len(lanes) == READY
            idle = statistics.median(lane.memory_full_info().uss for lane in lanes)
            used = {await pool.run(tasks.nap, 0.0) for _ in range(20 * READY)}
            await asyncio.sleep(0.2)
            own = statistics.median(psutil.Process(each).memory_full_info().uss for each in used)
            return {"ms": took, "mb": idle / 1e6, "used_mb": own / 1e6}


def _children() -> list[psutil.Process]:
    return psutil.Process().children(recursive=True)
