"""Members of enums, named tuples and dataclasses <-> msgpack.

Their classes travel by name; where others would not find them, values go by pickle, with the
code of their class. What travels beside
the name is the whole state: neither `__init__` nor `__post_init__` runs again, so `init=False`
fields, `InitVar`s, frozen classes and attributes that are no fields arrive as they were.

Whoever says how it is to be pickled (`__reduce__`, `__getstate__`, `__new__` ...) is asked, so
it goes by pickle.
"""

from __future__ import annotations

import copyreg
import dataclasses
import enum
from collections.abc import Callable
from types import MemberDescriptorType
from typing import Any, Final

from msgpack import ExtType

from noex_mp.wire.by_value import dump_pickle
from noex_mp.wire.classes import find_class, goes_by_name, path_of
from noex_mp.wire.values import (
    DATACLASS,
    ENUM,
    NAMED_TUPLE,
    Dumper,
    ValueReader,
    ValueWriter,
    extension,
)

_NOT_FOUND: Final = "its class cannot be imported by name; move it to the top level of a module"
_UNSET: Final = object()
_new_tuple: Callable[..., Any] = tuple[Any, ...].__new__
_NOTHING: Final[dict[str, Any]] = {}


def dumper_of_objects(cls: type[Any]) -> Dumper | None:
    """Return the function that writes values of this class, or None if pickle has to."""
    if issubclass(cls, enum.Enum):
        return _enum_dumper(cls)
    if _has_ways_of_its_own(cls):
        return None
    if _is_named_tuple(cls):
        return _named_tuple_dumper(cls)
    if dataclasses.is_dataclass(cls) and cls.__new__ is object.__new__:
        return _dataclass_dumper(cls)
    return None


# What a class may have to say about its own pickling.
_HOOKS: Final = (
    "__reduce_ex__",
    "__reduce__",
    "__getstate__",
    "__setstate__",
    "__getnewargs__",
    "__getnewargs_ex__",
)


def _has_ways_of_its_own(cls: type[Any]) -> bool:
    return cls in copyreg.dispatch_table or any(_is_own(cls, hook) for hook in _HOOKS)


def _is_own(cls: type[Any], hook: str) -> bool:
    method = getattr(cls, hook, None)
    # dataclasses itself writes some for frozen classes with slots, and so does namedtuple.
    generated = getattr(method, "__module__", "") in ("dataclasses", "collections")
    return not generated and method is not getattr(object, hook, None)


def _dump_by_value(writer: ValueWriter, value: object) -> ExtType:
    if not writer.allow_pickle:
        raise TypeError(_NOT_FOUND)
    return dump_pickle(writer, value)


# The functions below hold no class, so that one made at run time can go.

# --- enums ------------------------------------------------------------------------------


def _enum_dumper(cls: type[enum.Enum]) -> Dumper:
    path = path_of(cls)
    members = frozenset(cls.__members__)

    def dump_enum(writer: ValueWriter, value: enum.Enum) -> ExtType:
        # Each time: a notebook or a reload may have put another class in its place.
        if not goes_by_name(type(value)):
            return _dump_by_value(writer, value)
        name: str | None = value._name_
        # A combination of flags has no member; its value makes it again.
        fields = [path, name, None] if name in members else [path, None, value._value_]
        return extension(ENUM, writer.nested(fields))

    return dump_enum


def load_enum(reader: ValueReader, data: bytes) -> Any:
    """Return the member."""
    path, name, value = reader.nested(data)
    cls = find_class(path)
    if not issubclass(cls, enum.Enum):
        raise TypeError(f"{path} is no Enum")
    return cls(value) if name is None else cls[name]


# --- named tuples -----------------------------------------------------------------------


def _is_named_tuple(cls: type[Any]) -> bool:
    return hasattr(cls, "_fields") and hasattr(cls, "__getnewargs__") and issubclass(cls, tuple)


def _named_tuple_dumper(cls: type[Any]) -> Dumper:
    path = path_of(cls)

    def dump_named_tuple(writer: ValueWriter, value: tuple[Any, ...]) -> ExtType:
        # Each time: a notebook or a reload may have put another class in its place.
        if not goes_by_name(type(value)):
            return _dump_by_value(writer, value)
        fields: list[Any] = [path, list(value)]
        # A subclass that does without `__slots__` may have attributes too.
        if state := getattr(value, "__dict__", None):
            fields.append(state)
        return extension(NAMED_TUPLE, writer.nested(fields))

    return dump_named_tuple


def load_named_tuple(reader: ValueReader, data: bytes) -> Any:
    """Return the named tuple."""
    path, items, *state = reader.nested(data)
    cls = find_class(path)
    if not issubclass(cls, tuple):
        raise TypeError(f"{path} is no named tuple")
    value: Any = _new_tuple(cls, items)
    if state:
        value.__dict__.update(state[0])
    return value


# --- dataclasses ------------------------------------------------------------------------


def _dataclass_dumper(cls: type[Any]) -> Dumper:
    path, slots = path_of(cls), _slots_of(cls)
    state_of: Callable[[Any], dict[str, Any]] = (
        _attributes if cls.__dictoffset__ else _no_attributes
    )

    def dump_dataclass(writer: ValueWriter, value: object) -> ExtType:
        # Each time: a notebook or a reload may have put another class in its place.
        if not goes_by_name(type(value)):
            return _dump_by_value(writer, value)
        filled = _filled(value, slots) if slots else _NOTHING
        return extension(DATACLASS, writer.nested([path, state_of(value), filled]))

    return dump_dataclass


def _slots_of(cls: type[Any]) -> list[str]:
    return [
        name
        for base in cls.__mro__
        for name, member in vars(base).items()
        if isinstance(member, MemberDescriptorType)
    ]


def _attributes(value: Any) -> dict[str, Any]:
    state: dict[str, Any] = value.__dict__
    return state


def _no_attributes(value: Any) -> dict[str, Any]:
    return _NOTHING


def _filled(value: Any, slots: list[str]) -> dict[str, Any]:
    found = {name: getattr(value, name, _UNSET) for name in slots}
    return {name: content for name, content in found.items() if content is not _UNSET}


def load_dataclass(reader: ValueReader, data: bytes) -> Any:
    """Return the dataclass, without running any code of its own."""
    path, state, slots = reader.nested(data)
    cls = find_class(path)
    if not hasattr(cls, "__dataclass_fields__"):
        raise TypeError(f"{path} is no dataclass")
    value: Any = object.__new__(cls)
    if state:
        value.__dict__.update(state)
    for name, content in slots.items():
        object.__setattr__(value, name, content)  # a frozen class refuses plain setattr
    return value
