from __future__ import annotations

from collections.abc import Callable

import pytest

from noex_mp import BadChildSpecError
from noex_mp.core import tracebacks
from noex_mp.core.tracebacks import printed, users_part
from noex_mp.errors import NoexError


def raised_by_ours(code: str, name: str, **names: object) -> BaseException:
    """Return what code raises that has a file of ours."""
    file = tracebacks.__file__.replace("core/tracebacks.py", f"worker/{name}")
    with pytest.raises(BaseException) as failure:
        exec(compile(code, file, "exec"), names)
    trace = failure.value.__traceback__
    assert trace is not None
    # This function's own frame comes first.
    return failure.value.with_traceback(trace.tb_next)


def fail() -> None:
    raise ValueError("bad")


def fail_because() -> None:
    try:
        fail()
    except ValueError as error:
        raise KeyError("coffee") from error


def test_frames_of_ours_above_the_users_are_cut_off() -> None:
    error = raised_by_ours("handler()", "host.py", handler=fail)
    text = printed(error)
    assert "host.py" not in text
    assert text.splitlines()[0] == "Traceback (most recent call last):"
    assert "in fail" in text.splitlines()[1]
    assert text.endswith("ValueError: bad\n")


def test_what_the_error_hangs_on_is_cut_too_and_frames_below_the_users_stay() -> None:
    def calls_ours() -> None:
        exec(compile("handler()", tracebacks.__file__, "exec"), {"handler": fail_because})

    text = printed(raised_by_ours("handler()", "host.py", handler=calls_ours))
    assert "host.py" not in text
    assert "in calls_ours" in text
    assert "core/tracebacks.py" in text
    assert text.count("Traceback (most recent call last):") == 2


@pytest.mark.parametrize(
    "error", [BadChildSpecError("no such option"), TypeError("it takes 2 arguments")]
)
def test_of_a_users_mistake_that_we_have_found_no_frame_is_shown(error: BaseException) -> None:
    found = raised_by_ours("raise error", "host.py", error=error)
    assert users_part(found) is None
    assert printed(found).count("\n") == 1


def test_a_bug_of_ours_keeps_its_frames() -> None:
    error = raised_by_ours("{}['sid']", "host.py")
    assert "host.py" in printed(error)
    assert not isinstance(error, NoexError)


def test_a_group_is_cut_in_all_its_parts() -> None:
    def both(handler: Callable[[], None]) -> None:
        found = [raised_by_ours("handler()", name, handler=handler) for name in ("a.py", "b.py")]
        raise ExceptionGroup("two", [each for each in found if isinstance(each, Exception)])

    text = printed(raised_by_ours("both(fail)", "host.py", both=both, fail=fail))
    assert not [name for name in ("a.py", "b.py", "host.py") if f'/{name}"' in text]
    assert text.count("in fail") == 2
