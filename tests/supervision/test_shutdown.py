from __future__ import annotations

import doctest

import pytest
from hypothesis import given
from hypothesis import strategies as st

from noex_mp.core.specs import ShutdownLimit
from noex_mp.supervision import shutdown as module
from noex_mp.supervision.shutdown import FAST_GRACE, GRACE, Stop, plan_shutdown, stop_steps

LIMITS: st.SearchStrategy[ShutdownLimit] = st.sampled_from([0.0, 5.0, None, "brutal_kill"])
CHILDREN = st.lists(LIMITS, max_size=5).map(lambda ls: [(str(i), x) for i, x in enumerate(ls)])


@pytest.mark.parametrize(
    ("shutdown", "steps"),
    [
        (5.0, [("ask", 5.0), ("terminate", GRACE), ("kill", None)]),
        (0.5, [("ask", 0.5), ("terminate", GRACE), ("kill", None)]),
        (0.0, [("ask", 0.0), ("terminate", GRACE), ("kill", None)]),
        (None, [("ask", None)]),
        ("brutal_kill", [("kill", None)]),
    ],
)
def test_a_server_is_asked_before_it_is_forced(
    shutdown: ShutdownLimit, steps: list[tuple[str, float | None]]
) -> None:
    assert list(stop_steps(shutdown)) == steps


@pytest.mark.parametrize(
    ("shutdown", "steps"),
    [
        (5.0, [("terminate", FAST_GRACE), ("kill", None)]),
        (None, [("terminate", FAST_GRACE), ("kill", None)]),
        ("brutal_kill", [("kill", None)]),
    ],
)
def test_a_fast_stop_waits_for_no_server(
    shutdown: ShutdownLimit, steps: list[tuple[str, float | None]]
) -> None:
    assert list(stop_steps(shutdown, fast=True)) == steps


@pytest.mark.parametrize(
    ("shutdown", "fast", "steps"),
    [
        (5.0, False, [("ask", 5.0), ("evict", GRACE), ("kill", None)]),
        (None, False, [("ask", None)]),
        ("brutal_kill", False, [("evict", GRACE), ("kill", None)]),
        (5.0, True, [("evict", FAST_GRACE), ("kill", None)]),
        (None, True, [("evict", FAST_GRACE), ("kill", None)]),
    ],
)
def test_a_member_of_a_group_is_evicted_before_its_process_is_killed(
    shutdown: ShutdownLimit, fast: bool, steps: list[tuple[str, float | None]]
) -> None:
    assert list(stop_steps(shutdown, fast=fast, shared=True)) == steps


def test_a_fast_stop_is_over_before_it_feels_slow() -> None:
    assert FAST_GRACE < GRACE <= 1.0
    assert FAST_GRACE <= 0.2


@given(shutdown=LIMITS, fast=st.booleans(), shared=st.booleans())
def test_the_last_step_is_the_only_one_without_a_limit(
    shutdown: ShutdownLimit, fast: bool, shared: bool
) -> None:
    limits = [step.limit for step in stop_steps(shutdown, fast=fast, shared=shared)]
    assert [limit is None for limit in limits] == [False] * (len(limits) - 1) + [True]


@given(children=CHILDREN)
def test_servers_stop_one_after_the_other_from_right_to_left(
    children: list[tuple[str, ShutdownLimit]],
) -> None:
    assert plan_shutdown(children) == tuple(
        (Stop(name, stop_steps(limit)),) for name, limit in reversed(children)
    )


@given(children=CHILDREN)
def test_a_fast_stop_takes_all_at_once(children: list[tuple[str, ShutdownLimit]]) -> None:
    waves = plan_shutdown(iter(children), fast=True)
    assert len(waves) == bool(children)
    assert [stop for wave in waves for stop in wave] == [
        Stop(name, stop_steps(limit, fast=True)) for name, limit in reversed(children)
    ]


def test_the_examples_in_the_docstrings_are_true() -> None:
    result = doctest.testmod(module)
    assert result.attempted
    assert not result.failed
