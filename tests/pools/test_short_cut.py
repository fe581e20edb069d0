"""Whoever submits one short task at a time reads the reply itself, and nobody else notices."""

from __future__ import annotations

import gc
import os
import signal
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from time import monotonic
from types import FrameType
from typing import Any

import pytest

from noex_mp import ProcessPoolExecutor, WorkerExitedError
from noex_mp.pools.short_cut import ShortCut
from tests.pools.tasks import die, double, pid, wait_for
from tests.processes.harness import wait_for_ends

pytestmark = pytest.mark.usefixtures("own_node")


@pytest.fixture
def pool() -> Iterator[ProcessPoolExecutor]:
    with ProcessPoolExecutor(max_workers=1) as pool:
        yield pool


def short_cut_of(pool: ProcessPoolExecutor) -> ShortCut:
    found = pool._background.short_cut  # pyright: ignore[reportPrivateUsage]
    assert found is not None
    return found


def borrow(pool: ProcessPoolExecutor) -> ShortCut:
    """Submit short tasks, and wait for each, until their replies are read by this thread."""
    pool.submit(double, 0).result()
    for n in range(100_000):
        assert pool.submit(double, n).result() == 2 * n
        if (short_cut := short_cut_of(pool)).line:
            return short_cut
    raise AssertionError("the link was never lent")


def test_who_waits_for_short_tasks_reads_the_replies(pool: ProcessPoolExecutor) -> None:
    borrow(pool)
    readers: set[str] = set()

    def note(frame: FrameType, event: str, argument: object) -> None:
        if event == "call" and frame.f_code.co_name == "_on_replies":
            readers.add(threading.current_thread().name)

    sys.setprofile(note)
    try:
        pool.submit(double, 1).result()
    finally:
        sys.setprofile(None)
    # Unless the thread has just looked, and found this one slow.
    assert readers <= {threading.current_thread().name}


def test_a_callback_is_called_in_the_thread_of_the_pool(pool: ProcessPoolExecutor) -> None:
    here = threading.current_thread()
    for _ in range(20):
        borrow(pool)
        held = threading.Lock()
        called = threading.Event()
        is_added = False
        threads: list[threading.Thread] = []

        def call_back(_: object) -> None:
            thread = threading.current_thread()
            # One that comes too late is called by whoever adds it.
            if is_added or thread is not here:  # noqa: B023
                held.acquire()  # noqa: B023
                threads.append(thread)  # noqa: B023
            called.set()  # noqa: B023

        with held:
            future = pool.submit(double, 3)
            future.add_done_callback(call_back)
            is_added = True
            assert future.result(timeout=10) == 6
        assert called.wait(10)
        assert here not in threads


def test_who_waits_in_another_way_hears_of_it(pool: ProcessPoolExecutor) -> None:
    for n in range(5):
        borrow(pool)
        future = pool.submit(double, n)
        assert wait([future], timeout=10).done == {future}
        assert future.result() == 2 * n


def test_who_does_not_wait_gets_the_loan_more_rarely(pool: ProcessPoolExecutor) -> None:
    short_cut = borrow(pool)
    before = short_cut.patience
    for n in range(5):
        borrow(pool)
        assert not wait([pool.submit(double, n)], timeout=10).not_done
    assert short_cut.patience > before


def test_a_second_task_on_its_way_ends_the_loan(pool: ProcessPoolExecutor) -> None:
    for n in range(20):
        short_cut = borrow(pool)
        futures = [pool.submit(double, n + i) for i in range(30)]
        assert [each.result(timeout=10) for each in futures] == [2 * (n + i) for i in range(30)]
        assert short_cut.line is None


def test_a_task_that_takes_longer_is_waited_for_as_ever(
    pool: ProcessPoolExecutor, tmp_path: Path
) -> None:
    started, gate = tmp_path / "started", tmp_path / "gate"
    os.mkfifo(started)
    os.mkfifo(gate)
    short_cut = borrow(pool)
    future = pool.submit(wait_for, str(started), str(gate))
    started.read_text()
    with pytest.raises(TimeoutError):
        future.result(timeout=0)
    with pytest.raises(TimeoutError):
        future.exception(timeout=0.05)
    assert short_cut.line is None
    gate.write_text("go")
    assert future.result(timeout=10) == "go"


def test_what_a_task_raises_is_heard_at_once(pool: ProcessPoolExecutor) -> None:
    for _ in range(20):
        borrow(pool)
        with pytest.raises(ValueError, match="invalid literal"):
            pool.submit(int, "x").result(timeout=10)
        assert isinstance(pool.submit(int, "x").exception(timeout=10), ValueError)


def test_a_process_that_dies_fails_its_task_and_the_next_one_takes_over(
    pool: ProcessPoolExecutor,
) -> None:
    for _ in range(3):
        borrow(pool)
        with pytest.raises(WorkerExitedError, match="SIGKILL"):
            pool.submit(die).result(timeout=10)
        # And one that dies while nobody waits for anything.
        borrow(pool)
        lane = pool.submit(pid).result()
        os.kill(lane, signal.SIGKILL)
        wait_for_ends([lane])
        while (found := pool.submit(pid)).exception(timeout=10) is not None:
            pass
        assert found.result() != lane


def test_many_threads_that_wait_for_one_task_each_get_their_own() -> None:
    def ask(start: int) -> list[int]:
        return [both.submit(double, n).result(timeout=30) for n in range(start, start + 300)]

    with ProcessPoolExecutor(max_workers=2) as both, ThreadPoolExecutor(4) as threads:
        found = [n for part in threads.map(ask, range(0, 1200, 300)) for n in part]
    assert found == [2 * n for n in range(1200)]


def test_several_threads_may_wait_for_the_same_task(pool: ProcessPoolExecutor) -> None:
    with ThreadPoolExecutor(3) as threads:
        for n in range(100):
            borrow(pool)
            future = pool.submit(double, n)
            waiting = [threads.submit(future.result, 10) for _ in range(3)]
            assert [each.result() for each in waiting] == [2 * n] * 3


def test_a_pool_that_is_shut_down_meanwhile_still_finishes_its_task() -> None:
    for n in range(5):
        with ProcessPoolExecutor(max_workers=1) as pool:
            borrow(pool)
            future = pool.submit(double, n)
            pool.shutdown(wait=False)
            assert future.result(timeout=10) == 2 * n


def test_what_else_a_pool_is_asked_for_does_not_wait_for_the_loan_to_end(
    pool: ProcessPoolExecutor,
) -> None:
    asked: list[Callable[[], object]] = [
        lambda: list(pool.map(double, [1])),
        lambda: list(pool.map(double, range(9), chunksize=3)),
        lambda: pool.options(timeout=9).submit(double, 1).result(),
    ]
    for ask in asked:
        short_cut = borrow(pool)
        ask()
        assert short_cut.line is None


def test_a_future_that_somebody_else_looks_at_is_completed_by_the_thread(
    pool: ProcessPoolExecutor,
) -> None:
    for n in range(20):
        borrow(pool)
        future = pool.submit(double, n)
        arrival = future._condition
        # As in `future.done()` of another thread, where a signal handler submits a task.
        inside, leave = threading.Event(), threading.Event()

        def look() -> None:
            with arrival:  # noqa: B023
                inside.set()  # noqa: B023
                leave.wait(10)  # noqa: B023
                other.append(pool.submit(double, 1))  # noqa: B023

        other: list[Future[int]] = []
        thread = threading.Thread(target=look)
        thread.start()
        assert inside.wait(10)
        threading.Timer(0.005, leave.set).start()
        assert future.result(timeout=10) == 2 * n
        thread.join()
        assert other[0].result(timeout=10) == 2


def test_who_asks_again_and_again_leaves_nothing_behind(
    pool: ProcessPoolExecutor, tmp_path: Path
) -> None:
    started, gate = tmp_path / "started", tmp_path / "gate"
    os.mkfifo(started)
    os.mkfifo(gate)
    future = pool.submit(wait_for, str(started), str(gate))
    started.read_text()
    for _ in range(100):
        with pytest.raises(TimeoutError):
            future.result(timeout=0)
    arrival: Any = future._condition
    assert arrival.gates == []
    gate.write_text("go")
    assert future.result(timeout=10) == "go"


def test_a_future_that_is_kept_keeps_no_pool() -> None:
    with ProcessPoolExecutor(max_workers=1) as pool:
        borrow(pool)
        future = pool.submit(double, 1)
        assert future.result() == 2
        background = weakref.ref(pool._background)  # pyright: ignore[reportPrivateUsage]
    del pool
    gc.collect()
    assert background() is None
    assert future.result() == 2


def test_a_future_has_what_that_of_the_standard_library_has(pool: ProcessPoolExecutor) -> None:
    assert set(vars(Future())) <= set(vars(pool.submit(double, 1)))


def test_nothing_is_kept_of_a_task_whose_reply_was_read_here(pool: ProcessPoolExecutor) -> None:
    for _ in range(20):
        borrow(pool)
        argument = {1}
        future = pool.submit(set, argument)
        gone = [threading.Event() for _ in range(3)]
        weakref.finalize(argument, gone[0].set)
        weakref.finalize(future, gone[1].set)
        weakref.finalize(future.result(), gone[2].set)
        del argument, future
        assert [event.wait(10) for event in gone] == [True] * 3


# --- a signal handler that raises ---------------------------------------------------------------


class Interrupt(BaseException):
    """What the handler raises."""


class Interrupted:
    """Work of ours in which a signal handler raises at the so many-th place where one is called.

    Python calls them where a function begins, and when one of C has returned.

    Attributes:
        has_raised: Whether the work had as many.
        has_read: Whether a reply was read in it.
    """

    def __init__(self, place: int, work: Callable[[], object]) -> None:
        self.has_raised = False
        self.has_read = False
        self._left = place
        sys.setprofile(self._look)
        try:
            work()
        except Interrupt:
            assert self.has_raised
        finally:
            sys.setprofile(None)

    def _look(self, frame: FrameType, event: str, argument: object) -> None:
        self.has_read = self.has_read or frame.f_code.co_name == "_on_replies"
        is_ours = "noex_mp" in frame.f_code.co_filename
        if is_ours and event in {"call", "c_return"} and not self.has_raised:
            self._left -= 1
            if self._left < 0:
                self.has_raised = True
                raise Interrupt


def test_an_interrupt_anywhere_in_the_wait_disturbs_nothing_else(
    pool: ProcessPoolExecutor,
) -> None:
    place = tries = 0
    while True:
        borrow(pool)
        future = pool.submit(double, place)
        work = Interrupted(place, lambda: future.result(timeout=10))  # noqa: B023
        # It has an answer, and the next task has another.
        outcome = future.exception(timeout=10)
        if outcome is not None and not isinstance(outcome, WorkerExitedError):
            assert "the result was lost: Interrupt came" in str(outcome)
        assert outcome is not None or future.result() == 2 * place
        end = monotonic() + 10
        while (after := pool.submit(double, 21)).exception(timeout=10) is not None:
            assert monotonic() < end
        assert after.result() == 42
        if work.has_raised:
            place += 1
        elif work.has_read:
            break
        else:
            # This thread was too slow, and the pool's had the link again.
            tries += 1
            assert tries < 1000
    # As many as it takes to read a reply, or this has tested something else.
    assert place > 25
