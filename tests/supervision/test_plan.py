from __future__ import annotations

import doctest
from dataclasses import replace
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from noex_mp.core.reasons import (
    Crash,
    Exited,
    ExitReason,
    Hung,
    InitFailed,
    InitTimedOut,
    Killed,
    Normal,
    OutOfMemory,
    Shutdown,
    ShutdownTimedOut,
    Unknown,
)
from noex_mp.core.specs import AutoShutdown, Restart, Strategy
from noex_mp.supervision import plan as module
from noex_mp.supervision.plan import BUDGETS, Budget, Child, Plan, Tree, plan_exit

CRASH = Crash("ValueError", "bad")
ABNORMAL: list[ExitReason] = [
    CRASH,
    Exited(0),
    Exited(3),
    Killed("SIGKILL"),
    InitFailed("no disk"),
    InitTimedOut(5.0),
    ShutdownTimedOut(5.0),
    OutOfMemory(),
    Hung(5.0),
    Unknown(""),
]
ORDERLY: list[ExitReason] = [Normal(), Shutdown(), Shutdown("done")]


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
    assert plan.start == (("a",) if comes_back else ())
    counted = (*plan.restarts, *plan.failed_inits, *plan.ooms, *plan.hangs)
    assert counted == ((1.0,) if comes_back else ())


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
def test_a_failed_restart_counts_in_a_budget_of_its_own(reason: ExitReason) -> None:
    tree = Tree((Child("a", "transient"),), max_restarts=1)
    crashed = plan_exit(tree, "a", CRASH, now=1.0)
    assert (crashed.restarts, crashed.failed_inits) == ((1.0,), ())
    tree = replace(tree, restarts=crashed.restarts)
    once = plan_exit(tree, "a", reason, now=2.0)
    assert once == Plan(start=("a",), restarts=(1.0,), failed_inits=(2.0,))
    tree = replace(tree, failed_inits=once.failed_inits)
    assert plan_exit(tree, "a", reason, now=3.0).give_up
    # And it slides, as the other one does.
    assert plan_exit(tree, "a", reason, now=7.125).failed_inits == (7.125,)


@pytest.mark.parametrize(("allowed", "gives_up"), [(0, [True]), (2, [False, False, True])])
def test_how_many_starts_may_fail_can_be_said_apart(allowed: int, gives_up: list[bool]) -> None:
    tree = Tree((Child("a"),), max_restarts=1, max_failed_inits=allowed)
    found: list[bool] = []
    for _ in gives_up:
        plan = plan_exit(tree, "a", InitFailed("no disk"), now=1.0)
        found.append(plan.give_up)
        tree = replace(tree, failed_inits=plan.failed_inits)
    assert found == gives_up


def test_without_a_limit_it_never_gives_up() -> None:
    many = (1.0,) * 1000
    tree = Tree((Child("a"),), max_restarts=None, max_ooms=0, restarts=many, failed_inits=many)
    for reason in (CRASH, InitFailed("no disk")):
        assert plan_exit(tree, "a", reason, now=1.0).start == ("a",)
    # What has a limit of its own keeps it.
    assert plan_exit(tree, "a", OutOfMemory(), now=1.0).give_up


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


def test_trees_and_plans_are_values() -> None:
    assert len({Tree((Child("a"),)), Tree((Child("a"),)), Tree(())}) == 2
    assert len({Plan(), Plan(), Plan(give_up=True)}) == 2


def test_the_examples_in_the_docstrings_are_true() -> None:
    result = doctest.testmod(module)
    assert result.attempted
    assert not result.failed


DONE = Normal()


@pytest.mark.parametrize(
    ("auto_shutdown", "significant", "down", "shuts_down"),
    [
        ("never", "a", "", False),
        ("any_significant", "a", "", True),
        ("any_significant", "ab", "", True),
        ("any_significant", "b", "", False),
        ("all_significant", "a", "", True),
        ("all_significant", "ab", "", False),
        ("all_significant", "ab", "b", True),
        ("all_significant", "abc", "b", False),
        ("all_significant", "b", "b", False),
    ],
)
def test_the_end_of_significant_children_ends_their_supervisor(
    auto_shutdown: AutoShutdown, significant: str, down: str, shuts_down: bool
) -> None:
    children = tuple(
        Child(name, "transient", significant=name in significant, is_down=name in down)
        for name in "abc"
    )
    tree = Tree(children, auto_shutdown=auto_shutdown, restarts=(1.0,))
    plan = plan_exit(tree, "a", DONE, now=2.0)
    assert plan.shut_down == shuts_down
    assert plan.stop == (("c", "b") if shuts_down else ())
    assert (plan.start, plan.restarts, plan.give_up) == ((), (1.0,), False)


def test_a_significant_child_that_comes_back_ends_nobody() -> None:
    children = (Child("a", "transient", significant=True), Child("b"))
    tree = Tree(children, auto_shutdown="any_significant")
    assert plan_exit(tree, "a", CRASH, now=1.0) == Plan(start=("a",), restarts=(1.0,))


def test_a_significant_temporary_child_ends_its_supervisor_by_a_crash_too() -> None:
    children = (Child("a", "temporary", significant=True), Child("b"))
    tree = Tree(children, auto_shutdown="any_significant")
    assert plan_exit(tree, "a", CRASH, now=1.0).shut_down


@pytest.mark.parametrize(
    ("plan", "words"),
    [
        (Plan(), "stays down"),
        (Plan(start=("a",)), "restarting"),
        (Plan(stop=("b", "c"), start=("a", "b", "c")), "restarting with 2 of its siblings"),
        (Plan(give_up=True), "its supervisor gives up"),
        (Plan(shut_down=True), "its supervisor shuts down"),
    ],
)
def test_a_plan_in_words(plan: Plan, words: str) -> None:
    assert plan.next == words


ONE_OF_EACH: list[tuple[Budget, ExitReason]] = [
    ("restarts", CRASH),
    ("failed_inits", InitFailed("no disk")),
    ("ooms", OutOfMemory(2**30)),
    ("hangs", Hung(5.0, "python")),
]


@pytest.mark.parametrize(("budget", "reason"), ONE_OF_EACH)
def test_each_kind_of_restart_has_a_budget_of_its_own(budget: Budget, reason: ExitReason) -> None:
    tree = Tree((Child("a"),), max_restarts=0)
    limits: dict[str, Any] = {f"max_{each}": int(each == budget) for each in BUDGETS}
    allowed = replace(tree, **limits)
    assert plan_exit(tree, "a", reason, now=1.0).give_up
    plan = plan_exit(allowed, "a", reason, now=1.0)
    assert plan.start == ("a",)
    assert {each: getattr(plan, each) for each in BUDGETS if getattr(plan, each)} == {
        budget: (1.0,)
    }
    assert plan_exit(allowed.after(plan), "a", reason, now=2.0).give_up


def test_without_a_number_each_budget_is_as_big_as_that_of_restarts() -> None:
    tree = Tree((Child("a"),), max_restarts=2)
    assert [tree.limit_of(budget) for budget in BUDGETS] == [2, 2, 2, 2]


@pytest.mark.parametrize(("budget", "reason"), ONE_OF_EACH)
def test_only_a_lack_of_memory_escalates(budget: Budget, reason: ExitReason) -> None:
    tree = Tree((Child("a", on_oom="escalate"), Child("b")))
    plan = plan_exit(tree, "a", reason, now=1.0)
    assert plan.give_up is (budget == "ooms")
    assert plan.stop == (("b",) if plan.give_up else ())


def test_what_does_not_come_back_does_not_escalate() -> None:
    tree = Tree((Child("a", "temporary", on_oom="escalate"),))
    assert plan_exit(tree, "a", OutOfMemory(), now=1.0) == Plan()
