"""How each side does some work: the pools, and two processes that one sets up by hand.

Each is a context manager that yields what does the work once and returns the results in order; all
processes are up by then, have loaded what the work needs, and are idle.
"""

from __future__ import annotations

import asyncio
import importlib
import multiprocessing
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, wait
from contextlib import AbstractContextManager, AsyncExitStack, contextmanager
from multiprocessing.connection import Connection
from time import sleep
from typing import Any

import uvloop

from bench.pools import tasks
from bench.pools.work import Work, lpt

__all__ = ["SIDES", "WORKERS", "executor", "loky", "ours", "warm_up", "warm_up_ours"]

WORKERS = 2

Do = Callable[[], list[Any]]
Side = Callable[[Work], AbstractContextManager[Do]]

_fork = multiprocessing.get_context("fork")


def warm_up(pool: Executor, workers: int) -> None:
    """Wait until all workers are up: each gets a task while the others are at theirs."""
    wait([pool.submit(tasks.nap, 0.05) for _ in range(2 * workers)])


@contextmanager
def executor(work: Work) -> Generator[Do, None, None]:
    """Use `concurrent.futures.ProcessPoolExecutor`."""
    with ProcessPoolExecutor(WORKERS) as pool:
        _rehearse(pool, work)
        yield lambda: list(pool.map(work.run, work.items, chunksize=work.chunksize))


@contextmanager
def loky(work: Work) -> Generator[Do, None, None]:
    """Use loky's, whose workers are interpreters of their own."""
    with importlib.import_module("loky").ProcessPoolExecutor(WORKERS) as pool:
        _rehearse(pool, work)
        yield lambda: list(pool.map(work.run, work.items, chunksize=work.chunksize))


@contextmanager
def multiprocessing_pool(work: Work) -> Generator[Do, None, None]:
    """Use `multiprocessing.Pool`."""
    with multiprocessing.Pool(WORKERS) as pool:
        pool.starmap(tasks.rehearse, [(work.run, work.items[0])] * 2 * WORKERS, chunksize=1)
        yield lambda: pool.map(work.run, work.items, chunksize=work.chunksize)


@contextmanager
def ours(work: Work) -> Generator[Do, None, None]:
    """Use `noex_mp.Pool`, which chooses its own chunksize."""
    noex_mp: Any = importlib.import_module("noex_mp")
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        stack = AsyncExitStack()
        pool = runner.run(stack.enter_async_context(noex_mp.Pool(size=WORKERS)))
        runner.run(_rehearse_ours(pool, work))
        # Not `run`: when it is done it makes a text of its task, with the result in it
        # (`signal.getsignal`, of a handler that knows the task), which took 20 ms for the blocks.
        until_complete = runner.get_loop().run_until_complete
        try:
            yield lambda: until_complete(pool.map(work.run, work.items))
        finally:
            runner.run(stack.aclose())


async def warm_up_ours(pool: Any, workers: int) -> None:
    """Do as `warm_up` does."""
    await asyncio.gather(*(pool.run(tasks.nap, 0.05) for _ in range(2 * workers)))


def _rehearse(pool: Executor, work: Work) -> None:
    wait([pool.submit(tasks.rehearse, work.run, work.items[0]) for _ in range(2 * WORKERS)])


async def _rehearse_ours(pool: Any, work: Work) -> None:
    tries = [pool.run(tasks.rehearse, work.run, work.items[0]) for _ in range(2 * WORKERS)]
    await asyncio.gather(*tries)


# --- by hand: two processes that were forked with all the data, and do nothing else -------------


@contextmanager
def split(work: Work) -> Generator[Do, None, None]:
    """Give each process its share beforehand, by what each task is known to cost."""
    shares = lpt(work.costs, WORKERS)

    def worker(pipe: Connection, number: int) -> None:
        work.run(work.items[0])
        pipe.recv()
        pipe.send([(i, work.run(work.items[i])) for i in shares[number]])

    with _two(worker) as pipes:

        def do() -> list[Any]:
            for pipe in pipes:
                pipe.send(None)
            return _in_order(len(work.items), [pipe.recv() for pipe in pipes])

        yield do


@contextmanager
def counter(work: Work) -> Generator[Do, None, None]:
    """Let each process take the next task, by a counter that they share."""
    count = len(work.items)
    following = _fork.Value("q", 0)

    def taken() -> Generator[int, None, None]:
        while True:
            with following.get_lock():
                i: int = following.value
                following.value = i + 1
            if i >= count:
                return
            yield i

    def worker(pipe: Connection, _: int) -> None:
        work.run(work.items[0])
        pipe.recv()
        pipe.send([(i, work.run(work.items[i])) for i in taken()])

    with _two(worker) as pipes:

        def do() -> list[Any]:
            for pipe in pipes:
                pipe.send(None)
            return _in_order(count, [pipe.recv() for pipe in pipes])

        yield do


@contextmanager
def _two(worker: Callable[[Connection, int], None]) -> Generator[list[Connection], None, None]:
    ends = [_fork.Pipe() for _ in range(WORKERS)]
    processes = [
        _fork.Process(target=worker, args=(theirs, number), daemon=True)
        for number, (_, theirs) in enumerate(ends)
    ]
    for process in processes:
        process.start()
    sleep(0.2)
    yield [ours for ours, _ in ends]
    for process in processes:
        process.join()


def _in_order(count: int, found: Sequence[Sequence[tuple[int, Any]]]) -> list[Any]:
    results: list[Any] = [None] * count
    for share in found:
        for i, result in share:
            results[i] = result
    return results


SIDES: dict[str, Side] = {
    "ours": ours,
    "executor": executor,
    "multiprocessing": multiprocessing_pool,
    "loky": loky,
    "split": split,
    "counter": counter,
}
