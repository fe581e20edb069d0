"""Values of every type that docs/values.md lists, and what they are made of."""

from __future__ import annotations

import array
import collections
import datetime as dt
import enum
import ipaddress
import math
import pathlib
import re
import struct
import types
from collections.abc import Callable
from dataclasses import is_dataclass
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np

from tests.wire.registered import Guarded, Money
from tests.wire.samples import (
    Bits,
    Box,
    Careful,
    Color,
    LoosePair,
    Made,
    Mixed,
    Number,
    OldPair,
    Outer,
    Pair,
    Plain,
    Planet,
    Rights,
    Row,
    Rows,
    SlottedBelow,
    Tagged,
)


def anatomy(value: object) -> Any:
    """Return what a value is made of, down to its types and bits, as something to compare."""
    kind: Any = type(value)
    for cls in kind.__mro__:
        if cls in _ANATOMY:
            return kind, _ANATOMY[cls](value)
    if isinstance(value, enum.Enum):
        return kind, id(value) if value in kind else value.value
    if is_dataclass(kind):
        return kind, [anatomy(getattr(value, name, None)) for name in kind.__dataclass_fields__]
    if kind.__repr__ is not object.__repr__:
        return kind, repr(value)
    return kind, [anatomy(part) for name, part in vars(value).items() if name != "lock"]


def _of_items(value: Any) -> Any:
    extra = getattr(value, "__dict__", None), getattr(value, "maxlen", None)
    return [anatomy(item) for item in value], extra


def _of_members(value: Any) -> Any:
    return sorted(repr(anatomy(member)) for member in value)


def _of_dict(value: Any) -> Any:
    items = [(anatomy(key), anatomy(child)) for key, child in value.items()]
    return items, getattr(value, "__dict__", None), getattr(value, "default_factory", None)


def _of_moment(value: Any) -> Any:
    return repr(value), value.fold, type(value.tzinfo), value.utcoffset()


def _of_array(value: Any) -> Any:
    content = value.tolist() if value.dtype.hasobject else value.tobytes()
    return value.dtype, value.shape, anatomy(content)


_ANATOMY: dict[type, Callable[[Any], Any]] = {
    float: lambda value: struct.pack(">d", value),
    complex: lambda value: struct.pack(">dd", value.real, value.imag),
    **dict.fromkeys((list, tuple, collections.deque), _of_items),
    **dict.fromkeys((set, frozenset), _of_members),
    **dict.fromkeys((dt.datetime, dt.time), _of_moment),
    dict: _of_dict,
    np.ndarray: _of_array,
}


def tagged() -> Tagged:
    value = Tagged("a")
    value.tag = ("b",)
    return value


def hidden() -> SlottedBelow:
    value = SlottedBelow(1)
    value.hide([1])
    return value


def loose() -> LoosePair:
    value = LoosePair(1, (2,))
    value.__dict__["tag"] = 3
    return value


def counter() -> collections.Counter[str]:
    value = collections.Counter("aab")
    value.__dict__["note"] = 1
    return value


NATIVE: list[Any] = [
    *(Planet.EARTH, Outer.Inner.A, Bits.ONE | Bits.TWO, Bits(0), ~Rights.READ, Outer.Part(1)),
    *(Careful(x=2, offset=5), Mixed(1, 2, z=3), Box([1]), Pair(1), OldPair(1, 2), loose()),
    *(range(5, 0, -2), slice(1, None, 2), Fraction(-1, 3), array.array("d", [1.5, math.nan])),
    *(collections.deque([1, (2,)], 5), collections.OrderedDict({2: 1, 1: 2}), counter()),
    *(pathlib.Path("/a/b"), pathlib.PurePosixPath(), pathlib.PureWindowsPath("c:/a")),
    pathlib.Path(b"/a\xff".decode("utf-8", "surrogateescape")),
    ipaddress.ip_address("::1"),
    ipaddress.ip_network("10.0.0.0/8"),
    ipaddress.ip_interface("10.0.0.1/8"),
    *(re.compile("a(.)", re.IGNORECASE), re.compile(b"a"), types.SimpleNamespace(a=(1,))),
    *(Money(Decimal("1.50"), "EUR"), Guarded({(1,): Guarded(2)})),
]


PICKLED: list[Any] = [
    *(tagged(), Row(a=1), Rows([1]), Number(5), Made(1)),
    *(collections.defaultdict(list, {1: [2]}), collections.ChainMap({1: 2}), Box[int](1)),
    *(len, Plain, Color, pathlib.Path.exists, list[int], int | str),
    *(Ellipsis, NotImplemented, np.dtype("f8"), np.random.default_rng(1).bit_generator.state),
    *(np.ma.masked_array([1, 2], [False, True]), np.array([(1,), None], object)),
    np.rec.array([(1, 2.0)], dtype=[("a", "i4"), ("b", "f8")]),
    np.zeros(2, {"names": ["a", "b"], "formats": ["i4", "i4"], "offsets": [4, 0]}),
]
