"""`dataclasses.dataclass`, without most of the time that it takes at a process's start.

The original compiles up to six methods for each class, each at a tenth of a millisecond, in each
process anew. Here the comparison, the hash and the text of all classes come from the functions
below, which are compiled once; all else is the original's.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from operator import attrgetter
from reprlib import recursive_repr
from typing import TYPE_CHECKING, Any, TypeAlias

__all__ = ["dataclass"]

_Values: TypeAlias = Callable[[Any], object]

if TYPE_CHECKING:
    from dataclasses import dataclass
else:

    def dataclass(cls: type | None = None, /, **options: Any) -> Any:
        """Make a class what `dataclasses.dataclass` makes of it."""
        return _decorate(cls, **options) if cls else lambda cls: _decorate(cls, **options)


def _decorate(
    cls: type, *, eq: bool = True, repr: bool = True, frozen: bool = False, **options: Any
) -> Any:
    original: Any = dataclasses.dataclass
    made = original(cls, eq=False, repr=False, frozen=frozen, **options)
    fields = dataclasses.fields(made)
    if repr and "__repr__" not in vars(cls):
        made.__repr__ = _text([field.name for field in fields if field.repr])
    if eq:
        compared = [field for field in fields if field.compare]
        made.__eq__ = _comparison(_values([field.name for field in compared]))
        hashed = [field.name for field in compared if field.hash is not False]
        made.__hash__ = _hash(_values(hashed)) if frozen else None
    return made


def _text(names: list[str]) -> Callable[[Any], str]:
    @recursive_repr("...")
    def text(self: Any) -> str:
        shown = ", ".join([f"{name}={getattr(self, name)!r}" for name in names])
        return f"{self.__class__.__qualname__}({shown})"

    return text


def _comparison(values: _Values) -> Callable[[Any, object], Any]:
    def equal(self: Any, other: object) -> Any:
        if other.__class__ is not self.__class__:
            return NotImplemented
        return values(self) == values(other)

    return equal


def _hash(values: _Values) -> Callable[[Any], int]:
    return lambda self: hash(values(self))


def _values(names: list[str]) -> _Values:
    if len(names) > 1:
        return attrgetter(*names)
    return lambda self: tuple([getattr(self, name) for name in names])
