"""The order of applications: decided without a process."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from noex_mp import Application, BadChildSpecError, Supervisor, applications, child
from noex_mp.services.dependencies import in_order
from tests.servers.counters import Counter


def app(name: str, *needs: Application[Any] | str, **options: Any) -> Application[Any]:
    tree = Supervisor(child(Counter))
    made: Application[Any] = Application(name, tree, depends_on=needs, **options)
    return made


def names(chosen: list[Application[Any]]) -> list[str]:
    return [each.name for each in chosen]


def test_what_is_needed_comes_first_and_once() -> None:
    db = app("db")
    cache = app("cache", db)
    assert names(in_order([app("web", cache, db), db])) == ["db", "cache", "web"]


def test_names_stand_for_applications_that_are_run_as_well() -> None:
    assert names(in_order([app("web", "db"), app("db")])) == ["db", "web"]


@given(st.lists(st.lists(st.integers(0, 30), max_size=4), min_size=1, max_size=8))
def test_each_starts_after_all_that_it_depends_on(needs: list[list[int]]) -> None:
    made: list[Application[Any]] = []
    for nth, others in enumerate(needs):
        made.append(app(str(nth), *{made[other % nth] for other in others if nth}))
    found = names(in_order(made[::-1]))
    assert sorted(found, key=int) == [str(nth) for nth in range(len(needs))]
    for each in made:
        needed = names([other for other in each.depends_on if isinstance(other, Application)])
        assert all(found.index(name) < found.index(each.name) for name in needed)


def test_every_mistake_is_told_at_once() -> None:
    chosen = [
        *(app("a", "b"), app("b", "c"), app("c", "a")),
        *(app("d", "e"), app("e", "d"), app("f", "f")),
        *(app("g", "nobody", "nowhere"), app("h"), app("h")),
    ]
    with pytest.raises(BadChildSpecError) as failure:
        applications(*chosen)
    text = str(failure.value)
    for circle in ("a -> b -> c -> a", "d -> e -> d", "f -> f"):
        first, *_, last = circle.split(" -> ")
        ring = " -> ".join([*circle.split(" -> ")[:-1]] * 2)
        [line] = [
            line for line in text.splitlines() if line.endswith(last) or f"{first} ->" in line
        ]
        assert line.partition(": ")[2] in ring + " -> " + first
    for missing in ("nobody", "nowhere"):
        assert f"application g depends on {missing!r}" in text
    assert "expected one application called 'h', got two" in text


@pytest.mark.parametrize(
    ("restarts", "auto_shutdown", "significant"),
    [
        (("permanent", "permanent"), "any_significant", [True, True]),
        (("temporary", "permanent"), "any_significant", [False, True]),
        (("temporary", "transient"), "all_significant", [True, True]),
    ],
)
def test_permanent_applications_end_the_others_with_them(
    restarts: tuple[str, ...], auto_shutdown: str, significant: list[bool]
) -> None:
    tree = applications(*(app(str(n), restart=each) for n, each in enumerate(restarts)))
    assert tree.auto_shutdown == auto_shutdown
    entries: Any = tree.children
    assert [each.significant for each in entries] == significant
