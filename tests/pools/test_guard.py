"""The guard of a lane: at whatever moment a signal comes, it hits whom it means, or nobody."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import sys
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import pytest

from noex_mp import TaskCancelledError, TaskInterrupt, current_task
from noex_mp.core import stop_requests
from noex_mp.core.black_box import ASKED, FIRST_REQUEST, HEARD, REQUESTS_SIZE
from noex_mp.core.operations import operation_info
from noex_mp.core.stop_requests import CANCEL, EXCEPTION, TOKEN, StopRequests
from noex_mp.pools.lane import Lane

LINK = 5


class Root:
    """Asks for stops, as the root does, and says which call runs, as the worker does."""

    def __init__(self) -> None:
        self.words = memoryview(bytearray(REQUESTS_SIZE)).cast("Q")
        self.running: tuple[int, int] | None = (LINK, 1)

    def ask(self, seq: int, rung: int) -> None:
        count = self.words[ASKED]
        at = FIRST_REQUEST + 3 * count
        self.words[at], self.words[at + 1], self.words[at + 2] = LINK, seq, rung
        self.words[ASKED] = count + 1


@pytest.fixture(autouse=True)
def garbage_waits() -> Iterator[None]:
    """Let no coroutine that was never awaited be collected in the midst of an instruction."""
    gc.disable()
    yield
    gc.enable()


@pytest.fixture
def root() -> Iterator[Root]:
    root = Root()
    before = stop_requests.installed()
    stop_requests.install(StopRequests(root.words, lambda: root.running))
    yield root
    stop_requests.install(before)


def add(a: int, b: int) -> int:
    return a + b


async def add_later(a: int, b: int) -> int:
    await asyncio.sleep(0)
    total = a + b
    await asyncio.sleep(0)
    return total


def add_alone(a: int, b: int) -> int:
    assert asyncio._get_running_loop() is None
    return a + b


def fail(a: int, b: int) -> int:
    raise ValueError(a + b)


def run(lane: Lane, function: Any, *args: Any, operation: Any = Lane.run) -> Any:
    info = operation_info(operation)
    assert info is not None
    result = info.function(lane, f"{function.__module__}:{function.__name__}", *args)
    return in_a_loop(result) if asyncio.iscoroutine(result) else result


def in_a_loop(coroutine: Any) -> Any:
    with asyncio.Runner() as runner:
        return runner.run(coroutine)


def _ask_for_instructions(frame: FrameType, event: str, argument: object) -> Any:
    if "pools" not in frame.f_code.co_filename:
        return None
    frame.f_trace_opcodes = True
    return _ask_for_instructions


def at_each_instruction(act: Callable[[], None], work: Callable[[], Any]) -> Iterator[Any]:
    """Do something at each instruction of some work from the first on, from the second on ...

    Yields:
        What the work returns or raises then.
    """
    # What is done only once is done; and Python 3.12 tells of instructions only from the second
    # tracing on of code that asks for them.
    sys.settrace(_ask_for_instructions)
    with contextlib.suppress(ValueError):
        work()
    sys.settrace(None)
    for place in range(10_000):
        steps = iter(range(place))
        acted = False

        def trace(frame: FrameType, event: str, argument: object) -> Any:
            nonlocal acted
            if "pools" not in frame.f_code.co_filename:
                return None
            frame.f_trace_opcodes = True
            if event == "opcode" and next(steps, None) is None:  # noqa: B023
                acted = True
                act()
            return trace

        sys.settrace(trace)
        try:
            outcome = work()
        except BaseException as error:
            outcome = error.with_traceback(None)
        finally:
            sys.settrace(None)
        if not acted:
            return
        yield outcome
    pytest.fail("there is no end to it")


# A coroutine that was made, and is stopped before its first step.
@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited")
@pytest.mark.parametrize(
    ("function", "operation"),
    [
        (add, Lane.run),
        (add_later, Lane.run),
        (fail, Lane.run),
        (add, Lane.run_timed),
        (add_later, Lane.run_timed),
        (add, Lane.run_chunk),
        (fail, Lane.run_chunk),
    ],
)
def test_a_signal_at_any_instruction_stops_this_task_or_nothing(
    root: Root, function: Any, operation: Any
) -> None:
    lane = Lane()
    guard = lane._guard  # pyright: ignore[reportPrivateUsage]
    arguments = ([1], [2]) if operation is Lane.run_chunk else (1, 2)
    seen: set[type[Any]] = set()

    def work() -> Any:
        root.words[ASKED] = root.words[HEARD] = 0
        guard.heard = 0
        return run(lane, function, *arguments, operation=operation)

    def act() -> None:
        if not root.words[ASKED]:
            root.ask(1, EXCEPTION)
        guard._woken(0, None)  # pyright: ignore[reportPrivateUsage]

    for outcome in at_each_instruction(act, work):
        seen.add(outcome.__class__)
        assert not isinstance(outcome, TaskInterrupt)
        if isinstance(outcome, BaseException):
            assert isinstance(outcome, TaskCancelledError | ValueError)
        assert not guard.is_open
        assert not guard.is_touched
        # The next one runs as if nothing had been.
        root.running = (LINK, 2)
        assert run(lane, add, 3, 4) == 7
        root.running = (LINK, 1)
        del outcome
    assert TaskCancelledError in seen
    assert len(seen) > 1
    # Here, where nobody minds a coroutine that was never awaited.
    gc.collect()


@pytest.mark.parametrize("operation", [Lane.run, Lane.run_timed, Lane.run_chunk])
def test_a_signal_at_any_instruction_leaves_the_loop_that_is_hidden_from_the_task(
    root: Root, operation: Any
) -> None:
    lane = Lane()
    guard = lane._guard  # pyright: ignore[reportPrivateUsage]
    loop = asyncio.new_event_loop()
    lane._loop = loop  # pyright: ignore[reportPrivateUsage]
    arguments = ([1], [2]) if operation is Lane.run_chunk else (1, 2)

    def work() -> Any:
        root.words[ASKED] = root.words[HEARD] = 0
        guard.heard = 0
        return run(lane, add_alone, *arguments, operation=operation)

    def act() -> None:
        if not root.words[ASKED]:
            root.ask(1, EXCEPTION)
        guard._woken(0, None)  # pyright: ignore[reportPrivateUsage]

    seen: set[type[Any]] = set()
    asyncio._set_running_loop(loop)
    try:
        for outcome in at_each_instruction(act, work):
            seen.add(outcome.__class__)
            assert asyncio._get_running_loop() is loop
            del outcome
    finally:
        asyncio._set_running_loop(None)
        loop.close()
    assert seen == {TaskCancelledError, int if operation is Lane.run else list}


def test_a_request_for_another_task_does_nothing(root: Root) -> None:
    lane = Lane()
    guard = lane._guard  # pyright: ignore[reportPrivateUsage]

    def act() -> None:
        if not root.words[ASKED]:
            root.ask(2, EXCEPTION)
        guard._woken(0, None)  # pyright: ignore[reportPrivateUsage]

    for outcome in at_each_instruction(act, lambda: run(lane, add, 1, 2)):
        assert outcome == 3
        root.words[ASKED] = guard.heard = 0


def test_what_has_not_begun_is_dropped_in_its_turn_and_nothing_else(root: Root) -> None:
    lane = Lane()
    outcomes: list[Any] = []
    root.ask(2, TOKEN)
    root.ask(4, TOKEN)
    for seq in range(1, 6):
        root.running = (LINK, seq)
        try:
            outcomes.append(run(lane, add, seq, 0))
        except TaskCancelledError as error:
            outcomes.append(error.rung)
    assert outcomes == [1, "dropped", 3, "dropped", 5]
    # From there on nothing is looked for any more.
    assert lane._guard.heard == root.words[ASKED]  # pyright: ignore[reportPrivateUsage]


@pytest.mark.parametrize("operation", [Lane.run, Lane.run_timed, Lane.run_chunk])
def test_a_request_that_comes_at_any_instruction_is_found_before_the_next_task_begins(
    root: Root, operation: Any
) -> None:
    lane = Lane()
    arguments = ([1], [2]) if operation is Lane.run_chunk else (1, 2)

    def work() -> Any:
        # One request is there, so that the guard is just looking at the requests.
        root.words[ASKED] = lane._guard.heard = 0  # pyright: ignore[reportPrivateUsage]
        root.ask(9, TOKEN)
        return run(lane, add, *arguments, operation=operation)

    def act() -> None:
        if root.words[ASKED] == 1:
            root.ask(2, TOKEN)

    for outcome in at_each_instruction(act, work):
        assert not isinstance(outcome, BaseException)
        root.running = (LINK, 2)
        with pytest.raises(TaskCancelledError) as failure:
            run(lane, add, *arguments, operation=operation)
        assert failure.value.rung == "dropped"
        root.running = (LINK, 1)


def test_a_plain_function_gets_the_exception_where_an_async_one_is_cancelled(root: Root) -> None:
    lane = Lane()
    guard = lane._guard  # pyright: ignore[reportPrivateUsage]
    rungs: list[str] = []

    def act() -> None:
        if not root.words[ASKED]:
            root.ask(1, CANCEL)
        guard._woken(0, None)  # pyright: ignore[reportPrivateUsage]

    for outcome in at_each_instruction(act, lambda: run(lane, add, 1, 2)):
        rungs += [outcome.rung] if isinstance(outcome, TaskCancelledError) else []
        root.words[ASKED] = guard.heard = 0
    assert set(rungs) == {"dropped", "exception"}


def test_outside_of_a_pool_nobody_stops_a_task() -> None:
    assert not current_task().cancelled
    current_task().raise_if_cancelled()


def test_what_is_left_of_a_request_is_no_matter_once_the_ring_was_round(root: Root) -> None:
    lane = Lane()
    root.running = (LINK, 1000)
    root.words[ASKED] = 10**6
    assert run(lane, add, 1, 2) == 3
