"""Who gets a message, and how many members a pool has: as tables."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from noex_mp.pools.routing import by_key, least_busy, next_in_turn, scaled


@dataclass
class Seated:
    number: int
    in_flight: int
    has_room: bool


@pytest.mark.parametrize(
    ("in_flight", "full", "chosen"),
    [
        ([0, 0, 0], [], 1),
        ([1, 0, 2], [], 2),
        ([1, 0, 2], [2], 1),
        ([3, 3, 3], [1, 2, 3], None),
        ([], [], None),
    ],
)
def test_the_one_with_the_least_to_do_is_chosen(
    in_flight: list[int], full: list[int], chosen: int | None
) -> None:
    members = [Seated(n, count, n not in full) for n, count in enumerate(in_flight, start=1)]
    found = least_busy(members)
    assert (found and found.number) == chosen


@pytest.mark.parametrize(
    ("last", "full", "chosen"),
    [(0, [], 1), (1, [], 2), (3, [], 1), (1, [2], 3), (2, [1, 3], 2), (7, [], 1)],
)
def test_each_has_its_turn(last: int, full: list[int], chosen: int) -> None:
    members = [Seated(n, 0, n not in full) for n in (1, 2, 3)]
    found = next_in_turn(members, last)
    assert found is not None
    assert found.number == chosen


def test_nobody_has_room() -> None:
    assert next_in_turn([Seated(1, 1, has_room=False)], 1) is None


@given(st.sets(st.integers(1, 10_000), min_size=2, max_size=12), st.data())
def test_a_key_moves_only_if_its_member_has_gone(numbers: set[int], data: st.DataObject) -> None:
    gone = data.draw(st.sampled_from(sorted(numbers)))
    for key in (b"%d" % n for n in range(50)):
        before = by_key(key, sorted(numbers))
        after = by_key(key, sorted(numbers - {gone}, reverse=True))
        assert after == before or before == gone


def test_each_member_has_its_share_of_the_keys() -> None:
    shares = Counter(by_key(b"key %d" % n, range(1, 9)) for n in range(8000))
    assert set(shares) == set(range(1, 9))
    assert min(shares.values()) > 800
    assert max(shares.values()) < 1200


@pytest.mark.parametrize(
    ("size", "age", "idle", "has_free", "expected"),
    [
        (2, 0.0, 0.0, False, 2),
        (2, 1.0, 0.0, False, 3),
        # At the upper bound nothing helps.
        (4, 9.0, 0.0, False, 4),
        (3, 0.0, 9.9, True, 3),
        (3, 0.0, 10.0, True, 2),
        (2, 0.0, 99.0, True, 2),
        # Another is idle, and not the youngest.
        (3, 0.0, 0.0, True, 3),
        # What waits is for one of them alone: one more would not get it, and one less might have to
        # come back.
        (3, 1.0, 99.0, True, 3),
        # So many it had before its bounds were others.
        (1, 0.0, 0.0, True, 2),
        (9, 0.0, 0.0, True, 4),
    ],
)
def test_the_size_follows_the_load_between_its_bounds(
    *, size: int, age: float, idle: float, has_free: bool, expected: int
) -> None:
    found = scaled(size, (2, 4), age=age, idle=idle, has_free=has_free, scale_after=1.0)
    assert found == expected
