"""Value types of the standard library that need no pickle, each by a pair of functions.

A value travels as the name of its type and something that the codec can write; the second
function of the pair gets the type and makes the value of it again. None of their modules is
imported for somebody who does not use it.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from typing import Any, Final

from msgpack import ExtType

from noex_mp.wire.values import STANDARD, Dumper, ValueReader, ValueWriter, extension

Pair = tuple[Callable[[Any], Any], Callable[[Any, Any], Any]]


def _with_attributes(cls: type[Any], parts: Any) -> Any:
    items, attributes = parts
    made = cls(items)
    made.__dict__.update(attributes)
    return made


def _path(cls: type[Any], text: bytes) -> Any:
    return cls(text.decode("utf-8", "surrogatepass"))


def _array(cls: type[Any], parts: Any) -> Any:
    code, content = parts
    made = cls(code)
    made.frombytes(content)
    return made


def _namespace(cls: type[Any], attributes: Any) -> Any:
    made = cls()
    made.__dict__.update(attributes)
    return made


_RANGE: Final[Pair] = (lambda v: [v.start, v.stop, v.step], lambda cls, v: cls(*v))
_TEXT: Final[Pair] = (str, lambda cls, v: cls(v))
_DICT: Final[Pair] = (lambda v: [dict(v), vars(v)], _with_attributes)
# File names may hold lone surrogates, which are no UTF-8.
_PATH: Final[Pair] = (lambda v: str(v).encode("utf-8", "surrogatepass"), _path)

_PAIRS: Final[dict[str, Pair]] = {
    "builtins.range": _RANGE,
    "builtins.slice": _RANGE,
    "array.array": (lambda v: [v.typecode, v.tobytes()], _array),
    "collections.Counter": _DICT,
    "collections.OrderedDict": _DICT,
    "collections.deque": (lambda v: [list(v), v.maxlen], lambda cls, v: cls(*v)),
    "fractions.Fraction": (lambda v: [v.numerator, v.denominator], lambda cls, v: cls(*v)),
    **{
        f"ipaddress.IPv{version}{kind}": _TEXT
        for version in "46"
        for kind in ("Address", "Network", "Interface")
    },
    # Python 3.13 has moved them to another module.
    **{
        f"{module}.{kind}Path": _PATH
        for module in ("pathlib", "pathlib._local")
        for kind in ("Posix", "PurePosix", "Windows", "PureWindows")
    },
    "re.Pattern": (lambda v: [v.pattern, v.flags], lambda cls, v: _compile(*v)),
    "types.SimpleNamespace": (vars, _namespace),
}


def _compile(pattern: Any, flags: int) -> Any:
    import re

    return re.compile(pattern, flags)


def standard_dumper(cls: type[Any]) -> Dumper | None:
    """Return the function that writes values of this class, or None if it is none of these."""
    name = f"{cls.__module__}.{cls.__qualname__}"
    pair = _PAIRS.get(name)
    if pair is None or getattr(sys.modules.get(cls.__module__), cls.__qualname__, None) is not cls:
        return None
    to_wire, _ = pair

    def dump_standard(writer: ValueWriter, value: Any) -> ExtType:
        return extension(STANDARD, writer.nested([name, to_wire(value)]))

    return dump_standard


def load_standard(reader: ValueReader, data: bytes) -> Any:
    """Return the value."""
    name, content = reader.nested(data)
    _, from_wire = _PAIRS[name]
    module, _, qualname = name.rpartition(".")
    return from_wire(getattr(importlib.import_module(module), qualname), content)
