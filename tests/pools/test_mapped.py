"""What a future and a map raise: the error of the task, and in its traceback all that led to it."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NoReturn

import pytest

from noex_mp import ProcessPoolExecutor, sync

# The executor is that of the module.
pytestmark = pytest.mark.may_leave("processes", "fds", "shared memory")

CAUSE = "The above exception was the direct cause of the following exception:"
CONTEXT = "During handling of the above exception, another exception occurred:"


@pytest.fixture(scope="module")
def pool() -> Iterator[ProcessPoolExecutor]:
    with ProcessPoolExecutor(1) as pool:
        yield pool
    sync.shutdown()


@dataclass(frozen=True)
class FrozenError(Exception):
    code: int


def look_up() -> NoReturn:
    raise KeyError("config")


def fail_plainly(number: int = 0) -> NoReturn:
    raise LookupError("no config")


def fail_while_handling(number: int = 0) -> NoReturn:
    try:
        look_up()
    except KeyError:
        raise LookupError("no config")  # noqa: B904 - it is about those


def fail_from(number: int = 0) -> NoReturn:
    try:
        fail_while_handling()
    except LookupError as error:
        raise OSError("no start") from error


def fail_from_none(number: int = 0) -> NoReturn:
    try:
        look_up()
    except KeyError:
        raise LookupError("no config") from None


def fail_with_a_note(number: int = 0) -> NoReturn:
    error = LookupError("no config")
    error.add_note("set CONFIG")
    raise error


def fail_frozen(number: int = 0) -> NoReturn:
    raise FrozenError(7)


def fail_in_a_pool(number: int = 0) -> NoReturn:
    with ProcessPoolExecutor(1) as pool:
        pool.submit(fail_while_handling).result()
    raise AssertionError


def error_of(pool: ProcessPoolExecutor, task: Callable[[], object]) -> Exception:
    with pytest.raises(Exception) as raised:
        pool.submit(task).result(timeout=10)
    return raised.value


def order_in(text: str, *parts: str) -> bool:
    """Return whether each part is there once, in this order."""
    return [text.count(part) for part in parts] == [1] * len(parts) and (
        sorted(parts, key=text.index) == list(parts)
    )


def test_what_was_handled_when_it_was_raised_is_in_the_traceback(
    pool: ProcessPoolExecutor,
) -> None:
    error = error_of(pool, fail_while_handling)
    text = "".join(traceback.format_exception(error))
    remote, _, local = text.partition(CAUSE)
    assert order_in(remote, "_RemoteTraceback", "KeyError: 'config'", "in look_up", CONTEXT)
    assert remote.count("in fail_while_handling") == 2
    assert "LookupError: no config" in local
    assert isinstance(error.__context__, KeyError)


def test_one_with_a_cause_keeps_it_and_has_no_note_of_ours(pool: ProcessPoolExecutor) -> None:
    error = error_of(pool, fail_from)
    assert isinstance(error.__cause__, LookupError)
    text = "".join(traceback.format_exception(error))
    assert order_in(text, "KeyError: 'config'", "in look_up", CONTEXT, "OSError(")
    assert text.index(CONTEXT) < text.index(CAUSE)
    assert not hasattr(error, "__notes__")
    assert not hasattr(error.__cause__, "__notes__")
    assert type(error.__cause__.__cause__).__name__ == "_RemoteTraceback"


@pytest.mark.parametrize("task", [fail_plainly, fail_from_none])
def test_one_that_nothing_led_to_has_its_own_traceback_only(
    pool: ProcessPoolExecutor, task: Callable[[], object]
) -> None:
    with pytest.raises(LookupError) as raised:
        list(pool.map(task, [1]))
    assert f"in {task.__name__}" in str(raised.value.__cause__)
    assert "KeyError" not in "".join(traceback.format_exception(raised.value))
    assert not hasattr(raised.value, "__notes__")


def test_notes_of_the_task_stay(pool: ProcessPoolExecutor) -> None:
    error = error_of(pool, fail_with_a_note)
    assert error.__notes__ == ["set CONFIG"]
    assert "in fail_with_a_note" in str(error.__cause__)


def test_a_frozen_error_is_raised_as_itself(pool: ProcessPoolExecutor) -> None:
    error = error_of(pool, fail_frozen)
    assert error == FrozenError(7)
    assert "in fail_frozen" in str(error.__cause__)


def test_an_error_of_a_pool_in_a_task_has_one_traceback_for_both(
    pool: ProcessPoolExecutor,
) -> None:
    error = error_of(pool, fail_in_a_pool)
    text = "".join(traceback.format_exception(error))
    assert order_in(text, "KeyError: 'config'", "in look_up", CONTEXT, "in fail_in_a_pool")
