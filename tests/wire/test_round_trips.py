"""Every type that docs/values.md lists arrives as it was sent, to the last bit."""

from __future__ import annotations

import collections
import datetime as dt
import math
from typing import Any
from zoneinfo import ZoneInfo, available_timezones

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.wire.anatomy import NATIVE, PICKLED, anatomy, hidden
from tests.wire.registered import Guarded
from tests.wire.samples import (
    Bits,
    Careful,
    Color,
    Derived,
    FrozenPoint,
    Level,
    Mixed,
    Number,
    OldPair,
    Outer,
    Pair,
    Plain,
    Planet,
    Point,
    Rights,
    Row,
    Rows,
    SlottedPoint,
    Word,
    sent,
)

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
zones = st.none() | st.sampled_from(
    [dt.UTC, dt.timezone(dt.timedelta(minutes=-90), "here"), ZoneInfo("Europe/Berlin")]
)
numbers = (
    st.integers(-(2**200), 2**200)
    | st.floats()
    | st.complex_numbers()
    | st.decimals().filter(lambda value: not value.is_snan())  # has no hash
    | st.fractions()
    | st.sampled_from([math.nan, -0.0, 2**63, 2**64, -(2**63) - 1])
)
moments = (
    st.datetimes(timezones=zones)
    | st.times(timezones=zones)
    | st.dates()
    | st.timedeltas()
    | st.timezones()
)
keys: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | numbers
    | text
    | st.binary(max_size=8)
    | st.uuids()
    | moments
    | st.ip_addresses()
    | st.sampled_from(
        [*Color, *Level, *Word, *Planet, *Outer.Inner, Rights(0), Rights(3), Bits(3), Bits.TWO]
    ),
    lambda inner: (
        st.tuples()
        | st.tuples(inner, inner)
        | st.frozensets(inner, max_size=3)
        | st.builds(Pair, inner, inner)
        | st.builds(FrozenPoint, inner, st.tuples(inner))
    ),
    max_leaves=4,
)
arrays = st.sampled_from(
    [np.arange(6).reshape(2, 3), np.zeros((0, 2)), np.array(["NaT", 1], "M8[s]"), np.float32(-0.0)]
)


def _containers(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    several: list[st.SearchStrategy[Any]] = [
        st.lists(inner, max_size=4),
        st.dictionaries(keys, inner, max_size=4),
        st.sets(keys, max_size=4),
        st.tuples(inner, inner),
        st.builds(Pair, inner, inner),
        st.builds(OldPair, inner, inner),
        st.builds(Point, st.integers(), inner),
        st.builds(SlottedPoint, st.integers(), inner),
        st.builds(Mixed, st.integers(), inner, inner),
        st.builds(Careful, x=st.integers(), _private=inner),
        st.builds(Derived, st.integers(), inner, z=st.integers()),
        st.builds(collections.deque, st.lists(inner, max_size=3), st.none() | st.just(9)),
        st.builds(collections.OrderedDict, st.dictionaries(keys, inner, max_size=2)),
        st.builds(Guarded, inner),
    ]
    return st.one_of(several)


without_pickle = st.recursive(
    keys | arrays | st.builds(range, st.integers(-5, 5), st.integers(-5, 5)),
    _containers,
    max_leaves=10,
)


@settings(max_examples=200)
@given(value=without_pickle)
@example(value=[math.nan, {math.nan: -0.0, -0.0: math.nan}, complex(-0.0, math.nan)])
@example(value=[[], {}, (), set(), frozenset(), "", b"", Pair(()), collections.deque(), range(0)])
def test_every_bit_of_a_value_arrives_without_pickle(value: Any) -> None:
    assert anatomy(sent(value, allow_pickle=False)) == anatomy(value)


with_pickle: st.SearchStrategy[Any] = st.recursive(
    without_pickle,
    lambda inner: (
        st.builds(Plain, inner)
        | st.builds(Rows, st.lists(inner, max_size=3))
        | st.builds(Row, st.dictionaries(text, inner, max_size=3))
        | st.lists(inner, max_size=3)
        | st.builds(Number, st.integers())
    ),
    max_leaves=5,
)


@settings(max_examples=100)
@given(value=with_pickle)
def test_every_bit_of_a_value_arrives_with_pickle(value: Any) -> None:
    assert anatomy(sent(value)) == anatomy(value)


@pytest.mark.parametrize("value", NATIVE, ids=lambda v: f"{type(v).__name__}")
def test_what_the_table_says_needs_no_pickle(value: Any) -> None:
    assert anatomy(sent(value, allow_pickle=False)) == anatomy(value)


@pytest.mark.parametrize("value", PICKLED, ids=lambda v: type(v).__name__)
def test_all_else_arrives_by_pickle(value: Any) -> None:
    result = sent(value)
    assert type(result) is type(value)
    assert repr(result) == repr(value)
    assert str(getattr(result, "__dict__", None)) == str(getattr(value, "__dict__", None))


def test_slots_of_every_class_come_along_also_private_and_empty_ones() -> None:
    result = sent(hidden(), allow_pickle=False)
    assert (result.x, result.hidden()) == (1, [1])
    assert not hasattr(result, "seen")


def test_every_zone_there_is_arrives() -> None:
    zones = [ZoneInfo(key) for key in sorted(available_timezones())]
    arrived: list[ZoneInfo] = sent(zones)
    assert list(map(id, arrived)) == list(map(id, zones))


def test_the_names_of_attributes_are_shared_by_all_instances() -> None:
    points: list[Point] = sent([Point(1), Point(2)])
    one, other = (list(map(id, vars(point))) for point in points)
    assert one == other


# --- shared references --------------------------------------------------------------------


def test_what_stands_in_two_places_arrives_as_two_equal_values() -> None:
    shared: list[int] = [1]
    one, other, point = sent([shared, shared, Point(1, shared)], allow_pickle=False)
    assert one == other == point.y == [1]
    assert one is not other
    assert one is not point.y


def test_inside_of_what_is_pickled_it_stays_one() -> None:
    shared: list[int] = [1]
    outer, inner = Plain([shared, shared]), Plain(None)
    inner.content = inner
    result, circle = sent([outer, inner])
    assert result.content[0] is result.content[1]
    assert circle.content is circle


def test_arrays_that_share_their_memory_arrive_apart() -> None:
    memory = np.arange(4)
    one, other = sent([memory, memory[1:]])
    one[1] = 9
    assert other.tolist() == [1, 2, 3]
