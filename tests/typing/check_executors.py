"""What mypy and pyright must say about executors. Read, never run.

An ignore that a checker does not need is an error, so each one below proves a complaint.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import Executor, Future, as_completed
from typing import assert_type

from noex_mp import ProcessPoolExecutor


def length(text: str) -> int:
    return len(text)


async def length_later(text: str, twice: bool = False) -> int:
    return len(text)


def check_what_a_task_returns(pool: ProcessPoolExecutor) -> None:
    assert_type(pool.submit(length, "tea"), Future[int])
    assert_type(pool.submit(length_later, "tea"), Future[int])
    assert_type(pool.submit(length_later, "tea", twice=True).result(), int)
    assert_type(pool.map(length, ["tea"]), Iterator[int])
    assert_type(pool.map(length_later, ["tea"], chunksize=None), Iterator[int])
    assert_type(pool.map(length_later, ["tea"], timeout=1.0, buffersize=2), Iterator[int])


def check_what_a_task_takes(pool: ProcessPoolExecutor) -> None:
    pool.submit(length, 1)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]
    pool.submit(length_later, "tea", often=True)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


def check_options() -> None:
    with ProcessPoolExecutor(2).options(timeout=600) as pool:
        assert_type(pool.submit(length, "tea"), Future[int])
        assert_type(pool.submit(length_later, "tea"), Future[int])
        assert_type(pool.map(length_later, ["tea"]), Iterator[int])
        assert_type(pool.options(retries=1).options(priority=1).submit(length, "tea"), Future[int])
        assert_type(pool.stop(pool.submit(length, "tea")), bool)
    pool.options(retry=1)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


def check_that_it_is_an_executor(pool: ProcessPoolExecutor) -> None:
    for executor in (pool, pool.options(retries=1)):
        any_of_them: Executor = executor
        assert_type(any_of_them.submit(length, "tea"), Future[int])
    futures = [pool.submit(length_later, "tea")]
    assert_type([future.result() for future in as_completed(futures)], list[int])


async def check_that_it_serves_an_event_loop(pool: ProcessPoolExecutor) -> None:
    loop = asyncio.get_running_loop()
    assert_type(await loop.run_in_executor(pool, length, "tea"), int)
