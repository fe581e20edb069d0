"""`ProcessPoolExecutor` on real processes."""

from __future__ import annotations

import asyncio
import gc
import importlib
import logging
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import weakref
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from typing import Any

import pytest

from noex_mp import (
    BadChildSpecError,
    Pool,
    ProcessPoolExecutor,
    TaskCancelledError,
    WorkerExitedError,
)
from tests.pools.gates import Gate
from tests.pools.tasks import (
    die_of,
    double,
    pid,
    sum_in_a_pool,
    tell_pid_and_wait,
    wait_for,
)
from tests.processes.harness import REPOSITORY, wait_for_ends

pytestmark = pytest.mark.usefixtures("own_node")


def test_tasks_run_in_other_processes() -> None:
    with ProcessPoolExecutor(max_workers=2) as pool:
        assert pool.submit(pow, 2, exp=10).result() == 1024
        assert pool.submit(pid).result() != os.getpid()


def test_results_of_a_map_come_in_order() -> None:
    with ProcessPoolExecutor(max_workers=2) as pool:
        assert list(pool.map(double, range(1000))) == list(range(0, 2000, 2))
        assert list(pool.map(double, range(1000), chunksize=7)) == list(range(0, 2000, 2))


class Two:
    """A whole number that is no `int`, as numpy has them."""

    def __index__(self) -> int:
        return 2


def test_a_chunksize_is_a_whole_number_of_tasks() -> None:
    sizes: list[tuple[Any, type[Exception]]] = [
        (0, ValueError), (-1, ValueError), (1.5, TypeError), (True, TypeError), ("2", TypeError),
    ]  # fmt: skip
    two: Any = Two()
    with ProcessPoolExecutor(max_workers=1) as pool:
        for size, error in sizes:
            with pytest.raises(error, match="chunksize"):
                next(pool.map(double, range(3), timeout=10, chunksize=size))
        assert list(pool.map(double, range(3), chunksize=two)) == [0, 2, 4]


def test_what_a_task_raises_is_raised_by_its_future() -> None:
    with ProcessPoolExecutor(max_workers=1) as pool:
        failed = pool.submit(int, "x")
        with pytest.raises(ValueError, match="invalid literal"):
            failed.result()
        assert pool.submit(double, 2).result() == 4


def test_a_killed_process_fails_its_task_and_nothing_else(tmp_path: Path) -> None:
    fifos = [(tmp_path / f"{n} told", tmp_path / f"{n} gate") for n in range(2)]
    for fifo in chain(*fifos):
        os.mkfifo(fifo)
    with ProcessPoolExecutor(max_workers=2) as pool:
        stays, dies = [pool.submit(tell_pid_and_wait, *each) for each in fifos]
        _, os_pid = [int(told.read_text()) for told, _ in fifos]
        waiting = [pool.submit(double, n) for n in range(100)]
        os.kill(os_pid, signal.SIGKILL)
        # By the process that takes the place of the dead one: the other is busy all the while.
        assert [each.result(timeout=10) for each in waiting] == [2 * n for n in range(100)]
        with pytest.raises(WorkerExitedError, match="SIGKILL"):
            dies.result()
        fifos[0][1].write_text("go")
        assert stays.result(timeout=10) == "go"


PROXIES = """
import multiprocessing
from noex_mp import ProcessPoolExecutor
from tests.pools.tasks import put_in

if __name__ == "__main__":
    with multiprocessing.get_context("spawn").Manager() as manager:
        queue = manager.Queue()
        with ProcessPoolExecutor(1, initializer=put_in, initargs=(queue, "ready")) as pool:
            pool.submit(put_in, queue, "done").result()
        print(queue.get(), queue.get())
"""


def test_proxies_of_a_manager_are_arguments_of_tasks_and_of_the_initializer(
    tmp_path: Path,
) -> None:
    # In a program of its own: multiprocessing leaves a process behind for as long as it runs.
    script = tmp_path / "program.py"
    script.write_text(PROXIES)
    environ = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(
        [sys.executable, str(script)],
        env=environ, stdout=subprocess.PIPE, text=True, timeout=30, check=True,
    )  # fmt: skip
    assert done.stdout == "ready done\n"


def test_nothing_of_a_task_is_kept_once_it_is_done() -> None:
    with ProcessPoolExecutor(max_workers=1) as pool:
        # The first one is given to it before it has a process.
        for _ in range(2):
            argument = {1}
            future = pool.submit(set, argument)
            gone = [threading.Event() for _ in range(3)]
            weakref.finalize(argument, gone[0].set)
            weakref.finalize(future, gone[1].set)
            weakref.finalize(future.result(), gone[2].set)
            del argument, future
            assert [event.wait(10) for event in gone] == [True] * 3


async def test_it_serves_an_event_loop() -> None:
    loop = asyncio.get_running_loop()
    with ProcessPoolExecutor(max_workers=1) as pool:
        assert await loop.run_in_executor(pool, double, 21) == 42


def test_callbacks_may_use_the_pool() -> None:
    with ProcessPoolExecutor(max_workers=1) as pool:
        chained: Future[Future[int]] = Future()
        first = pool.submit(double, 1)
        first.add_done_callback(lambda f: chained.set_result(pool.submit(double, f.result())))
        assert chained.result().result() == 4


def test_who_submits_never_calls_the_callbacks_of_others() -> None:
    here = threading.current_thread()
    held = threading.Lock()
    is_adding = False
    called_here = 0

    def call_back(_: Future[int]) -> None:
        nonlocal called_here
        if threading.current_thread() is not here:
            with held:
                return
        # One that comes too late is called by whoever adds it.
        called_here += not is_adding

    with ProcessPoolExecutor(max_workers=1) as pool:
        pool.submit(double, 0).result()
        for _ in range(10):
            # Who holds this would wait for itself.
            with held:
                for n in range(1000):
                    future = pool.submit(double, n)
                    is_adding = True
                    future.add_done_callback(call_back)
                    is_adding = False
            pool.submit(double, 0).result()
    assert called_here == 0


def test_many_threads_submit_at_once() -> None:
    def submit_many(start: int) -> int:
        futures = [pool.submit(double, n) for n in range(start, start + 200)]
        return sum(f.result() for f in futures)

    with ProcessPoolExecutor(max_workers=2) as pool, ThreadPoolExecutor(8) as threads:
        sums = list(threads.map(submit_many, range(0, 1600, 200)))
    assert sum(sums) == sum(range(0, 3200, 2))


def test_a_task_may_use_a_pool_of_its_own() -> None:
    with ProcessPoolExecutor(max_workers=1) as pool:
        assert pool.submit(sum_in_a_pool, 10).result() == 90


# --- with options --------------------------------------------------------------------------------


def test_options_are_added_to_those_that_were_chosen_before(tmp_path: Path) -> None:
    with ProcessPoolExecutor(max_workers=1) as pool:
        kept = pool.options(retries=1).options(priority=5)
        assert kept.submit(die_of, 1, 1, tmp_path / "first").result(timeout=10) == 1
        replaced = kept.options(retries=0)
        with pytest.raises(WorkerExitedError):
            replaced.submit(die_of, 1, 1, tmp_path / "second").result(timeout=10)


def test_a_pool_with_options_stops_a_task_that_runs(tmp_path: Path) -> None:
    gate = Gate(tmp_path)
    with ProcessPoolExecutor(max_workers=1) as pool:
        limited = pool.options(timeout=600)
        running = limited.submit(wait_for, *gate.arguments)
        gate.wait_for_it()
        assert limited.stop(running)
        with pytest.raises(TaskCancelledError):
            running.result(timeout=10)
        assert limited.submit(double, 2).result(timeout=10) == 4


def test_a_pool_lives_as_long_as_it_is_known_with_options() -> None:
    with_options = ProcessPoolExecutor(max_workers=1).options(priority=1).options(retries=1)
    assert isinstance(with_options, Executor)
    gc.collect()
    process = os.pidfd_open(with_options.submit(pid).result(timeout=10))
    try:
        del with_options
        gc.collect()
        assert wait_for_ends([process]) == []
    finally:
        os.close(process)


def test_the_end_of_a_pool_with_options_is_the_pools_end() -> None:
    pool = ProcessPoolExecutor(max_workers=1)
    with pool.options(retries=1) as with_retries:
        assert list(with_retries.map(double, range(3))) == [0, 2, 4]
    with pytest.raises(RuntimeError, match="after shutdown"):
        pool.submit(double, 1)


# --- what it is made with ------------------------------------------------------------------------


@pytest.mark.parametrize("make", [ProcessPoolExecutor, Pool])
@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"initializer": 5}, TypeError, "initializer must be a callable, got 5"),
        ({"initializer": print, "initargs": 5}, TypeError, "expected initargs to be a tuple"),
        ({"memory_limit": "lots"}, BadChildSpecError, "expected memory_limit to be bytes"),
        ({"nice": 100}, BadChildSpecError, "expected nice to be a whole number from -20 to 19"),
        ({"cpu_affinity": "first"}, BadChildSpecError, "expected cpu_affinity to be"),
        ({"max_tasks_per_child": 0}, ValueError, "max_tasks_per_child must be greater than 0"),
    ],
)
def test_a_wrong_option_is_refused_before_there_is_a_task(
    make: Any, options: Any, error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        make(1, **options)


def test_a_context_of_multiprocessing_is_taken_and_the_log_says_that_it_has_no_effect(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, logger="noex_mp")
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, context) as pool, ProcessPoolExecutor(1, mp_context=None):
        assert pool.submit(double, 2).result() == 4
    [said] = [each for each in caplog.records if "mp_context" in each.getMessage()]
    assert (said.name, said.levelno) == ("noex_mp", logging.INFO)
    assert said.getMessage().startswith("mp_context=SpawnContext has no effect")


class Counting(ProcessPoolExecutor):
    """As people write one: what goes through it is counted."""

    submitted = shut = 0

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Any:
        self.submitted += 1
        return super().submit(fn, *args, **kwargs)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        self.shut += 1
        super().shutdown(wait, cancel_futures=cancel_futures)


def test_what_a_subclass_does_otherwise_is_done_everywhere() -> None:
    with Counting(max_workers=1) as pool:
        assert list(pool.map(double, range(3))) == [0, 2, 4]
        assert pool.submitted == 3
    assert pool.shut == 1


def test_each_executor_finds_the_program_as_it_is_by_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Of one node, which stays. A test that is given its own folder and variables does this.
    for name in ("first", "second"):
        folder = tmp_path / name
        folder.mkdir()
        (folder / f"module_of_{name}.py").write_text("def where(): import os; return os.getcwd()")
        monkeypatch.chdir(folder)
        monkeypatch.setenv("OF_BOTH", name)
        monkeypatch.setenv(f"OF_{name}", "yes")
        monkeypatch.setattr(sys, "path", [str(folder), *sys.path])
        where = importlib.import_module(f"module_of_{name}").where
        with ProcessPoolExecutor(max_workers=1, initializer=where) as pool:
            assert pool.submit(where).result() == str(folder)
            assert pool.submit(os.getenv, "OF_BOTH").result() == name
            assert pool.submit(os.getenv, "OF_first").result() == "yes"
    monkeypatch.delenv("OF_first")
    with ProcessPoolExecutor(max_workers=1) as pool:
        assert pool.submit(os.getenv, "OF_first").result() is None
