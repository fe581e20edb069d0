"""numpy arrays and scalars keep dtype, shape, order and contents."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from noex_mp.wire.codec import BIG, Encoder
from tests.wire.samples import Plain, sent

STRUCTURED = np.dtype([("a", "<i4"), ("b", ">f8", (2, 2)), ("name", "S3")], align=True)

ARRAYS: list[Any] = [
    *(np.arange(6).reshape(2, 3).astype(code) for code in "?bBhHiIlLqQefdgFDG"),
    np.arange(6, dtype=">i4").reshape(2, 3),
    np.array(5),
    np.empty((0, 3)),
    np.empty((3, 0), dtype="S4"),
    np.arange(24).reshape(2, 3, 4)[:, ::2, ::-1],
    np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    np.arange(24).reshape(2, 3, 4).transpose(2, 0, 1),
    np.broadcast_to(np.arange(3), (4, 3)),
    np.array(["a", "bcd"]),
    np.array([b"a", b"bcd"]),
    np.array(["2026-01-01", "NaT"], dtype="M8[ns]"),
    np.array([1, 2], dtype="m8[s]"),
    np.zeros(3, dtype=STRUCTURED),
    np.array([b"abc"], dtype="V3"),
    np.array([0.0, -0.0, np.nan, np.inf]),
]


@pytest.mark.parametrize("array", ARRAYS, ids=lambda a: f"{a.dtype}{a.shape}")
def test_an_array_arrives_as_it_was(array: Any) -> None:
    result = sent(array, allow_pickle=False)
    assert type(result) is np.ndarray
    assert (result.dtype, result.shape) == (array.dtype, array.shape)
    assert result.tobytes() == array.tobytes()
    assert result.flags.writeable
    if array.flags.f_contiguous and not array.flags.c_contiguous:
        assert result.flags.f_contiguous


@pytest.mark.parametrize("order", ["C", "F"])
def test_a_big_array_leaves_without_a_copy(order: Any) -> None:
    array = np.arange(BIG, dtype="u1").reshape(2, -1).copy(order=order)
    encoder = Encoder()
    _, view, message = encoder.take(encoder.pack([1, array]))
    assert np.shares_memory(np.frombuffer(view, "u1"), array)
    assert len(message) < 100
    result = sent(array)
    assert (result == array).all()
    assert result.flags.writeable
    assert result.flags.f_contiguous == array.flags.f_contiguous


def test_an_array_just_below_the_limit_stays_in_the_message() -> None:
    encoder = Encoder()
    encoder.pack([1, np.zeros(BIG - 1, "u1")])
    assert encoder.buffers == []


def test_a_big_strided_array_arrives_whole() -> None:
    array = np.arange(4 * BIG, dtype="u4")[::3]
    assert (sent(array) == array).all()


@pytest.mark.parametrize(
    "scalar",
    [
        np.float64(-0.0),
        np.float32(1.5),
        np.int8(-3),
        np.uint64(2**64 - 1),
        np.bool_(True),
        np.complex64(1 + 2j),
        np.longdouble(1) / 3,
        np.datetime64("2026-01-01T00:00", "ns"),
        np.timedelta64(5, "D"),
        np.str_("ä"),
        np.str_(""),
        np.bytes_(b"x"),
        np.zeros(1, STRUCTURED)[0],
    ],
    ids=lambda s: f"{type(s).__name__}",
)
def test_a_scalar_keeps_its_type(scalar: Any) -> None:
    result = sent(scalar)
    assert type(result) is type(scalar)
    assert result.dtype == scalar.dtype
    assert result == scalar


@pytest.mark.parametrize(
    "array",
    [
        np.array([1, "a", None], dtype=object),
        np.ma.masked_array([1, 2], mask=[True, False]),
        np.empty(2, dtype="V0"),
    ],
    ids=["objects", "subclass", "no size"],
)
def test_what_is_not_plain_memory_goes_by_pickle(array: Any) -> None:
    result = sent(array)
    assert type(result) is type(array)
    assert (result == array).all()
    with pytest.raises(TypeError, match="pickle"):
        Encoder(allow_pickle=False).pack([array])


def test_big_buffers_inside_pickled_objects_leave_out_of_band() -> None:
    frame = Plain(np.arange(BIG))
    encoder = Encoder()
    _, view, message = encoder.take(encoder.pack([1, frame]))
    assert np.shares_memory(np.frombuffer(view, "u1"), frame.content)
    assert len(message) < 500
    result = sent(frame)
    assert (result.content == frame.content).all()
    assert result.content.flags.writeable


def test_the_codec_imports_no_module_of_a_type_that_nobody_sends() -> None:
    code = (
        "import sys; from noex_mp.wire.codec import Encoder; from noex_mp.wire.stream import *;"
        "r = FrameReader(peer='x'); r.feed(Encoder().pack([1, (2,), {3}]));"
        "assert list(r.frames()) == [[1, (2,), {3}]];"
        "assert not {'numpy', 'uuid', 'decimal', 'zoneinfo'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=15)
