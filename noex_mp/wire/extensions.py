"""Every type beyond msgpack's own: how it becomes an extension, and comes back.

`dumper_for(cls)` gives the function that writes values of a class, `LOADERS` the function that
reads each code. A type's two functions stand next to each other. To add a type, write the
pair, give it a code in `values.py`, and enter it in two tables at the end.

Types are told apart by their exact class. A subclass of, say, `datetime` is somebody's own
class with ways of its own, so it goes by pickle, which asks the class.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import enum
import io
import pickle
import struct
import sys
from collections.abc import Callable
from types import MemberDescriptorType
from typing import Any
from weakref import WeakKeyDictionary

from msgpack import ExtType

from noex_mp.wire import arrays, values
from noex_mp.wire.classes import can_be_found, find_class, local_module, path_of
from noex_mp.wire.exceptions import dump_exception, load_exception
from noex_mp.wire.values import ValueReader, ValueWriter

Dumper = Callable[[ValueWriter, Any], ExtType]
Loader = Callable[[ValueReader, bytes], Any]

_COMPLEX = struct.Struct(">dd")
_NOT_FOUND = "its class cannot be imported by name; move it to the top level of a module"


# --- containers -------------------------------------------------------------------------


def _dump_tuple(writer: ValueWriter, value: tuple[Any, ...]) -> ExtType:
    return ExtType(values.TUPLE, writer.nested(list(value)))


def _load_tuple(reader: ValueReader, data: bytes) -> Any:
    return tuple(reader.nested(data))


def _dump_set(writer: ValueWriter, value: set[Any]) -> ExtType:
    return ExtType(values.SET, writer.nested(list(value)))


def _load_set(reader: ValueReader, data: bytes) -> Any:
    return set(reader.nested(data))


def _dump_frozenset(writer: ValueWriter, value: frozenset[Any]) -> ExtType:
    return ExtType(values.FROZENSET, writer.nested(list(value)))


def _load_frozenset(reader: ValueReader, data: bytes) -> Any:
    return frozenset(reader.nested(data))


# --- numbers ----------------------------------------------------------------------------


def _dump_int(writer: ValueWriter, value: int) -> ExtType:
    # Only integers beyond 64 bit come here.
    size = value.bit_length() // 8 + 1
    return ExtType(values.BIG_INT, value.to_bytes(size, "big", signed=True))


def _load_int(reader: ValueReader, data: bytes) -> Any:
    return int.from_bytes(data, "big", signed=True)


def _dump_complex(writer: ValueWriter, value: complex) -> ExtType:
    return ExtType(values.COMPLEX, _COMPLEX.pack(value.real, value.imag))


def _load_complex(reader: ValueReader, data: bytes) -> Any:
    return complex(*_COMPLEX.unpack(data))


def _dump_decimal(writer: ValueWriter, value: Any) -> ExtType:
    return ExtType(values.DECIMAL, str(value).encode())


def _load_decimal(reader: ValueReader, data: bytes) -> Any:
    from decimal import Decimal

    return Decimal(data.decode())


def _dump_uuid(writer: ValueWriter, value: Any) -> ExtType:
    return ExtType(values.UUID, value.bytes)


def _load_uuid(reader: ValueReader, data: bytes) -> Any:
    from uuid import UUID

    return UUID(bytes=data)


# --- dates and times --------------------------------------------------------------------


def _dump_datetime(writer: ValueWriter, value: dt.datetime) -> ExtType:
    fields = [value.year, value.month, value.day, *_clock_fields(value)]
    return ExtType(values.DATETIME, writer.nested(fields))


def _load_datetime(reader: ValueReader, data: bytes) -> Any:
    *fields, fold = reader.nested(data)
    return dt.datetime(*fields, fold=fold)  # noqa: DTZ001 - the zone is the last field


def _dump_time(writer: ValueWriter, value: dt.time) -> ExtType:
    return ExtType(values.TIME, writer.nested(_clock_fields(value)))


def _load_time(reader: ValueReader, data: bytes) -> Any:
    *fields, fold = reader.nested(data)
    return dt.time(*fields, fold=fold)


def _clock_fields(value: dt.datetime | dt.time) -> list[Any]:
    return [
        value.hour,
        value.minute,
        value.second,
        value.microsecond,
        value.tzinfo,
        value.fold,
    ]


def _dump_date(writer: ValueWriter, value: dt.date) -> ExtType:
    return ExtType(values.DATE, writer.nested([value.year, value.month, value.day]))


def _load_date(reader: ValueReader, data: bytes) -> Any:
    return dt.date(*reader.nested(data))


def _dump_timedelta(writer: ValueWriter, value: dt.timedelta) -> ExtType:
    return ExtType(values.TIMEDELTA, writer.nested([value.days, value.seconds, value.microseconds]))


def _load_timedelta(reader: ValueReader, data: bytes) -> Any:
    return dt.timedelta(*reader.nested(data))


def _dump_fixed_zone(writer: ValueWriter, value: dt.timezone) -> ExtType:
    return ExtType(values.FIXED_ZONE, writer.nested(_zone_args(value)))


def _zone_args(zone: dt.timezone) -> list[Any]:
    offset, name = zone.utcoffset(None), zone.tzname(None)
    return [offset] if name == dt.timezone(offset).tzname(None) else [offset, name]


def _load_fixed_zone(reader: ValueReader, data: bytes) -> Any:
    # The offset zero without a name gives the one `timezone.utc`.
    return dt.timezone(*reader.nested(data))


def _dump_zone(writer: ValueWriter, value: Any) -> ExtType:
    if value.key is None:
        raise TypeError("a ZoneInfo made from a file has no key that another process could use")
    return ExtType(values.ZONE, value.key.encode())


def _load_zone(reader: ValueReader, data: bytes) -> Any:
    from zoneinfo import ZoneInfo

    return ZoneInfo(data.decode())


# --- classes of the user ----------------------------------------------------------------


def _dump_enum(writer: ValueWriter, value: enum.Enum) -> ExtType:
    cls = type(value)
    if not can_be_found(cls):
        raise TypeError(_NOT_FOUND)
    name: str | None = value._name_
    # A combination of flags has no member; its value makes it again.
    by_name = cls.__members__.get(name or "") is value
    fields = [path_of(cls), name, None] if by_name else [path_of(cls), None, value._value_]
    return ExtType(values.ENUM, writer.nested(fields))


def _load_enum(reader: ValueReader, data: bytes) -> Any:
    path, name, value = reader.nested(data)
    cls = find_class(path)
    if not issubclass(cls, enum.Enum):
        raise TypeError(f"{path} is no Enum")
    return cls(value) if name is None else cls[name]


def _dump_dataclass(writer: ValueWriter, value: Any) -> ExtType:
    """Write the whole state: what `__init__` and `__post_init__` made need not run again."""
    cls: type[Any] = type(value)  # pyright: ignore[reportUnknownVariableType]
    if not can_be_found(cls):
        raise TypeError(_NOT_FOUND)
    slots = {
        name: getattr(value, name)
        for name in cls.__dataclass_fields__
        if isinstance(getattr(cls, name, None), MemberDescriptorType) and hasattr(value, name)
    }
    state = getattr(value, "__dict__", {})
    return ExtType(values.DATACLASS, writer.nested([path_of(cls), state, slots]))


def _load_dataclass(reader: ValueReader, data: bytes) -> Any:
    path, state, slots = reader.nested(data)
    cls = find_class(path)
    if not dataclasses.is_dataclass(cls):
        raise TypeError(f"{path} is no dataclass")
    value: Any = object.__new__(cls)
    if state:
        value.__dict__.update(state)
    for name, content in slots.items():
        object.__setattr__(value, name, content)  # a frozen class refuses plain setattr
    return value


def _is_plain_dataclass(cls: type[Any]) -> bool:
    """Tell whether the attributes of this class are all there is to it."""
    if not dataclasses.is_dataclass(cls):
        return False
    if cls.__reduce_ex__ is not object.__reduce_ex__ or cls.__reduce__ is not object.__reduce__:
        return False
    state = cls.__getstate__
    # dataclasses itself writes a `__getstate__` for frozen classes with slots.
    if state is not object.__getstate__ and state.__module__ != "dataclasses":
        return False
    return not issubclass(cls, (list, dict, set, frozenset, tuple, str, bytes, int, float))


def _dump_ref(writer: ValueWriter, value: Any) -> ExtType:
    return ExtType(values.REF, writer.nested(value._to_wire()))


def _load_ref(reader: ValueReader, data: bytes) -> Any:
    from noex_mp.core.ref import Ref

    return Ref._from_wire(reader.nested(data))  # pyright: ignore[reportPrivateUsage]


# --- numpy, and buffers behind the message ------------------------------------------------


def _dump_array(writer: ValueWriter, value: Any) -> ExtType:
    plain = arrays.has_plain_memory(value)
    return arrays.dump_array(writer, value) if plain else _dump_pickle(writer, value)


def _dump_scalar(writer: ValueWriter, value: Any) -> ExtType:
    plain = arrays.has_plain_memory(value)
    return arrays.dump_scalar(writer, value) if plain else _dump_pickle(writer, value)


def _load_buffer(reader: ValueReader, data: bytes) -> Any:
    return reader.buffer(int.from_bytes(data, "big"))


# --- the last resort --------------------------------------------------------------------


def _dump_pickle(writer: ValueWriter, value: Any) -> ExtType:
    """Write a value by pickle; its big buffers (a data frame's columns) leave out of band."""
    if not writer.allow_pickle:
        raise TypeError("no extension type covers it, and pickle is switched off")
    buffers: list[ExtType] = []

    def stays(buffer: pickle.PickleBuffer) -> bool:
        try:
            view = buffer.raw()
        except BufferError:  # not contiguous
            return True
        if view.nbytes < values.BIG:
            return True
        buffers.append(writer.out_of_band(view, is_array=not view.readonly))
        return False

    data = pickle.dumps(value, protocol=5, buffer_callback=stays)
    return ExtType(values.PICKLE, writer.nested([data, buffers]))


def _load_pickle(reader: ValueReader, data: bytes) -> Any:
    if not reader.allow_pickle:
        raise TypeError("pickle is switched off")
    content, buffers = reader.nested(data)
    return _Unpickler(io.BytesIO(content), buffers=buffers).load()


class _Unpickler(pickle.Unpickler):
    def find_class(self, module_name: str, global_name: str, /) -> Any:
        return super().find_class(local_module(module_name), global_name)


# --- the tables -------------------------------------------------------------------------

_DUMPERS: dict[type[Any], Dumper] = {
    tuple: _dump_tuple,
    set: _dump_set,
    frozenset: _dump_frozenset,
    int: _dump_int,
    complex: _dump_complex,
    dt.datetime: _dump_datetime,
    dt.date: _dump_date,
    dt.time: _dump_time,
    dt.timedelta: _dump_timedelta,
    dt.timezone: _dump_fixed_zone,
}

# Types whose modules we do not import: whoever has such a value has loaded them.
_DUMPERS_BY_NAME: dict[tuple[str, str], Dumper] = {
    ("decimal", "Decimal"): _dump_decimal,
    ("uuid", "UUID"): _dump_uuid,
    ("zoneinfo", "ZoneInfo"): _dump_zone,
    ("numpy", "ndarray"): _dump_array,
    ("noex_mp.core.ref", "Ref"): _dump_ref,
}

LOADERS: dict[int, Loader] = {
    values.TUPLE: _load_tuple,
    values.SET: _load_set,
    values.FROZENSET: _load_frozenset,
    values.BIG_INT: _load_int,
    values.COMPLEX: _load_complex,
    values.DECIMAL: _load_decimal,
    values.UUID: _load_uuid,
    values.DATETIME: _load_datetime,
    values.DATE: _load_date,
    values.TIME: _load_time,
    values.TIMEDELTA: _load_timedelta,
    values.FIXED_ZONE: _load_fixed_zone,
    values.ZONE: _load_zone,
    values.ENUM: _load_enum,
    values.DATACLASS: _load_dataclass,
    values.EXCEPTION: load_exception,
    values.REF: _load_ref,
    values.ARRAY: arrays.load_array,
    values.SCALAR: arrays.load_scalar,
    values.BUFFER: _load_buffer,
    values.PICKLE: _load_pickle,
}

# Weak, so that a class made at run time can go.
_found: WeakKeyDictionary[type[Any], Dumper] = WeakKeyDictionary()


def dumper_for(cls: type[Any]) -> Dumper:
    """Return the function that writes values of exactly this class."""
    dumper = _DUMPERS.get(cls) or _found.get(cls)
    if dumper is None:
        dumper = _found[cls] = _choose_dumper(cls)
    return dumper


def _choose_dumper(cls: type[Any]) -> Dumper:
    if issubclass(cls, BaseException):
        return dump_exception
    if issubclass(cls, enum.Enum):
        return _dump_enum
    by_name = _DUMPERS_BY_NAME.get((cls.__module__, cls.__qualname__))
    if by_name and getattr(sys.modules.get(cls.__module__), cls.__qualname__, None) is cls:
        return by_name
    if arrays.is_scalar_type(cls):
        return _dump_scalar
    if _is_plain_dataclass(cls):
        return _dump_dataclass
    return _dump_pickle
