from __future__ import annotations

import doctest
from dataclasses import replace
from typing import ClassVar, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from noex_mp.core.reasons import (
    Crash,
    Exited,
    ExitReason,
    InitFailed,
    InitTimedOut,
    Killed,
    Normal,
    Shutdown,
    ShutdownTimedOut,
    Unknown,
)
from noex_mp.core.specs import Restart, Strategy, Supervisor, child
from noex_mp.supervision import plan as module
from noex_mp.supervision.plan import Child, Plan, Tree, plan_exit

CRASH = Crash("ValueError", "bad")
ABNORMAL: list[ExitReason] = [
    CRASH,
    Exited(0),
    Exited(3),
    Killed("SIGKILL"),
    InitFailed("no disk"),
    InitTimedOut(5.0),
    ShutdownTimedOut(5.0),
    Unknown(""),
]
ORDERLY: list[ExitReason] = [Normal(), Shutdown(), Shutdown("done")]


class Counter:
    __child_options__: ClassVar[dict[str, object]] = {}


class Cache(Counter):
    __child_options__: ClassVar[dict[str, object]] = {"restart": "transient"}


def restarts_of(tree: Tree, times: list[float]) -> list[bool]:
    """Crash `a` at each of these times; return whether it was started again."""
    started: list[bool] = []
    for now in times:
        plan = plan_exit(tree, "a", CRASH, now=now)
        started.append(plan.start == ("a",))
        tree = replace(tree, restarts=plan.restarts)
    return started


@pytest.mark.parametrize("reason", ABNORMAL + ORDERLY)
@pytest.mark.parametrize("restart", get_args(Restart))
def test_the_restart_type_decides_who_comes_back(restart: Restart, reason: ExitReason) -> None:
    plan = plan_exit(Tree((Child("a", restart),)), "a", reason, now=1.0)
    comes_back = restart == "permanent" or (restart == "transient" and reason in ABNORMAL)
    assert plan == (Plan(start=("a",), restarts=(1.0,)) if comes_back else Plan())


def test_an_exit_without_restart_leaves_the_budget_alone() -> None:
    tree = Tree((Child("a", "temporary"),), max_restarts=1, restarts=(1.0, 2.0))
    assert plan_exit(tree, "a", CRASH, now=2.0) == Plan(restarts=(1.0, 2.0))


def test_a_child_that_was_removed_is_no_longer_our_business() -> None:
    tree = Tree((Child("a"),), restarts=(1.0,))
    assert plan_exit(tree, "gone", CRASH, now=2.0) == Plan(restarts=(1.0,))


@pytest.mark.parametrize(
    ("strategy", "exited", "stop", "start"),
    [
        ("one_for_one", "b", "", "b"),
        ("one_for_all", "b", "dca", "abd"),
        ("rest_for_one", "a", "dcb", "abd"),
        ("rest_for_one", "b", "dc", "bd"),
        ("rest_for_one", "d", "", "d"),
    ],
)
def test_the_strategy_decides_who_shares_the_fate(
    strategy: Strategy, exited: str, stop: str, start: str
) -> None:
    # c is temporary: it goes down with the others and is not started again.
    children = (Child("a"), Child("b"), Child("c", "temporary"), Child("d"))
    plan = plan_exit(Tree(children, strategy), exited, CRASH, now=0.0)
    assert (plan.stop, plan.start) == (tuple(stop), tuple(start))


@pytest.mark.parametrize("strategy", get_args(Strategy))
def test_a_temporary_child_drags_nobody_along(strategy: Strategy) -> None:
    tree = Tree((Child("a"), Child("b", "temporary"), Child("c")), strategy)
    assert plan_exit(tree, "b", CRASH, now=0.0) == Plan()


@pytest.mark.parametrize(
    ("max_restarts", "times", "started"),
    [
        # No restart allowed: the first exit is one too many.
        (0, [0.0], [False]),
        # As many as allowed, then one more.
        (1, [0.0, 1.0], [True, False]),
        (3, [0.0, 1.0, 2.0, 3.0], [True, True, True, False]),
        # The window's edge belongs to it; just beyond does not.
        (1, [0.0, 5.0], [True, False]),
        (1, [0.0, 5.125], [True, True]),
        # It slides: what left it does not count any more, what is in it does.
        (2, [0.0, 4.0, 6.0, 8.0], [True, True, True, False]),
        (2, [0.0, 3.0, 6.0, 9.0, 12.0], [True] * 5),
        # All at one moment.
        (2, [7.0, 7.0, 7.0], [True, True, False]),
    ],
)
def test_the_supervisor_gives_up_at_one_restart_too_many(
    max_restarts: int, times: list[float], started: list[bool]
) -> None:
    tree = Tree((Child("a"),), max_restarts=max_restarts, max_seconds=5.0)
    assert restarts_of(tree, times) == started


def test_the_death_of_a_group_is_counted_once() -> None:
    tree = Tree((Child("a"), Child("b"), Child("c")), max_restarts=1, restarts=(9.0,))
    for name in ("b", "c"):
        plan = plan_exit(tree, name, Killed("SIGKILL"), now=9.0, counted=True)
        assert plan == Plan(start=(name,), restarts=(9.0,))
    assert plan_exit(tree, "a", Killed("SIGKILL"), now=9.0).give_up


def test_giving_up_stops_the_others_from_right_to_left() -> None:
    tree = Tree((Child("a"), Child("b"), Child("c", "temporary")), max_restarts=0)
    plan = plan_exit(tree, "b", CRASH, now=1.0)
    assert plan == Plan(stop=("c", "a"), restarts=(1.0,), give_up=True)


@pytest.mark.parametrize("reason", [InitFailed("no disk"), InitTimedOut(5.0)])
def test_a_failed_restart_counts_as_another_exit(reason: ExitReason) -> None:
    tree = Tree((Child("a", "transient"),), max_restarts=1)
    first = plan_exit(tree, "a", CRASH, now=1.0)
    tree = replace(tree, restarts=first.restarts)
    assert plan_exit(tree, "a", reason, now=1.0).give_up


def test_the_budget_is_shared_by_all_children() -> None:
    tree = Tree((Child("a"), Child("b")), max_restarts=1)
    tree = replace(tree, restarts=plan_exit(tree, "a", CRASH, now=1.0).restarts)
    assert plan_exit(tree, "b", CRASH, now=2.0).give_up


@given(
    max_restarts=st.integers(0, 5),
    max_seconds=st.integers(1, 10),
    gaps=st.lists(st.integers(0, 6), min_size=1, max_size=30),
)
def test_the_window_does_what_a_count_over_all_of_history_does(
    max_restarts: int, max_seconds: int, gaps: list[int]
) -> None:
    tree = Tree((Child("a"),), max_restarts=max_restarts, max_seconds=max_seconds)
    now, history = 0, list[int]()
    for gap in gaps:
        now += gap
        history.append(now)
        plan = plan_exit(tree, "a", CRASH, now=now)
        in_window = [t for t in history if now - max_seconds <= t <= now]
        assert plan.restarts == tuple(in_window)
        assert plan.give_up == (len(in_window) > max_restarts)
        assert plan.start == (() if plan.give_up else ("a",))
        if plan.give_up:
            return
        tree = replace(tree, restarts=plan.restarts)


@given(
    strategy=st.sampled_from(get_args(Strategy)),
    restarts=st.lists(st.sampled_from(get_args(Restart)), min_size=1, max_size=6),
    reason=st.sampled_from(ABNORMAL + ORDERLY),
    max_restarts=st.integers(0, 1),
    data=st.data(),
)
def test_a_plan_never_starts_a_child_that_is_running(
    strategy: Strategy,
    restarts: list[Restart],
    reason: ExitReason,
    max_restarts: int,
    data: st.DataObject,
) -> None:
    children = tuple(Child(str(i), r) for i, r in enumerate(restarts))
    tree = Tree(children, strategy, max_restarts=max_restarts)
    exited = data.draw(st.sampled_from(children)).id
    plan = plan_exit(tree, exited, reason, now=0.0)
    order = [c.id for c in children]
    assert set(plan.start) <= {*plan.stop, exited}
    assert exited not in plan.stop
    assert list(plan.start) == sorted(plan.start, key=order.index)
    assert list(plan.stop) == sorted(plan.stop, key=order.index, reverse=True)
    assert not (plan.give_up and plan.start)


@pytest.mark.parametrize(
    ("plan", "words"),
    [
        (Plan(start=("a",)), "restarting"),
        (Plan(), "stays down"),
        (Plan(stop=("b",), give_up=True), "its supervisor gives up"),
    ],
)
def test_a_plan_has_words_for_the_report(plan: Plan, words: str) -> None:
    assert plan.next == words


def test_a_tree_is_made_from_its_spec() -> None:
    spec = Supervisor(
        child(Counter),
        child(Counter).options(id="visits", restart="temporary"),
        child(Cache),
        max_restarts=7,
        max_seconds=2.5,
    )
    assert Tree.from_spec(spec) == Tree(
        (Child("Counter"), Child("visits", "temporary"), Child("Cache", "transient")),
        "one_for_one",
        max_restarts=7,
        max_seconds=2.5,
    )


def test_a_tree_and_its_spec_have_the_same_defaults() -> None:
    assert Tree.from_spec(Supervisor()) == Tree(())


def test_trees_and_plans_are_values() -> None:
    assert len({Tree((Child("a"),)), Tree((Child("a"),)), Tree(())}) == 2
    assert len({Plan(), Plan(), Plan(give_up=True)}) == 2


def test_the_examples_in_the_docstrings_are_true() -> None:
    result = doctest.testmod(module)
    assert result.attempted
    assert not result.failed
