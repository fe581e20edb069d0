"""dask's graphs on our executor: the real dask, on real processes."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from noex_mp import ProcessPoolExecutor, WorkerExitedError, sync
from tests.pools.tasks import die, double, pid

# Any: it says little of its types.
dask: Any = importlib.import_module("dask")

# The node is that of the module, and grows.
pytestmark = pytest.mark.may_leave("processes", "fds", "shared memory")


@pytest.fixture(scope="module", autouse=True)
def executor() -> Iterator[ProcessPoolExecutor]:
    with ProcessPoolExecutor(max_workers=2) as executor:
        executor.submit(double, 1).result()
        with dask.config.set(scheduler=executor):
            yield executor
    sync.shutdown()


def test_a_graph_runs_in_its_processes() -> None:
    lazy = dask.delayed
    assert lazy(sum)([lazy(double)(n) for n in range(10)]).compute() == 90
    assert os.getpid() not in dask.compute(*(lazy(pid)() for _ in range(5)))
    add: Callable[[int], int] = lambda value: value + 1  # noqa: E731 - it is about lambdas
    assert lazy(add)(lazy(double)(4)).compute() == 9


def test_it_may_be_given_for_one_graph_alone(executor: ProcessPoolExecutor) -> None:
    with dask.config.set(scheduler="synchronous"):
        assert dask.compute(dask.delayed(pid)())[0] == os.getpid()
        assert dask.compute(dask.delayed(pid)(), scheduler=executor)[0] != os.getpid()


def test_a_task_that_fails_fails_its_graph_alone() -> None:
    with pytest.raises(ValueError, match="invalid literal"):
        dask.delayed(int)("x").compute()
    with pytest.raises(WorkerExitedError, match="SIGKILL"):
        dask.delayed(die)().compute()
    assert dask.delayed(double)(3).compute() == 6
