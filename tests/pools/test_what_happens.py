"""What docs/pools.md says happens to our pools when something goes wrong: a test for each row."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest

from bench.faults.tasks import (
    LOCK,
    TwoArgumentsError,
    UnpicklableError,
    grows,
    holds_a_lock,
    raises_two_arguments,
    raises_unpicklable,
    returns_a_lock,
    same,
)
from noex_mp import (
    Node,
    Pool,
    ProcessPoolExecutor,
    RemoteError,
    UnencodableError,
    WorkerExitedError,
)
from tests.nodes.observed import ObservedNode
from tests.pools.gates import Gate
from tests.pools.tasks import (
    asks,
    asks_another,
    asks_the_same,
    leave_memory,
    raise_an,
    start_another,
    text_of,
    wait_for,
)
from tests.processes.harness import REPOSITORY, assert_ended, wait_for_ends

pytestmark = pytest.mark.usefixtures("own_node")


LARGE = 64 * 2**20


def fails(task: Callable[[], Any], error: type[Exception], says: str) -> None:
    """Check that a task fails as it should, and that nobody else notices."""
    with ProcessPoolExecutor(max_workers=2) as pool:
        others = [pool.submit(same, n) for n in range(10)]
        bad = pool.submit(task)
        others += [pool.submit(same, n) for n in range(10)]
        with pytest.raises(error) as raised:
            bad.result(timeout=10)
        assert says in "".join(traceback.format_exception(raised.value))
        assert [each.result(timeout=10) for each in others] == [*range(10), *range(10)]
        assert pool.submit(same, 1).result(timeout=10) == 1


def test_an_error_whose_class_takes_two_arguments_is_raised_by_its_future() -> None:
    fails(raises_two_arguments, TwoArgumentsError, "tea: sold out")


@pytest.mark.parametrize("error", [StopIteration, asyncio.CancelledError])
@pytest.mark.parametrize("chunksize", [None, 1, 2])
async def test_an_error_that_no_future_takes_is_raised_by_name_however_tasks_travel(
    error: type[BaseException], chunksize: int | None
) -> None:
    async with Node(preload=["tests.pools.tasks"]), Pool(size=1) as pool:
        with pytest.raises(RemoteError, match=error.__name__) as raised:
            await pool.map(raise_an, [error, error], chunksize=chunksize)
        assert "in raise_an" in raised.value.__notes__[-1]
        results = pool.imap(raise_an, [error, error], chunksize=chunksize)
        with pytest.raises(RemoteError, match=error.__name__):
            await anext(results)
        assert await pool.run(abs, -1) == 1


def test_an_executor_raises_an_error_that_no_generator_lets_through_by_name() -> None:
    with ProcessPoolExecutor(1) as pool:
        for chunksize in (1, 2):
            with pytest.raises(RemoteError, match="StopIteration"):
                list(pool.map(raise_an, [StopIteration] * 2, chunksize=chunksize))


def test_an_error_that_cannot_be_pickled_is_raised_by_its_future() -> None:
    fails(raises_unpicklable, UnpicklableError, "of no use")


def test_a_result_that_cannot_be_pickled_fails_its_task() -> None:
    fails(returns_a_lock, UnencodableError, "lock")


class RaisesWhenSent:
    def __init__(self, error: type[BaseException]) -> None:
        self.error = error

    def __reduce__(self) -> str:
        raise self.error("it stays here")


@pytest.mark.parametrize("error", [asyncio.CancelledError, GeneratorExit, ZeroDivisionError])
def test_whatever_a_result_raises_when_it_is_sent_fails_its_task(
    error: type[BaseException],
) -> None:
    with ProcessPoolExecutor(max_workers=1) as pool:
        with pytest.raises(UnencodableError, match="it stays here"):
            pool.submit(RaisesWhenSent, error).result(timeout=10)
        results = pool.map(RaisesWhenSent, [error] * 2, timeout=10, chunksize=2)
        with pytest.raises(UnencodableError, match="it stays here"):
            next(results)
        assert pool.submit(same, 1).result(timeout=10) == 1


@pytest.mark.linux_only("RLIMIT_AS is kept to there alone")
def test_a_task_that_finds_no_memory_fails_with_that() -> None:
    fails(grows, MemoryError, "in grows")


@pytest.mark.linux_only("RLIMIT_AS is kept to there alone")
@pytest.mark.parametrize("room", [1.2, 3.5])
def test_a_result_that_there_is_no_memory_to_send_fails_its_task_alone(room: float) -> None:
    with ProcessPoolExecutor(max_workers=1) as pool:
        os_pid = pool.submit(os.getpid).result(timeout=10)
        pool.submit(leave_memory, int(room * LARGE)).result(timeout=10)
        for _ in range(2):
            failing, behind = pool.submit(text_of, LARGE), pool.submit(same, 1)
            with pytest.raises(MemoryError, match="no memory to pack it"):
                failing.result(timeout=10)
            assert behind.result(timeout=10) == 1
            # Bytes need no copy.
            assert pool.submit(bytes, LARGE).result(timeout=10) == bytes(LARGE)
        # One by one, of those that go together.
        results = pool.map(text_of, [1, LARGE, 2], chunksize=3, timeout=10)
        assert next(results) == "x"
        with pytest.raises(MemoryError):
            next(results)
        assert pool.submit(os.getpid).result(timeout=10) == os_pid


def test_a_pool_that_starts_while_a_thread_holds_a_lock_is_none_the_worse() -> None:
    with LOCK, ProcessPoolExecutor(max_workers=2) as pool:
        assert pool.submit(holds_a_lock).result(timeout=10) != os.getpid()


def test_a_task_that_keeps_the_gil_is_not_taken_for_dead() -> None:
    with ProcessPoolExecutor(max_workers=1) as pool:
        os_pid = pool.submit(os.getpid).result(timeout=10)
        # For a second or so, in which no Python code of its process runs.
        assert pool.submit(sum, range(5 * 10**7)).result(timeout=50) == 1249999975000000
        assert pool.submit(os.getpid).result(timeout=10) == os_pid


def test_processes_outlive_the_thread_that_has_started_them() -> None:
    with ProcessPoolExecutor(max_workers=1) as pool, ThreadPoolExecutor(1) as thread:
        os_pid = thread.submit(lambda: pool.submit(os.getpid).result(timeout=10)).result()
        # They hear when the program dies; the system tells some when a thread does.
        thread.shutdown()
        assert pool.submit(os.getpid).result(timeout=10) == os_pid


def test_a_task_cannot_be_given_its_own_pool() -> None:
    with ProcessPoolExecutor(max_workers=2) as pool:
        for given in (pool, pool.options(retries=1)):
            with pytest.raises(UnencodableError, match="is to make one of its own") as refused:
                pool.submit(asks, given, 1).result(timeout=10)
            assert refused.value.path == "args[0]"
        assert pool.submit(same, 1).result(timeout=10) == 1


async def test_nor_can_one_of_a_pool_in_an_event_loop() -> None:
    async with Node(), Pool(size=1) as pool:
        for given in (pool, pool.options(retries=1)):
            with pytest.raises(UnencodableError, match=r"a task uses .* Pool\.named") as refused:
                await pool.run(asks_the_same, given, 1)
            assert refused.value.path == "args[0]"
        assert await pool.run(same, 1) == 1


async def test_a_task_may_have_a_pool_of_its_own() -> None:
    async with Node(), Pool(size=2) as pool:
        found = await asyncio.gather(pool.run(asks_another, 1), pool.run(asks_another, 2))
        assert list(found) == [1, 2]


PROGRAM = """
import sys
from noex_mp import ProcessPoolExecutor
from tests.pools.tasks import begin_to_compute_in_c

if __name__ == "__main__":
    with ProcessPoolExecutor(max_workers=2) as pool:
        pool.submit(begin_to_compute_in_c, sys.argv[1]).result()
"""


@pytest.mark.linux_only("a thread that watches the lifeline needs the GIL to act")
def test_nothing_outlives_a_program_that_is_killed(tmp_path: Path) -> None:
    begun, script = tmp_path / "begun", tmp_path / "program.py"
    os.mkfifo(begun)
    script.write_text(PROGRAM)
    program = subprocess.Popen(
        [sys.executable, str(script), str(begun)],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    )
    try:
        assert begun.read_text() == "computing"
        pidfds = [
            os.pidfd_open(p.pid) for p in psutil.Process(program.pid).children(recursive=True)
        ]
        assert len(pidfds) == 3, "the zygote and two workers"
    finally:
        program.kill()
        program.wait()
    assert_ended(pidfds)


async def test_what_a_task_has_started_ends_with_its_process(tmp_path: Path) -> None:
    told = tmp_path / "told"
    os.mkfifo(told)
    async with Node(), Pool(size=1) as pool:
        lane = await pool.run(os.getpid)
        task = pool.run(start_another, str(told))
        pidfd = os.pidfd_open(int(await asyncio.to_thread(told.read_text)))
        try:
            os.kill(lane, signal.SIGKILL)
            with pytest.raises(WorkerExitedError):
                await task
            assert wait_for_ends([pidfd]) == []
        finally:
            os.close(pidfd)


IN_A_CHILD = """
import multiprocessing
from noex_mp import ProcessPoolExecutor

def double(n):
    return 2 * n

def use_a_pool():
    with ProcessPoolExecutor(max_workers=1) as pool:
        print(list(pool.map(double, range(3))), pool.submit(double, 3).result())

if __name__ == "__main__":
    child = multiprocessing.get_context("spawn").Process(target=use_a_pool)
    child.start()
    child.join()
"""


@pytest.mark.parametrize("how", ["program.py", "-mprogram"])
def test_a_child_of_multiprocessing_has_a_pool_and_says_nothing_of_it(
    how: str, tmp_path: Path
) -> None:
    (tmp_path / "program.py").write_text(IN_A_CHILD)
    done = subprocess.run(
        [sys.executable, how],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)}, cwd=tmp_path,
        capture_output=True, text=True, timeout=20, check=False,
    )  # fmt: skip
    assert (done.stdout, done.stderr) == ("[0, 2, 4] 6\n", "")


INTERRUPTED = """
import asyncio, os, sys
from noex_mp import Pool, ProcessPoolExecutor
from tests.pools.tasks import wait_for

async def with_a_pool(size, tasks, where):
    async with Pool(size=size) as pool:
        await asyncio.gather(*(pool.run(wait_for, *where) for _ in range(tasks)))

async def with_a_pool_that_is_left(size, tasks, where):
    async with Pool(size=size) as pool:
        [pool.run(wait_for, *where) for _ in range(tasks)]

def with_an_executor(size, tasks, where):
    with ProcessPoolExecutor(max_workers=size) as pool:
        list(pool.map(wait_for, *zip(*[where] * tasks)))

def with_an_executor_that_is_left(size, tasks, where):
    with ProcessPoolExecutor(max_workers=size) as pool:
        [pool.submit(wait_for, *where) for _ in range(tasks)]

if __name__ == "__main__":
    how, terminal, *where = sys.argv[1:]
    # Whoever leads a session and has no terminal gets the one that it opens.
    os.open(terminal, os.O_RDWR)
    if how == "executor":
        with_an_executor(2, 8, where)
    elif how == "executor that is left":
        try:
            with_an_executor_that_is_left(2, 8, where)
        except KeyboardInterrupt:
            sys.exit("caught")
    elif how == "pool":
        asyncio.run(with_a_pool(2, 8, where))
    else:
        asyncio.run(with_a_pool_that_is_left(2, 8, where))
"""


@pytest.mark.parametrize("how", ["executor", "executor that is left", "pool", "pool that is left"])
def test_ctrl_c_ends_a_program_that_waits_for_its_tasks_with_one_line(
    how: str, tmp_path: Path
) -> None:
    begun, gate, script = tmp_path / "begun", tmp_path / "gate", tmp_path / "program.py"
    os.mkfifo(begun)
    os.mkfifo(gate)
    script.write_text(INTERRUPTED)
    keyboard, terminal = os.openpty()
    program = subprocess.Popen(
        [sys.executable, str(script), how, os.ttyname(terminal), str(begun), str(gate)],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    try:
        running = 0
        while running < 2:
            running += len(begun.read_text())
        os.write(keyboard, b"\x03")
        _, said = program.communicate(timeout=10)
    finally:
        program.kill()
        program.communicate()
        os.close(keyboard)
        os.close(terminal)
    line, _, rest = said.partition("\n")
    assert line == "Ctrl-C: the pool has stopped (tasks ended: 2, cancelled: 6)"
    # What follows is the program's own; the workers have nothing to add.
    if how == "executor that is left":
        assert (program.returncode, rest) == (1, "caught\n")
        return
    # In an event loop that is the end of its task, and what `asyncio.run` makes of it.
    assert program.returncode == -signal.SIGINT
    assert rest.count("Traceback") == (2 if "pool" in how else 1)
    assert rest.endswith("KeyboardInterrupt\n")


async def test_the_processes_of_a_pool_are_stopped_at_once(tmp_path: Path) -> None:
    folders = [tmp_path / str(n) for n in range(4)]
    for folder in folders:
        folder.mkdir()
    gates = [Gate(folder) for folder in folders]
    async with ObservedNode() as node:
        pool = Pool(size=len(gates))
        await pool.start()
        tasks = [pool.run(wait_for, *gate.arguments) for gate in gates]
        for gate in gates:
            await gate.begun()
        lanes = pool.dispatcher.refs
        leaving = asyncio.ensure_future(node.stop())
        for lane in lanes:
            await node.event("stopping", lane)
        assert not [event for event in node.seen if event.kind == "exited"]
        for gate in gates:
            await gate.open()
        await asyncio.gather(*tasks, return_exceptions=True)
        await leaving
