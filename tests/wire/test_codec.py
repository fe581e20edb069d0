"""Values come out as they went in: same type, same value."""

from __future__ import annotations

import collections
import datetime as dt
import math
import sys
import uuid
from decimal import Decimal
from fractions import Fraction
from importlib.machinery import SourceFileLoader
from pathlib import PurePosixPath
from types import ModuleType
from typing import Any
from zoneinfo import ZoneInfo

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from noex_mp.core.ref import Ref
from noex_mp.errors import NotImportableError, RemoteProtocolError
from noex_mp.wire import codec, values
from noex_mp.wire.classes import path_of
from noex_mp.wire.codec import BIG, Decoder, Encoder
from noex_mp.wire.stream import FrameReader
from tests.wire.samples import (
    Color,
    Derived,
    Forgetting,
    FrozenPoint,
    Level,
    Number,
    Plain,
    Point,
    Rights,
    Secretive,
    SlottedPoint,
    Talking,
    Unloadable,
    Word,
    sent,
)

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=10)
zones = st.none() | st.sampled_from(
    [dt.UTC, dt.timezone(dt.timedelta(minutes=-90)), ZoneInfo("Europe/Berlin")]
)
hashables = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**200), 2**200)
    | st.floats(allow_nan=False)
    | text
    | st.binary(max_size=10)
    | st.uuids()
    | st.decimals(allow_nan=False)
    | st.complex_numbers(allow_nan=False)
    | st.datetimes(timezones=zones)
    | st.dates()
    | st.times()
    | st.timedeltas()
    | st.sampled_from([*Color, *Level, *Word, Rights.READ | Rights.WRITE]),
    lambda inner: st.frozensets(inner, max_size=3) | st.tuples(inner, inner) | st.tuples(),
    max_leaves=5,
)
anything = st.recursive(
    hashables,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(hashables, inner, max_size=4)
        | st.sets(hashables, max_size=4)
        | st.tuples(inner, inner)
        | st.builds(Point, st.integers(), inner)
        | st.builds(SlottedPoint, st.integers(), inner)
    ),
    max_leaves=12,
)


def shape(value: object) -> Any:
    """Return the types inside a value, so that 1 and True and Level.LOW differ."""
    container: Any = value
    if type(value) in (list, tuple):
        return [type(value), *(shape(child) for child in container)]
    if type(value) is dict:
        return [dict, *(shape(child) for child in container.values())]
    return type(value)


@settings(max_examples=150)
@given(value=anything)
def test_what_comes_out_is_what_went_in(value: Any) -> None:
    result = sent(value)
    assert result == value
    assert shape(result) == shape(value)


@settings(max_examples=50)
@given(value=anything)
def test_everything_with_a_type_of_its_own_does_without_pickle(value: Any) -> None:
    assert sent(value, allow_pickle=False) == value


EDGES: list[Any] = [
    2**63 - 1,
    2**63,
    2**64 - 1,
    2**64,
    -(2**63),
    -(2**63) - 1,
    2**200,
    -(2**200),
    (1 << 127) - 1,
    1 << 127,
    -(1 << 127),
    Decimal("sNaN"),
    dt.datetime.max,  # noqa: DTZ901
    dt.datetime(2026, 10, 25, 2, 30, tzinfo=ZoneInfo("Europe/Berlin"), fold=1),
    dt.time(1, 2, 3, 4, tzinfo=dt.timezone(dt.timedelta(hours=2), "CEST"), fold=1),
    dt.timezone(dt.timedelta(hours=2), "CEST"),
    dt.timedelta.min,
    ZoneInfo("Asia/Tokyo"),
    Color.AZURE,
    Rights(0),
    Rights.READ | Rights.WRITE,
    FrozenPoint(1, (2, 3)),
    Derived(1, z=5),
    [[], {}, (), set(), frozenset(), "", b""],
    {(1, (2, "x")): 3, frozenset({4}): 5, FrozenPoint(6): 7},
    Ref("node", 7, "name", 0.5),
]


@pytest.mark.parametrize("value", EDGES, ids=repr)
def test_edge_values_keep_type_and_text(value: Any) -> None:
    result = sent(value, allow_pickle=False)
    assert type(result) is type(value)
    assert repr(result) == repr(value)


def test_floats_keep_their_bits() -> None:
    nan, zero, infinity = sent([math.nan, -0.0, -math.inf])
    assert math.isnan(nan)
    assert math.copysign(1, zero) == -1
    assert infinity == -math.inf
    imaginary = sent(complex(-0.0, math.nan))
    assert math.copysign(1, imaginary.real) == -1
    assert math.isnan(imaginary.imag)


def test_utc_is_the_one_utc_and_the_fold_is_kept() -> None:
    assert sent(dt.UTC) is dt.UTC
    late = dt.datetime(2026, 10, 25, 2, 30, tzinfo=ZoneInfo("Europe/Berlin"), fold=1)
    assert sent(late).utcoffset() == dt.timedelta(hours=1)


def class_name(value: object) -> str:
    return type(value).__name__


@pytest.mark.parametrize("value", [bytearray(b"ab"), memoryview(b"ab"), b"ab"], ids=class_name)
def test_everything_like_bytes_arrives_as_bytes(value: Any) -> None:
    result = sent(value)
    assert type(result) is bytes
    assert result == b"ab"


def test_a_dataclass_is_rebuilt_without_its_init() -> None:
    result = sent(Point(1))
    assert result.initialised == ["once"]


def test_attributes_that_are_no_fields_come_along() -> None:
    point = Point(1)
    point.__dict__["extra"] = (1, 2)
    assert sent(point).extra == (1, 2)


def test_a_dataclass_that_pickles_itself_is_asked() -> None:
    assert sent(Secretive(1)) == Secretive(2)
    assert sent(Forgetting(1, cache=2)) == Forgetting(1)


PICKLED: list[Any] = [
    Plain([1]),
    Fraction(1, 3),
    collections.OrderedDict(a=1),
    PurePosixPath("/a"),
    len,
    Plain,
    range(3),
    Number(5),
]


@pytest.mark.parametrize("value", PICKLED, ids=class_name)
def test_other_types_go_by_pickle(value: Any) -> None:
    assert sent(value) == value


def test_pickle_can_be_switched_off_on_both_sides() -> None:
    with pytest.raises(TypeError, match="register_type"):
        Encoder(allow_pickle=False).pack([Plain(1)])
    reader = FrameReader(peer="worker 1", allow_pickle=False)
    reader.feed(Encoder().pack([1, Plain(1), "rest"]))
    assert list(reader.frames()) == [[1, None, "rest"]]
    [failure] = reader.failures
    assert isinstance(failure, RemoteProtocolError)
    assert "pickle is switched off" in str(failure)


def test_what_cannot_be_loaded_is_a_failure_of_its_message_only() -> None:
    encoder, reader = Encoder(), FrameReader(peer="worker 1")
    reader.feed(encoder.pack([1, Unloadable()]) + encoder.pack([2, (3,)]))
    frames = reader.frames()
    assert next(frames) == [1, None]
    assert "no number" in str(reader.failures.pop())
    assert next(frames) == [2, (3,)]
    assert reader.failures == []


def test_a_class_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    data = Encoder().pack([1, FrozenPoint(1)])
    monkeypatch.delattr("tests.wire.samples.FrozenPoint")
    reader = FrameReader(peer="worker 1")
    reader.feed(data)
    assert list(reader.frames()) == [[1, None]]
    [failure] = reader.failures
    assert isinstance(failure, NotImportableError)
    assert failure.path == "tests.wire.samples:FrozenPoint"


SCRIPT = """
from dataclasses import dataclass
@dataclass
class Order:
    n: int
class Thing:
    pass
"""


def test_classes_of_the_script_are_main_to_the_root_and_to_workers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    in_root, in_worker = ModuleType("__main__"), ModuleType("__noex_main__")
    for module in (in_worker, in_root):
        monkeypatch.setitem(sys.modules, module.__name__, module)
        exec(SCRIPT, module.__dict__)
    in_root.__file__, in_root.__loader__ = "script.py", SourceFileLoader("__main__", "script.py")
    monkeypatch.delitem(sys.modules, "__noex_main__")
    here = [in_root.Order(1), in_root.Thing()]
    from_root = Encoder().pack([1, *here])

    monkeypatch.setitem(sys.modules, "__noex_main__", in_worker)
    reader = FrameReader(peer="root")
    reader.feed(from_root)
    [[_, order, thing]] = reader.frames()
    assert type(order) is in_worker.Order
    assert type(thing) is in_worker.Thing
    assert path_of(in_worker.Order) == "__main__:Order"
    back = Encoder().pack([1, order, thing])

    monkeypatch.delitem(sys.modules, "__noex_main__")
    reader = FrameReader(peer="worker 1")
    reader.feed(back)
    [[_, order, thing]] = reader.frames()
    assert type(order) is in_root.Order
    assert type(thing) is in_root.Thing


def test_a_failed_pack_takes_nothing_along() -> None:
    encoder = Encoder()
    good = encoder.pack([1, (2, 3)])
    for bad in ("\ud800", (i for i in [1]), [(1, {2: (i for i in [1])})]):
        with pytest.raises(Exception):  # noqa: B017 - each its own
            encoder.pack([1, (5,), bad])
        assert encoder.pack([1, (2, 3)]) == good


def test_a_message_in_the_middle_of_another_takes_a_packer_of_its_own() -> None:
    encoder = Encoder()
    inner: list[bytes | memoryview] = []

    def say() -> None:
        with pytest.raises(BufferError):
            encoder.pack([1])
        inner.extend(encoder.chunks([2, (3,)]))

    Talking.said.append(say)
    try:
        outer = encoder.pack([1, Talking("x"), (4,)])
    finally:
        Talking.said.clear()
    assert inner == [Encoder().pack([2, (3,)])]
    assert outer == Encoder().pack([1, Talking("x"), (4,)])


@pytest.mark.parametrize("depth", [1, 50, 99])
def test_tuples_nest_up_to_the_limit(depth: int) -> None:
    value: Any = 1
    for _ in range(depth):
        value = (value,)
    assert sent(value) == value


def test_nesting_beyond_the_limit_is_refused() -> None:
    value: Any = 1
    for _ in range(values.MAX_NESTING + 1):
        value = (value,)
    with pytest.raises(ValueError, match="nested too deeply"):
        Encoder().pack([value])


def test_lists_nested_deeply_in_nested_tuples_are_refused_and_crash_nothing() -> None:
    # The C stack of a thread ends before Python's recursion limit here.
    value: Any = 1
    for _ in range(90):
        for _ in range(1000):
            value = [value]
        value = (value,)
    with pytest.raises(ValueError, match="nested too deeply"):
        Encoder().pack([value])


def test_extensions_nested_beyond_the_limit_are_a_failure_and_no_crash() -> None:
    data = b"\x01"
    for _ in range(2000):
        data = msgpack.packb(msgpack.ExtType(values.TUPLE, b"\x91" + data))
    reader = FrameReader(peer="worker 1")
    reader.feed(b"\x92\x01" + data)
    [frame] = reader.frames()
    assert frame[0] == 1
    assert "nested" in str(reader.failures[0])


@pytest.mark.parametrize("code", [*range(30), 63, 64, 127, -2])
@settings(max_examples=15)
@given(data=st.binary(max_size=30))
def test_a_payload_of_rubbish_never_raises(code: int, data: bytes) -> None:
    decoder = Decoder(peer="worker 1")
    if code != values.PICKLE:
        decoder.hook(code, data)
    assert all(isinstance(failure, Exception) for failure in decoder.failures)
    # And the decoder works as before.
    decoder.failures.clear()
    assert decoder.hook(values.TUPLE, b"\x92\x01\x02") == (1, 2)
    assert decoder.failures == []


NONSENSE: list[Any] = [
    (values.ENUM, ["builtins:int", None, 5]),
    (values.ENUM, ["tests.wire.samples:Color", "GREEN", None]),
    (values.DATACLASS, ["builtins:object", {}, {}]),
    (values.DATACLASS, ["os:system", {}, {}]),
    (values.DATACLASS, ["no_such_module:Thing", {}, {}]),
    (values.SET, [[]]),
    (values.ARRAY, ["u1", [10**12], "C", None]),
    (values.ARRAY, ["u1", [2], "C", b"abc"]),
    (values.ARRAY, ["u1", [4], "C", b"abc"]),
    (values.ARRAY, ["O", [1], "C", b"12345678"]),
    (values.SCALAR, ["O", b"12345678"]),
]


@pytest.mark.parametrize(("code", "fields"), NONSENSE)
def test_a_payload_that_makes_no_sense_is_a_failure(code: int, fields: list[Any]) -> None:
    decoder = Decoder(peer="worker 1")
    assert decoder.hook(code, msgpack.packb(fields)) is None
    assert len(decoder.failures) == 1


def test_failures_do_not_pile_up() -> None:
    decoder = Decoder(peer="worker 1")
    for _ in range(100):
        decoder.hook(99, b"")
    assert len(decoder.failures) == 16


def test_uuid_is_kept_exactly() -> None:
    value = uuid.uuid4()
    assert sent(value) == value


def test_big_is_the_documented_limit() -> None:
    assert BIG == 128 * 1024


# --- what is larger than a frame may be ---


def arrived(stream: bytes, reader: FrameReader) -> Any:
    """Return what a reader makes of the frame in a stream that comes in small parts."""
    frames: list[Any] = []
    position = 0
    while position < len(stream):
        wanted = reader.wanted
        size = 100 if wanted is None else len(wanted)
        part = stream[position : position + size]
        position += len(part)
        if wanted is None:
            reader.feed(part)
            frames += reader.frames()
        else:
            wanted[:] = part
            reader.advance(size)
    [frame] = frames
    return frame


@pytest.mark.parametrize(
    "value",
    [
        "text" * 1000,
        ["text"] * 1000,
        [None] * 501,
        ([None] * 501,),
        dict.fromkeys(range(501)),
        ("text" * 1000, {"a": (bytes(BIG), ["b"] * 600)}, bytes(BIG)),
        {("text",) * 1000},
        Plain(["text"] * 1000),
    ],
)
def test_what_is_too_large_for_a_frame_travels_behind_it(
    value: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(codec, "MAX_FRAME_SIZE", 1000)
    monkeypatch.setattr(codec, "MAX_LENGTH", 500)
    encoder = Encoder()
    for _ in range(2):
        stream = b"".join(encoder.pack_big([7, 1, "name", None, value, True]))
        reader = FrameReader(peer="worker 1", max_frame_size=1000)
        frame = arrived(stream, reader)
        assert reader.failures == []
        assert frame == [7, 1, "name", None, value, True]


def test_nobody_outside_sends_what_is_too_large_for_a_frame(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(codec, "MAX_FRAME_SIZE", 1000)
    stream = b"".join(Encoder().pack_big([7, "text" * 1000]))
    reader = FrameReader(peer="a program", trusted=False)
    assert arrived(stream, reader) == [7, None]
    [failure] = reader.failures
    assert "a forbidden extension type" in str(failure)


def test_bytes_left_over_behind_what_was_packed_are_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(codec, "MAX_FRAME_SIZE", 1000)
    header, packed, frame = Encoder().pack_big([7, "text" * 1000])
    reader = FrameReader(peer="worker 1")
    reader.feed(bytes(header).replace(b"\xcd\x0f\xa3", b"\xcd\x0f\xa4"))
    assert list(reader.frames()) == []
    assert reader.wanted is not None
    reader.wanted[:] = bytes(packed) + b"\x01"
    reader.advance(len(reader.wanted))
    reader.feed(frame)
    assert [*reader.frames()] == [[7, None]]
    assert "left over" in str(reader.failures[0])
