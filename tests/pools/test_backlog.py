"""The backlog of a pool: whose turn it is, and what goes where there is too much."""

from __future__ import annotations

from collections import defaultdict
from math import inf
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from noex_mp.pools.backlog import Backlog, Place


def waiting(backlog: Backlog[str]) -> str:
    return "".join(sorted(place.item for place in backlog))


def filled(*items: tuple[str, int]) -> Backlog[str]:
    """Return a backlog in which these wait, one second apart, each with a priority."""
    backlog = Backlog[str]()
    for now, (item, priority) in enumerate(items):
        backlog.put(item, now=float(now), priority=priority)
    return backlog


@pytest.mark.parametrize(
    ("discard", "limit", "gone", "left"),
    [
        ("oldest", 2, "a", "bc"),
        ("newest", 2, "c", "ab"),
        ("oldest", 0, "abc", ""),
        ("newest", None, "", "abc"),
    ],
)
def test_more_than_may_wait_is_taken_out(
    discard: Literal["oldest", "newest"], limit: int | None, gone: str, left: str
) -> None:
    backlog = filled(("a", 0), ("b", 0), ("c", 0))
    assert "".join(p.item for p in backlog.excess(limit, discard)) == gone
    assert waiting(backlog) == left
    assert len(backlog) == len(left)


@pytest.mark.parametrize(("discard", "gone"), [("oldest", "b"), ("newest", "c")])
def test_the_lowest_priority_goes_first(discard: Literal["oldest", "newest"], gone: str) -> None:
    backlog = filled(("a", 1), ("b", 0), ("c", 0), ("d", 1))
    assert [place.item for place in backlog.excess(3, discard)] == [gone]


def test_what_is_bound_to_a_member_is_for_nobody_else() -> None:
    backlog = Backlog[str]()
    backlog.put("a", now=0.0, member=1)
    backlog.put("b", now=0.0)
    assert backlog.has_any_for(1)
    assert not backlog.has_any_for(2)
    assert (backlog.take(2), backlog.take(2)) == ("b", None)
    assert backlog.take(1) == "a"
    assert not backlog.has_any_for(1)


def test_what_is_put_back_comes_first_but_not_before_a_higher_priority() -> None:
    backlog = filled(("a", 0), ("b", 0), ("c", 1))
    assert backlog.take(1) == "c"
    first, second = backlog.take_place(1), backlog.take_place(1)
    assert first is not None
    assert second is not None
    backlog.put("d", now=9.0)
    backlog.put("e", now=9.0, priority=1)
    for place in (second, first):
        backlog.put_back(place)
    assert [backlog.take(1) for _ in range(4)] == ["e", "a", "b", "d"]


def test_what_is_of_no_use_any_more_is_taken_out() -> None:
    backlog = Backlog[str]()
    for item, until in (("a", 2.0), ("b", inf), ("c", 3.0)):
        backlog.put(item, now=0.0, until=until)
    assert [place.item for place in backlog.expired(2.0)] == ["a"]
    assert waiting(backlog) == "bc"


def test_the_age_is_that_of_the_oldest_whatever_its_priority() -> None:
    backlog = filled(("a", 0), ("b", 1))
    assert backlog.age(5.0) == 5.0
    backlog.take(1)
    assert backlog.age(5.0) == 5.0
    backlog.take(1)
    assert backlog.age(5.0) == 0.0


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2), st.booleans()), max_size=40))
def test_of_one_priority_each_member_gets_its_messages_in_their_order(
    steps: list[tuple[int, int, bool]],
) -> None:
    backlog = Backlog[tuple[int, int, int]]()
    taken: dict[tuple[int, int], list[int]] = defaultdict(list)
    places: list[Place[tuple[int, int, int]]] = []
    for number, (member, priority, also_take) in enumerate(steps):
        backlog.put((member, priority, number), now=0.0, member=member, priority=priority)
        if also_take and (place := backlog.take_place(member)) is not None:
            if number % 3:
                places.append(place)
            else:
                backlog.put_back(place)
    for member in range(4):
        while (left := backlog.take_place(member)) is not None:
            places.append(left)
    assert len(backlog) == 0
    for place in places:
        member, priority, number = place.item
        taken[member, priority].append(number)
    for numbers in taken.values():
        assert numbers == sorted(numbers)
    assert sum(map(len, taken.values())) == len(steps)
