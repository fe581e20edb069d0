"""joblib on our processes: the backend "noex", on real processes and with the real joblib."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest

import noex_mp.joblib
from noex_mp import Node, WorkerExitedError, shared, sync
from noex_mp.joblib import NoexBackend
from tests.pools.tasks import die_of, double, halve, pid, sleep_long
from tests.processes.harness import REPOSITORY

# The node is that of the module, and grows.
pytestmark = pytest.mark.may_leave("processes", "fds", "shared memory")

numbered = joblib.delayed(double)


@pytest.fixture(scope="module", autouse=True)
def backend() -> Iterator[None]:
    noex_mp.joblib.register()
    run(range(2))
    yield
    noex_mp.joblib.shutdown()
    sync.shutdown()


def parallel(**options: Any) -> joblib.Parallel:
    options = {"n_jobs": 2, "backend": "noex", **options}
    return joblib.Parallel(**options)


def run(values: range, **options: Any) -> Any:
    return parallel(**options)(map(numbered, values))


def variable(name: str) -> str | None:
    return os.environ.get(name)


def with_lambda(function: Any, array: Any) -> tuple[Any, Any]:
    array *= function(2)
    return (lambda: "also back"), array


def is_writable(array: Any) -> bool:
    return bool(array.flags.writeable)


def write_sum(numbers: Any, sums: Any, row: int) -> bool:
    sums[row] = numbers[row].sum()
    return is_writable(numbers)


def double_all(array: Any) -> tuple[Any, str]:
    before = array.tolist()
    array *= 2
    return before, type(array).__name__


def nested(count: int) -> int:
    return sum(joblib.Parallel(n_jobs=2)(map(numbered, range(count))))


def nested_in_processes(count: int) -> int:
    noex_mp.joblib.register()
    return sum(run(range(count)))


def wait_unless_first(number: int, first_is_done: Path) -> int:
    while number and not first_is_done.exists():
        time.sleep(0.001)
    return number


def test_results_come_in_order_from_other_processes() -> None:
    assert run(range(100)) == list(range(0, 200, 2))
    with joblib.parallel_config("noex", n_jobs=2):
        assert joblib.Parallel()(map(numbered, range(3))) == [0, 2, 4]
        assert os.getpid() not in joblib.Parallel()(joblib.delayed(pid)() for _ in range(3))


def test_short_tasks_travel_together() -> None:
    call = parallel()
    assert sum(call(map(numbered, range(3000)))) == 3000 * 2999
    assert call.n_dispatched_batches < 300


def test_lambdas_and_arrays_go_both_ways() -> None:
    arrays = [np.ones(10), np.ones(100_000)]
    task = joblib.delayed(with_lambda)
    add: Callable[[int], int] = lambda n: n + 1  # noqa: E731 - it is about lambdas
    results = parallel()(task(add, each) for each in arrays)
    for size, (function, array) in zip((10, 100_000), results, strict=True):
        assert function() == "also back"
        assert array.sum() == 3 * size
    assert arrays[1].sum() == 100_000


def test_a_shared_array_is_read_in_place() -> None:
    array: Any = shared(np.ones(100_000))
    plain = np.ones(100_000)
    assert parallel()(map(joblib.delayed(is_writable), [array, plain])) == [False, True]


@pytest.fixture
def memmap(tmp_path: Path) -> Any:
    memmap = np.memmap(tmp_path / "numbers", np.int64, "w+", shape=(4, 6))
    memmap[...] = np.arange(24).reshape(4, 6)
    return memmap


def test_what_tasks_write_to_a_memmap_is_in_its_file(memmap: Any, tmp_path: Path) -> None:
    read_only: Any = np.memmap(tmp_path / "numbers", np.int64, "r", shape=(4, 6))
    sums: Any = np.memmap(tmp_path / "sums", np.int64, "w+", shape=4)
    task = joblib.delayed(write_sum)
    assert parallel()(task(read_only, sums, row) for row in range(4)) == [False] * 4
    assert sums.tolist() == memmap.sum(axis=1).tolist() == [15, 51, 87, 123]
    assert parallel()(task(memmap, sums, row) for row in range(4)) == [True] * 4


VIEWS: dict[str, Callable[[Any], Any]] = {
    "itself": lambda m: m,
    "a slice": lambda m: m[1:3],
    "transposed": lambda m: m.T,
    "a row": lambda m: np.asarray(m)[2],
    "a column": lambda m: m[:, 1],
    "reversed": lambda m: m[::-1],
    "every other": lambda m: m[3:0:-2, 1::2].T,
    "halves": lambda m: m.view(np.int32)[:, ::2],
}


@pytest.mark.parametrize("view", VIEWS)
def test_a_view_of_a_memmap_is_a_view_of_its_file(view: str, memmap: Any) -> None:
    array = VIEWS[view](memmap)
    before = array.tolist()
    flags = array.flags
    kind = "memmap" if flags.c_contiguous or flags.f_contiguous else "ndarray"
    assert parallel()([joblib.delayed(double_all)(array)]) == [(before, kind)]
    assert array.tolist() == (2 * np.array(before)).tolist()
    assert memmap.sum() == np.arange(24).sum() + np.sum(before)


def test_a_view_that_is_read_only_arrives_so_although_its_memmap_is_not(memmap: Any) -> None:
    view = memmap[1:]
    view.flags.writeable = False
    assert parallel()(map(joblib.delayed(is_writable), [memmap, view])) == [True, False]


@pytest.mark.parametrize("case", ["gone", "copy on write", "empty"])
def test_a_memmap_that_no_file_stands_for_is_sent(case: str, memmap: Any, tmp_path: Path) -> None:
    if case == "gone":
        (tmp_path / "numbers").unlink()
    elif case == "copy on write":
        memmap = np.memmap(tmp_path / "numbers", np.int64, "c", shape=(4, 6))
        memmap[0] = -1
    else:
        memmap = memmap[:0]
    before = memmap.tolist()
    ((arrived, _),) = parallel()([joblib.delayed(double_all)(memmap)])
    assert arrived == before == memmap.tolist()


SCRIPT = """
import joblib
from noex_mp import register_type
from noex_mp.joblib import register

CONFIG = {"scale": 1}

class Money:
    def __init__(self, amount):
        self.amount = amount

    def __reduce__(self):
        raise TypeError("it is registered")

register_type(Money, lambda money: money.amount, lambda amount: Money(amount))

def scaled(n):
    return n * CONFIG["scale"]

def run(function, *args):
    return joblib.Parallel(n_jobs=2, backend="noex")(joblib.delayed(function)(n) for n in args)

if __name__ == "__main__":
    register()
    CONFIG["scale"] = 10

    class Odd(Exception):
        pass

    class Half:
        def __init__(self, n):
            if n % 2:
                raise Odd(n)
            self.n = n // 2

    def halved(n):
        return Half(scaled(n) if n < 7 else n)

    def doubled(money):
        return Money(2 * money.amount)

    print(run(scaled, 0, 1, 2))
    print([(type(half) is Half, half.n) for half in run(halved, 4, 3)])
    print([(type(money) is Money, money.amount) for money in run(doubled, Money(8))])
    try:
        run(halved, 7)
    except Odd as error:
        print("odd:", error)
"""

WITHOUT_GUARD = """
import joblib
from noex_mp.joblib import register

def scaled(n):
    return n * scale

register()
scale = 10
print(joblib.Parallel(n_jobs=2, backend="noex")(joblib.delayed(scaled)(n) for n in range(3)))
"""


def run_script(path: Path, code: str) -> str:
    path.write_text(code)
    done = subprocess.run(
        [sys.executable, str(path)],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True, text=True, timeout=20, check=False,
    )  # fmt: skip
    assert done.stderr == ""
    return done.stdout


def test_what_stands_in_the_script_travels_as_it_is_now(tmp_path: Path) -> None:
    assert run_script(tmp_path / "program.py", SCRIPT).splitlines() == [
        "[0, 10, 20]",
        "[(True, 20), (True, 15)]",
        "[(True, 16)]",
        "odd: 7",
    ]


def test_a_script_needs_no_main_guard(tmp_path: Path) -> None:
    assert run_script(tmp_path / "program.py", WITHOUT_GUARD) == "[0, 10, 20]\n"


def test_results_are_yielded_as_they_come(tmp_path: Path) -> None:
    assert list(run(range(9), return_as="generator")) == list(range(0, 18, 2))
    task, gate = joblib.delayed(wait_unless_first), tmp_path / "gate"
    results = parallel(return_as="generator_unordered", batch_size=1)(
        task(number, gate) for number in (1, 0)
    )
    assert next(results) == 0
    gate.touch()
    assert list(results) == [1]


def test_what_a_task_raises_is_raised_and_the_next_call_is_served() -> None:
    with pytest.raises(ValueError, match="7 is odd"):
        parallel(batch_size=1)(joblib.delayed(halve)(n) for n in (2, 4, 7, 8))
    assert run(range(3)) == [0, 2, 4]


def test_a_death_fails_its_call_and_the_same_processes_go_on() -> None:
    with parallel(batch_size=1) as call:
        pids = set(call(joblib.delayed(pid)() for _ in range(50)))
        with pytest.raises(WorkerExitedError, match="SIGKILL"):
            call(joblib.delayed(die_of)(n, 1) for n in range(2))
        assert len(pids & set(call(joblib.delayed(pid)() for _ in range(50)))) == 1


def test_a_call_that_takes_too_long_is_stopped(tmp_path: Path) -> None:
    with parallel(timeout=0.3, batch_size=1) as call:
        with pytest.raises(multiprocessing.TimeoutError):
            call([joblib.delayed(sleep_long)(tmp_path / "a"), joblib.delayed(double)(2)])
        # Both are free again.
        assert call(map(numbered, range(50))) == list(range(0, 100, 2))


def test_calls_inside_of_tasks_run_there_in_threads() -> None:
    assert parallel()(joblib.delayed(nested)(n) for n in (3, 4)) == [6, 12]


@pytest.mark.slow
def test_calls_inside_of_tasks_may_have_processes_of_their_own() -> None:
    assert parallel()(joblib.delayed(nested_in_processes)(n) for n in (3, 4)) == [6, 12]


def test_processes_serve_one_call_after_the_other_until_others_are_wanted() -> None:
    def pids(**options: Any) -> set[int]:
        return set(parallel(batch_size=1, **options)(joblib.delayed(pid)() for _ in range(50)))

    first = pids()
    assert pids() <= first
    assert not pids(max_tasks_per_child=1000) & first
    with Node(), joblib.parallel_config("noex"):
        assert not pids(max_tasks_per_child=1000) & first


def test_processes_are_started_again_when_their_node_has_stopped() -> None:
    assert run(range(3)) == [0, 2, 4]
    sync.shutdown()
    assert run(range(3)) == [0, 2, 4]


def test_processes_are_what_the_call_says() -> None:
    with joblib.parallel_config("noex", n_jobs=2, inner_max_num_threads=3):
        task = joblib.delayed(variable)
        assert joblib.Parallel()(task("OMP_NUM_THREADS") for _ in range(2)) == ["3", "3"]
    with pytest.raises(TypeError, match="colour"):
        run(range(3), colour="blue")


def test_n_jobs_counts_as_joblib_has_it() -> None:
    backend, cpus = NoexBackend(), joblib.cpu_count()
    jobs = [backend.effective_n_jobs(n) for n in (None, 1, 5, -1, -1000)]
    assert jobs == [1, 1, 5, cpus, 1]
    with pytest.raises(ValueError, match="n_jobs == 0"):
        backend.effective_n_jobs(0)
    assert run(range(3), n_jobs=1) == [0, 2, 4]
