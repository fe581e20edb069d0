"""`ProcessPoolExecutor` where things go wrong: whatever happens, each task gets an answer."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import gc
import os
import signal
import subprocess
import sys
import threading
import types
import weakref
from concurrent.futures import (
    BrokenExecutor,
    CancelledError,
    Future,
    ThreadPoolExecutor,
    as_completed,
    wait,
)
from pathlib import Path
from typing import Any

import psutil
import pytest

from noex_mp import (
    Node,
    NodeDownError,
    NoNodeError,
    NoServerError,
    NotImportableError,
    Pool,
    PoolDownError,
    ProcessPoolExecutor,
    ServerExitedError,
    UnencodableError,
    WorkerExitedError,
)
from tests.pools.executor_tasks import (
    DiesWhenRead,
    die_from_the_third_on,
    hold,
    hold_in_a_pool,
    lock_at_two,
    lock_at_two_later,
    raise_as_of_another_server,
    refuse,
    sum_in_a_pool,
)
from tests.pools.tasks import die, double, pid
from tests.processes.harness import REPOSITORY, assert_ended, wait_for_ends

pytestmark = pytest.mark.usefixtures("own_node")


@pytest.fixture
def fifo(tmp_path: Path) -> Path:
    path = tmp_path / "fifo"
    os.mkfifo(path)
    return path


# --- before it is up ---------------------------------------------------------------------------


def test_an_initializer_that_raises_fails_every_task() -> None:
    with ProcessPoolExecutor(max_workers=2, initializer=refuse) as pool:
        futures = [pool.submit(double, n) for n in range(20)]
        mapped = pool.map(double, range(20), chunksize=3)
        for future in futures:
            with pytest.raises(PoolDownError, match="no database") as failed:
                future.result(timeout=10)
            assert isinstance(failed.value, BrokenExecutor)
        with pytest.raises(PoolDownError, match="no database"):
            list(mapped)
        with pytest.raises(PoolDownError, match="no database"):
            pool.submit(double, 1)


def test_what_waits_for_a_pool_that_does_not_come_up_can_be_cancelled() -> None:
    with ProcessPoolExecutor(max_workers=1, initializer=refuse) as pool:
        future = pool.submit(double, 1)
        if future.cancel():
            with pytest.raises(CancelledError):
                future.result(timeout=10)


def test_a_module_that_cannot_be_preloaded_is_imported_by_each_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "with_a_thread.py").write_text(
        "import threading\n"
        "threading.Thread(target=threading.Event().wait, daemon=True).start()\n"
        "def triple(n): return 3 * n\n"
    )
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    # The thread itself is none of this test's business.
    source = (tmp_path / "with_a_thread.py").read_text().replace(".start()", "")
    here: Any = types.ModuleType("with_a_thread")
    exec(source, here.__dict__)
    monkeypatch.setitem(sys.modules, "with_a_thread", here)
    with ProcessPoolExecutor(max_workers=1) as pool:
        assert pool.submit(here.triple, 2).result(timeout=10) == 6
    assert "with_a_thread is not preloaded for the pool" in caplog.text
    assert "left a thread running" in caplog.text


def test_a_function_of_a_module_that_only_this_program_has_fails_its_task_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    here: Any = types.ModuleType("nowhere_else")
    exec("def triple(n): return 3 * n", here.__dict__)
    monkeypatch.setitem(sys.modules, "nowhere_else", here)
    with ProcessPoolExecutor(max_workers=1) as pool:
        with pytest.raises(NotImportableError, match="nowhere_else"):
            pool.submit(here.triple, 2).result(timeout=10)
        assert pool.submit(double, 2).result(timeout=10) == 4


def test_an_initializer_that_hangs_does_not_outlast_an_interrupt(fifo: Path) -> None:
    pool = ProcessPoolExecutor(max_workers=1, initializer=hold, initargs=(str(fifo),))
    future = pool.submit(double, 1)
    assert fifo.read_text() == "x"
    with pytest.raises(KeyboardInterrupt), pool:
        raise KeyboardInterrupt
    assert future.cancelled()


def test_a_task_that_is_refused_is_not_kept() -> None:
    pool = ProcessPoolExecutor(max_workers=1)
    pool.shutdown()
    argument = {1}
    gone = weakref.ref(argument)
    gc.disable()
    try:
        with pytest.raises(RuntimeError, match="after shutdown"):
            pool.submit(len, argument)
        del argument
        assert gone() is None
    finally:
        gc.enable()


# --- what is below it goes away ------------------------------------------------------------------


def test_a_node_that_is_stopped_below_fails_its_tasks(fifo: Path) -> None:
    pool = ProcessPoolExecutor(max_workers=1)
    with Node():
        running: Future[Any] = pool.submit(hold, str(fifo))
        waiting = [pool.submit(double, n) for n in range(3)]
        assert fifo.read_text() == "x"
    futures: list[Future[Any]] = [running, *waiting]
    for future in futures:
        assert isinstance(future.exception(timeout=10), (WorkerExitedError, PoolDownError))
    with pytest.raises(PoolDownError) as refused:
        pool.submit(double, 1).result(timeout=10)
    assert isinstance(refused.value.__cause__, (NoServerError, NodeDownError))
    pool.shutdown()


def test_processes_that_cannot_be_started_again_are_why_the_pool_is_down(tmp_path: Path) -> None:
    starts = tmp_path / "starts"
    options: Any = {"initializer": die_from_the_third_on, "initargs": (starts,)}
    with ProcessPoolExecutor(max_workers=2, **options) as pool:
        deadly = [pool.submit(die) for _ in range(2)]
        waiting = [pool.submit(double, n) for n in range(3)]
        mapped = pool.map(double, range(9), chunksize=3)
        for killed in deadly:
            assert isinstance(killed.exception(timeout=10), WorkerExitedError)
        for future in waiting:
            assert isinstance(future.exception(timeout=20), PoolDownError)
        with pytest.raises(PoolDownError, match="killed by SIGKILL"):
            list(mapped)
        with pytest.raises(PoolDownError, match="do not start any more: failed in its init"):
            pool.submit(double, 1)


async def test_a_pool_in_an_event_loop_says_so_too(tmp_path: Path) -> None:
    starts = tmp_path / "starts"
    async with Pool(size=2, initializer=die_from_the_third_on, initargs=(starts,)) as pool:
        tasks: list[Any] = [pool.run(die), pool.run(die), pool.run(double, 1), pool.run(double, 2)]
        outcomes: list[Any] = await asyncio.gather(*tasks, return_exceptions=True)
        assert [type(each) for each in outcomes] == 2 * [WorkerExitedError] + 2 * [PoolDownError]
        with pytest.raises(PoolDownError, match="killed by SIGKILL") as down:
            await pool.run(double, 1)
        assert isinstance(down.value.__cause__, NoServerError)


def test_a_result_that_cannot_be_sent_fails_its_task_alone_also_in_a_chunk() -> None:
    functions: list[Any] = [lock_at_two, lock_at_two_later]
    with (
        ProcessPoolExecutor(max_workers=1) as pool,
        ProcessPoolExecutor(max_workers=1, seed=7) as seeded,
    ):
        limited = [each.options(memory_limit=2**30) for each in (pool, seeded)]
        for tasks in (pool, seeded, *limited):
            for function in functions:
                results = tasks.map(function, range(4), chunksize=4)
                assert [next(results), next(results)] == [0, 1]
                with pytest.raises(UnencodableError, match="lock"):
                    next(results)


def test_whatever_ends_the_thread_of_a_pool_each_task_gets_an_answer(fifo: Path) -> None:
    pool = ProcessPoolExecutor(max_workers=1)
    running: Future[Any] = pool.submit(hold, str(fifo))
    waiting = [pool.submit(double, n) for n in range(3)]
    mapped = pool.map(double, range(3), chunksize=2)
    assert fifo.read_text() == "x"
    [root] = psutil.Process().children()
    [lane] = root.children()
    [thread] = [each for each in threading.enumerate() if each.name == "noex-mp pool"]
    assert thread.ident is not None
    set_exception = ctypes.pythonapi.PyThreadState_SetAsyncExc
    assert set_exception(ctypes.c_ulong(thread.ident), ctypes.py_object(SystemExit)) == 1
    # It wakes the thread, which does not come to see why; unless that woke by itself.
    with contextlib.suppress(psutil.NoSuchProcess):
        lane.kill()
    assert isinstance(running.exception(timeout=10), (PoolDownError, WorkerExitedError))
    for future in waiting:
        with pytest.raises(PoolDownError, match="SystemExit"):
            future.result(timeout=10)
    with pytest.raises(PoolDownError):
        list(mapped)
    with pytest.raises(PoolDownError):
        pool.submit(double, 1)
    pool.shutdown()
    assert root.children() == []


def test_an_argument_that_ends_whoever_reads_it_fails_its_task_alone() -> None:
    with ProcessPoolExecutor(max_workers=1) as pool:
        assert pool.submit(double, 1).result() == 2
        deadly = pool.submit(id, DiesWhenRead())
        after = [pool.submit(double, n) for n in range(5)]
        with pytest.raises(WorkerExitedError, match="SIGKILL"):
            deadly.result(timeout=15)
        assert [each.result(timeout=10) for each in after] == [0, 2, 4, 6, 8]


@pytest.mark.parametrize(("kind", "error"), [("gone", NoServerError), ("dead", ServerExitedError)])
def test_what_a_task_hears_of_other_servers_is_not_taken_for_its_own_end(
    kind: str, error: type[Exception]
) -> None:
    with ProcessPoolExecutor(max_workers=1) as pool:
        before = pool.submit(pid).result()
        asks: Any = raise_as_of_another_server
        failed = pool.options(retries=3).submit(asks, kind)
        with pytest.raises(error) as raised:
            failed.result(timeout=10)
        assert type(raised.value) is error
        assert pool.submit(pid).result(timeout=10) == before


# --- what is above it goes away ------------------------------------------------------------------


def test_a_forgotten_executor_runs_what_it_was_given_and_ends_its_processes() -> None:
    pool = ProcessPoolExecutor(max_workers=2)
    pids = {pool.submit(pid).result() for _ in range(50)}
    results = pool.map(double, range(100), chunksize=7)
    pidfds = [os.pidfd_open(each) for each in pids]
    del pool
    gc.collect()
    try:
        assert list(results) == list(range(0, 200, 2))
        assert wait_for_ends(pidfds) == []
    finally:
        for each in pidfds:
            os.close(each)


def test_a_fork_of_the_program_is_told_that_the_pool_is_its_parents() -> None:
    with ProcessPoolExecutor(max_workers=1) as pool:
        assert pool.submit(double, 1).result() == 2
        read_end, write_end = os.pipe()
        child = os.fork()
        if not child:
            said = b"nothing"
            try:
                pool.submit(double, 1)
            except NoNodeError as error:
                said = str(error).encode()
            finally:
                pool.shutdown()
                os.write(write_end, said)
                os._exit(0)
        os.close(write_end)
        with os.fdopen(read_end) as pipe:
            assert "stays with its parent" in pipe.read()
        assert os.waitpid(child, 0)[1] == 0
        assert pool.submit(double, 2).result(timeout=10) == 4


# --- its future and its callbacks ----------------------------------------------------------------


def test_a_callback_may_use_its_pool_and_even_end_it() -> None:
    pool = ProcessPoolExecutor(max_workers=1)
    followed: Future[Future[int]] = Future()

    def follow(future: Future[int]) -> None:
        followed.set_result(pool.submit(double, future.result()))
        pool.shutdown(wait=True)

    pool.submit(double, 1).add_done_callback(follow)
    assert followed.result(timeout=10).result(timeout=10) == 4
    pool.shutdown()


def test_a_callback_that_raises_harms_nobody(caplog: pytest.LogCaptureFixture) -> None:
    with ProcessPoolExecutor(max_workers=1) as pool:
        pool.submit(double, 1).add_done_callback(refuse)
        assert pool.submit(double, 2).result(timeout=10) == 4
    assert "exception calling callback" in caplog.text


def test_cancelled_tasks_are_not_run_and_whoever_waits_hears_of_it(fifo: Path) -> None:
    with ProcessPoolExecutor(max_workers=1) as pool:
        pool.submit(double, 1).result()
        blocked = pool.submit(fifo.read_text)
        futures = [pool.submit(double, n) for n in range(200)]
        mapped = pool.map(double, range(200), chunksize=10)
        with ThreadPoolExecutor(1) as thread:
            ending = thread.submit(pool.shutdown, cancel_futures=True)
            done, _ = wait(futures, timeout=10, return_when="FIRST_COMPLETED")
            assert all(future.cancelled() for future in done)
            fifo.write_text("go on")
            ending.result(timeout=10)
        assert blocked.result() == "go on"
        assert len(list(as_completed(futures, timeout=10))) == 200
        assert sum(future.cancelled() for future in futures) > 100
        with pytest.raises(CancelledError):
            list(mapped)


# --- many of them --------------------------------------------------------------------------------


def test_many_executors_serve_many_threads_at_once() -> None:
    def use(number: int) -> list[int]:
        with ProcessPoolExecutor(max_workers=1) as pool:
            return list(pool.map(double, range(number, number + 20)))

    with ThreadPoolExecutor(6) as threads:
        for number, results in enumerate(threads.map(use, range(6))):
            assert results == [2 * n for n in range(number, number + 20)]


def test_many_threads_share_one_executor() -> None:
    with ProcessPoolExecutor(max_workers=2) as pool, ThreadPoolExecutor(8) as threads:

        def use(number: int) -> int:
            return sum(pool.submit(double, number).result() for _ in range(50))

        assert list(threads.map(use, range(8))) == [100 * n for n in range(8)]


def test_a_task_may_have_an_executor_of_its_own() -> None:
    with ProcessPoolExecutor(max_workers=2) as pool:
        assert list(pool.map(sum_in_a_pool, [range(5), range(6)])) == [20, 30]


def test_an_executor_ends_with_the_process_that_it_is_in(fifo: Path) -> None:
    with ProcessPoolExecutor(max_workers=1) as pool:
        outer = pool.submit(pid).result()
        future = pool.submit(hold_in_a_pool, str(fifo))
        inner = os.pidfd_open(int(fifo.read_text()))
        os.kill(outer, signal.SIGKILL)
        try:
            with pytest.raises(WorkerExitedError):
                future.result(timeout=10)
            assert wait_for_ends([inner]) == []
        finally:
            os.close(inner)


def test_an_executor_does_not_travel_and_says_so() -> None:
    with ProcessPoolExecutor(max_workers=1) as pool:
        future: Future[Any] = pool.submit(id, pool)
        with pytest.raises(UnencodableError, match="cannot be sent to another process"):
            future.result(timeout=10)


# --- the program ends ----------------------------------------------------------------------------

PROGRAM = """
import asyncio, atexit, os, sys
from noex_mp import ProcessPoolExecutor
from tests.pools.executor_tasks import hold

def late():
    try:
        pool.submit(abs, 1)
    except RuntimeError as error:
        print(error, flush=True)

def say(text):
    print(text, flush=True)

def interrupted(started):
    pool.submit(hold, started)
    for _ in range(50):
        future = pool.submit(hold, "never")
    future.result()

async def in_a_loop(started):
    with ProcessPoolExecutor(max_workers=1) as pool:
        run = asyncio.get_running_loop().run_in_executor
        first = run(pool, hold, started)
        await asyncio.gather(first, *(run(pool, hold, "never") for _ in range(3)))

if __name__ == "__main__":
    how, fifo = sys.argv[1:]
    if how == "in a loop":
        asyncio.run(in_a_loop(fifo))
    atexit.register(late)
    pool = ProcessPoolExecutor(max_workers=1)
    if how == "with options":
        pool = pool.options(timeout=600)
    if how in ("in a with", "with options"):
        with pool:
            interrupted(fifo)
    elif how == "bare":
        interrupted(fifo)
    elif how == "at exit":
        pool.submit(hold, fifo)
    else:
        for n in range(3):
            pool.submit(say, n)
        if how == "shut down":
            pool.shutdown(wait=False)
"""


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "program.py"
    path.write_text(PROGRAM)
    return path


def start(script: Path, *args: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(script), *args],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


@pytest.mark.parametrize("how", ["forgotten", "shut down"])
def test_what_was_submitted_is_run_before_the_program_ends(script: Path, how: str) -> None:
    out, err = start(script, how, "").communicate(timeout=15)
    assert err == ""
    refusal = "cannot schedule new futures after interpreter shutdown"
    assert out.splitlines() == ["0", "1", "2", refusal]


@pytest.mark.parametrize("how", ["in a with", "with options", "in a loop", "bare", "at exit"])
def test_an_interrupt_ends_a_pool_at_once_with_one_line(script: Path, fifo: Path, how: str) -> None:
    program = start(script, how, str(fifo))
    try:
        assert fifo.read_text() == "x"
        processes = psutil.Process(program.pid).children(recursive=True)
        pidfds = [os.pidfd_open(each.pid) for each in processes]
        # As a terminal does.
        os.killpg(program.pid, signal.SIGINT)
        _, err = program.communicate(timeout=15)
    finally:
        program.kill()
        program.wait()
    assert_ended(pidfds)
    assert err.count("Ctrl-C: the pool has stopped (tasks ended: 1, cancelled: ") == 1
    # `asyncio.run` raises it from the cancellation of its task.
    assert err.count("Traceback") == {"at exit": 0, "in a loop": 2}.get(how, 1)
    if how != "at exit":
        # That of the program's own main thread, which nobody has caught.
        assert program.returncode == -signal.SIGINT
        assert err.count("\nKeyboardInterrupt\n") == 1


def test_a_script_without_a_main_guard_gets_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "script.py"
    path.write_text(
        "from noex_mp import ProcessPoolExecutor\n"
        "def square(n): return n * n\n"
        "print(ProcessPoolExecutor(2).submit(square, 3).result())\n"
    )
    out, err = start(path).communicate(timeout=15)
    assert out == ""
    assert err.count("Traceback") == 1
    assert err.count("your script starts a node, and does so again") == 1
    assert err.endswith('Put what it does under: if __name__ == "__main__":\n')
    assert "noex_mp/pools" not in err


def test_a_script_that_cannot_be_preloaded_is_run_by_each_process(tmp_path: Path) -> None:
    path = tmp_path / "script.py"
    path.write_text(
        "import threading\n"
        "from noex_mp import ProcessPoolExecutor\n"
        "threading.Thread(target=threading.Event().wait, name='flusher', daemon=True).start()\n"
        "def square(n): return n * n\n"
        "if __name__ == '__main__':\n"
        "    with ProcessPoolExecutor(2) as pool:\n"
        "        print(list(pool.map(square, range(4))))\n"
    )
    out, err = start(path).communicate(timeout=30)
    assert out == "[0, 1, 4, 9]\n", err
    assert err.count("the script is not preloaded for the pool") == 1
    assert "left a thread running: 'flusher'" in err
    assert "Traceback" not in err
