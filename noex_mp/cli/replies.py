"""Replies as JSON: whatever a server returns can be shown.

This process shows values and does not use them. So it imports no class of the application to
rebuild one: a dataclass becomes an object with its fields, an enum its name, and what is known to
pickle only is taken apart without running any of it.

```python
>>> plain({"at": (1, 2), "who": {"b", "a"}})
{'at': [1, 2], 'who': ['a', 'b']}

```
"""

from __future__ import annotations

import collections
import dataclasses
import datetime as dt
import functools
import io
import math
import pickle
from collections.abc import Callable, Mapping
from pathlib import PurePosixPath
from typing import Any, Final

from noex_mp.errors import RemoteError
from noex_mp.wire import extensions, values
from noex_mp.wire.exceptions import REMOTE_TRACEBACK, load_exception
from noex_mp.wire.values import ValueReader

__all__ = ["import_no_applications", "plain"]


@functools.singledispatch
def plain(value: Any) -> Any:
    """Return a value made of what JSON has: the closest there is, else its `repr`."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    to_list: Any = getattr(value, "tolist", None)
    # A numpy array or scalar.
    return _text(value) if to_list is None else plain(to_list())


def _as_it_is(value: Any) -> Any:
    return value


def _number(value: Any) -> Any:
    return value if math.isfinite(value) else _NO_NUMBERS[str(float(value))]


# JSON has no numbers for these; so JavaScript writes them, and Protocol Buffers in JSON.
_NO_NUMBERS: Final = {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}


def _mapping(value: Any) -> Any:
    simple = {_key(key): plain(child) for key, child in value.items()}
    if len(simple) == len(value):
        return simple
    # Keys that differ by their type alone: 1 and "1".
    return [[plain(key), plain(child)] for key, child in value.items()]


def _sequence(value: Any) -> Any:
    return [plain(child) for child in value]


def _set(value: Any) -> Any:
    return sorted(map(plain, value), key=_order)


def _moment(value: Any) -> Any:
    return value.isoformat()


def _seconds(value: Any) -> Any:
    return value.total_seconds()


def _error(value: Any) -> Any:
    return f"{type(value).__name__}: {value}"


_WAYS: Final[Mapping[type, Callable[[Any], Any]]] = {
    **dict.fromkeys((type(None), bool, int, str), _as_it_is),
    float: _number,
    **dict.fromkeys((list, tuple, collections.deque), _sequence),
    **dict.fromkeys((set, frozenset), _set),
    **dict.fromkeys((dt.date, dt.time), _moment),
    dict: _mapping,
    dt.timedelta: _seconds,
    BaseException: _error,
}
for _type, _way in _WAYS.items():
    plain.register(_type, _way)


def _key(key: Any) -> str:
    simple = plain(key)
    return simple if isinstance(simple, str) else _text(key)


def _order(value: Any) -> tuple[str, Any]:
    # Numbers by their size, all else by its text.
    return ("", value) if isinstance(value, int | float) else (type(value).__name__, str(value))


def _text(value: Any) -> str:
    # Where `str` says as much as `repr` does: UUID('...'), Decimal('...'), PosixPath('...').
    name = type(value).__name__
    return str(value) if repr(value) == f"{name}({str(value)!r})" else repr(value)


# --- values that are shown only -----------------------------------------------------------------


def import_no_applications() -> None:
    """Have values of the application's classes decoded for show; for the whole process."""
    extensions.LOADERS.update(
        {
            values.SET: _load_set,
            values.FROZENSET: _load_set,
            values.ENUM: _load_enum,
            values.DATACLASS: _load_dataclass,
            values.NAMED_TUPLE: _load_named_tuple,
            values.REGISTERED: _load_registered,
            values.EXCEPTION: _load_exception,
            values.PICKLE: _load_pickle,
        }
    )


class _Shown(dict[str, Any]):
    """The fields of an object; unlike other dicts it may be a key, or stand in a set."""

    def __hash__(self) -> int:  # type: ignore[override]  # pyright: ignore[reportIncompatibleVariableOverride]
        return id(self)


def _load_set(reader: ValueReader, data: bytes) -> Any:
    return tuple(sorted(reader.nested(data), key=lambda each: _order(plain(each))))


def _load_enum(reader: ValueReader, data: bytes) -> Any:
    _, name, value = reader.nested(data)
    return value if name is None else name


def _load_dataclass(reader: ValueReader, data: bytes) -> Any:
    path, state, slots = reader.nested(data)
    if _is_ours(path):
        return _load_our_dataclass(reader, data)
    return _Shown({**state, **slots})


def _load_named_tuple(reader: ValueReader, data: bytes) -> Any:
    _, items, *_ = reader.nested(data)
    return tuple(items)


def _load_registered(reader: ValueReader, data: bytes) -> Any:
    _, _, content = reader.nested(data)
    return content


def _load_exception(reader: ValueReader, data: bytes) -> Any:
    path, _, _, text, notes, frames, _, linked, code = reader.nested(data)
    # One that comes with code of its own is never made here.
    if not code and (_is_ours(path) or path.startswith("builtins:")):
        return load_exception(reader, data)
    error = RemoteError(path, text)
    error.__cause__ = linked
    for note in (*notes, *([f"{REMOTE_TRACEBACK}{frames}".rstrip()] if frames else ())):
        error.add_note(note)
    return error


def _is_ours(path: str) -> bool:
    return path.startswith("noex_mp.")


_load_our_dataclass: Final = extensions.LOADERS[values.DATACLASS]


# --- pickles ------------------------------------------------------------------------------------


def _load_pickle(reader: ValueReader, data: bytes) -> Any:
    content, buffers = reader.nested(data)
    return _ShowingUnpickler(io.BytesIO(content), buffers=buffers).load()


# What is safe to make, and better to see as what it is.
_HARMLESS: Final[Mapping[tuple[str, str], Callable[..., Any]]] = {
    ("collections", "OrderedDict"): dict,
    ("collections", "Counter"): dict,
    ("collections", "deque"): collections.deque,
    # Its factory is of no interest.
    ("collections", "defaultdict"): lambda *_: {},
    # Python 3.13 has moved them to another module.
    **{
        (module, name): PurePosixPath
        for module in ("pathlib", "pathlib._local")
        for name in ("PosixPath", "PurePosixPath")
    },
    ("builtins", "set"): set,
    ("builtins", "frozenset"): frozenset,
    ("builtins", "bytearray"): bytearray,
    ("builtins", "complex"): complex,
}


class _ShowingUnpickler(pickle.Unpickler):
    """Reads a pickle without looking up, making or running anything that it names."""

    def find_class(self, module_name: str, global_name: str, /) -> Any:
        harmless = _HARMLESS.get((module_name, global_name))
        return harmless or type(global_name, (_Named,), {"__module__": module_name})


class _Named:
    """Something of a class, or the result of a function, that exists elsewhere only."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        made = super().__new__(cls)
        made.arguments = [*map(repr, args), *(f"{k}={v!r}" for k, v in kwargs.items())]
        return made

    arguments: list[str]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        # The state of a class with slots is two: a dict or None, and a dict.
        for part in _parts(state):
            if isinstance(part, dict):
                self.arguments += [f"{name}={value!r}" for name, value in _items(part)]
            elif part is not None:
                self.arguments.append(repr(part))

    def append(self, value: Any) -> None:
        self.arguments.append(repr(value))

    def extend(self, many: Any) -> None:
        self.arguments += map(repr, many)

    def __setitem__(self, key: Any, value: Any) -> None:
        self.arguments.append(f"{key!r}: {value!r}")

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(self.arguments)})"


def _parts(state: Any) -> Any:
    return state if state.__class__ is tuple else (state,)


def _items(mapping: Any) -> Any:
    return mapping.items()
