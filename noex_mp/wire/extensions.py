"""Every type beyond msgpack's own: how it becomes an extension, and comes back.

`dumper_for(cls)` gives the function that writes values of a class, `LOADERS` the function that
reads each code. A type's two functions stand next to each other, those of users' classes in
`objects.py`, those of many small types in `standard.py`. To add a type, write the pair, give it
a code in `values.py`, and enter it in two tables at the end.

Types are told apart by their exact class. A subclass of, say, `datetime` is somebody's own
class with ways of its own, so it goes by pickle, which asks the class.
"""

from __future__ import annotations

import datetime as dt
import struct
import sys
from typing import Any, Final
from weakref import ref

from msgpack import ExtType

from noex_mp.wire import arrays, lending, objects, values
from noex_mp.wire.by_value import REDUCERS, dump_pickle, load_pickle
from noex_mp.wire.exceptions import dump_exception, load_exception
from noex_mp.wire.standard import load_standard, standard_dumper
from noex_mp.wire.values import Dumper, Loader, ValueReader, ValueWriter, extension

__all__ = ["LOADERS", "REDUCERS", "dumper_for", "set_dumper", "travels_already"]

_COMPLEX = struct.Struct(">dd")
_DATE = struct.Struct(">HBB")
_TIME = struct.Struct(">BBBIB")
_DATETIME = struct.Struct(">HBBBBBIB")
_TIMEDELTA = struct.Struct(">iii")
_UTC: Final = b"\xc0"  # the one zone that has a shorter way: msgpack's nil


# --- containers -------------------------------------------------------------------------


def _dump_tuple(writer: ValueWriter, value: tuple[Any, ...]) -> ExtType:
    return extension(values.TUPLE, writer.nested(list(value)))


def _load_tuple(reader: ValueReader, data: bytes) -> Any:
    return tuple(reader.nested(data))


def _dump_set(writer: ValueWriter, value: set[Any]) -> ExtType:
    return extension(values.SET, writer.nested(list(value)))


def _load_set(reader: ValueReader, data: bytes) -> Any:
    return set(reader.nested(data))


def _dump_frozenset(writer: ValueWriter, value: frozenset[Any]) -> ExtType:
    return extension(values.FROZENSET, writer.nested(list(value)))


def _load_frozenset(reader: ValueReader, data: bytes) -> Any:
    return frozenset(reader.nested(data))


# --- numbers ----------------------------------------------------------------------------


def _dump_int(writer: ValueWriter, value: int) -> ExtType:
    # Only integers beyond 64 bit come here.
    size = value.bit_length() // 8 + 1
    return extension(values.BIG_INT, value.to_bytes(size, "big", signed=True))


def _load_int(reader: ValueReader, data: bytes) -> Any:
    return int.from_bytes(data, "big", signed=True)


def _dump_complex(writer: ValueWriter, value: complex) -> ExtType:
    return extension(values.COMPLEX, _COMPLEX.pack(value.real, value.imag))


def _load_complex(reader: ValueReader, data: bytes) -> Any:
    return complex(*_COMPLEX.unpack(data))


def _dump_decimal(writer: ValueWriter, value: Any) -> ExtType:
    return extension(values.DECIMAL, str(value).encode())


def _load_decimal(reader: ValueReader, data: bytes) -> Any:
    from decimal import Decimal

    return Decimal(data.decode())


def _dump_uuid(writer: ValueWriter, value: Any) -> ExtType:
    return extension(values.UUID, value.bytes)


def _load_uuid(reader: ValueReader, data: bytes) -> Any:
    from uuid import UUID

    return UUID(bytes=data)


# --- dates and times --------------------------------------------------------------------


def _dump_datetime(writer: ValueWriter, v: dt.datetime) -> ExtType:
    clock = (v.hour, v.minute, v.second, v.microsecond, v.fold)
    moment = _DATETIME.pack(v.year, v.month, v.day, *clock)
    return extension(values.DATETIME, moment + _zone_of(writer, v.tzinfo))


def _load_datetime(reader: ValueReader, data: bytes) -> Any:
    year, month, day, hour, minute, second, micro, fold = _DATETIME.unpack_from(data)
    zone = _zone_in(reader, data[_DATETIME.size :])
    return dt.datetime(year, month, day, hour, minute, second, micro, zone, fold=fold)


def _dump_time(writer: ValueWriter, v: dt.time) -> ExtType:
    moment = _TIME.pack(v.hour, v.minute, v.second, v.microsecond, v.fold)
    return extension(values.TIME, moment + _zone_of(writer, v.tzinfo))


def _load_time(reader: ValueReader, data: bytes) -> Any:
    hour, minute, second, micro, fold = _TIME.unpack_from(data)
    zone = _zone_in(reader, data[_TIME.size :])
    return dt.time(hour, minute, second, micro, zone, fold=fold)


def _zone_of(writer: ValueWriter, zone: dt.tzinfo | None) -> bytes:
    if zone is None:
        return b""
    return _UTC if zone is dt.UTC else writer.nested(zone)


def _zone_in(reader: ValueReader, data: bytes) -> dt.tzinfo | None:
    if not data:
        return None
    zone: dt.tzinfo = dt.UTC if data == _UTC else reader.nested(data)
    return zone


def _dump_date(writer: ValueWriter, value: dt.date) -> ExtType:
    return extension(values.DATE, _DATE.pack(value.year, value.month, value.day))


def _load_date(reader: ValueReader, data: bytes) -> Any:
    return dt.date(*_DATE.unpack(data))


def _dump_timedelta(writer: ValueWriter, value: dt.timedelta) -> ExtType:
    fields = (value.days, value.seconds, value.microseconds)
    return extension(values.TIMEDELTA, _TIMEDELTA.pack(*fields))


def _load_timedelta(reader: ValueReader, data: bytes) -> Any:
    return dt.timedelta(*_TIMEDELTA.unpack(data))


def _dump_fixed_zone(writer: ValueWriter, value: dt.timezone) -> ExtType:
    return extension(values.FIXED_ZONE, writer.nested(_zone_args(value)))


def _zone_args(zone: dt.timezone) -> list[Any]:
    offset, name = zone.utcoffset(None), zone.tzname(None)
    return [offset] if name == dt.timezone(offset).tzname(None) else [offset, name]


def _load_fixed_zone(reader: ValueReader, data: bytes) -> Any:
    # The offset zero without a name gives the one `timezone.utc`.
    return dt.timezone(*reader.nested(data))


def _dump_zone(writer: ValueWriter, value: Any) -> ExtType:
    if value.key is None:
        raise TypeError("a ZoneInfo made from a file has no key that another process could use")
    return extension(values.ZONE, value.key.encode())


def _load_zone(reader: ValueReader, data: bytes) -> Any:
    from zoneinfo import ZoneInfo

    return ZoneInfo(data.decode())


# --- refs -------------------------------------------------------------------------------


def _dump_ref(writer: ValueWriter, value: Any) -> ExtType:
    return extension(values.REF, writer.nested(value._to_wire()))


def _load_ref(reader: ValueReader, data: bytes) -> Any:
    from noex_mp.core.ref import Ref

    return Ref._from_wire(reader.nested(data))  # pyright: ignore[reportPrivateUsage]


# --- numpy, and buffers behind the message ------------------------------------------------


def _dump_array(writer: ValueWriter, value: Any) -> ExtType:
    plain = arrays.has_plain_memory(value)
    return arrays.dump_array(writer, value) if plain else dump_pickle(writer, value)


def _dump_scalar(writer: ValueWriter, value: Any) -> ExtType:
    plain = arrays.has_plain_memory(value)
    return arrays.dump_scalar(writer, value) if plain else dump_pickle(writer, value)


def _load_buffer(reader: ValueReader, data: bytes) -> Any:
    return reader.buffer(int.from_bytes(data, "big"))


def _load_packed(reader: ValueReader, data: bytes) -> Any:
    return reader.packed(reader.buffer(int.from_bytes(data, "big")))


def _load_lent(reader: ValueReader, data: bytes) -> Any:
    # Also if it is gone: the sender need not keep it.
    reader.on_borrowed()
    return lending.borrow(data)


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
    values.ENUM: objects.load_enum,
    values.DATACLASS: objects.load_dataclass,
    values.NAMED_TUPLE: objects.load_named_tuple,
    values.EXCEPTION: load_exception,
    values.REF: _load_ref,
    values.ARRAY: arrays.load_array,
    values.SCALAR: arrays.load_scalar,
    values.BUFFER: _load_buffer,
    values.LENT: _load_lent,
    values.PACKED: _load_packed,
    values.STANDARD: load_standard,
    values.PICKLE: load_pickle,
}

# By the id of the class, the quickest there is. A class made at run time can go, and its entry
# goes with it.
_found: Final[dict[int, Dumper]] = {id(cls): dumper for cls, dumper in _DUMPERS.items()}
_alive: Final[dict[int, ref[type[Any]]]] = {}

# What msgpack writes by itself; it never asks for a dumper.
_PLAIN: Final = frozenset((type(None), bool, float, str, bytes, bytearray, memoryview, list, dict))


def dumper_for(cls: type[Any]) -> Dumper:
    """Return the function that writes values of exactly this class."""
    return _found.get(id(cls)) or set_dumper(cls, _choose_dumper(cls))


def set_dumper(cls: type[Any], dumper: Dumper) -> Dumper:
    """Let a function write the values of a class, from now on and for the whole process."""
    key = id(cls)

    def forget(_: object) -> None:
        _found.pop(key, None)
        _alive.pop(key, None)

    _alive[key] = ref(cls, forget)
    _found[key] = dumper
    return dumper


def travels_already(cls: type[Any]) -> bool:
    """Tell whether values of this class have a way that belongs to nobody else."""
    return cls in _PLAIN or cls in _DUMPERS or _dumper_of_libraries(cls) is not None


def _choose_dumper(cls: type[Any]) -> Dumper:
    if issubclass(cls, BaseException):
        return dump_exception
    return _dumper_of_libraries(cls) or objects.dumper_of_objects(cls) or dump_pickle


def _dumper_of_libraries(cls: type[Any]) -> Dumper | None:
    by_name = _DUMPERS_BY_NAME.get((cls.__module__, cls.__qualname__))
    if by_name and getattr(sys.modules.get(cls.__module__), cls.__qualname__, None) is cls:
        return by_name
    return _dump_scalar if arrays.is_scalar_type(cls) else standard_dumper(cls)
