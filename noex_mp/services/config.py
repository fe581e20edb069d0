"""Configuration: a dataclass, filled from a file, the environment and arguments.

```python
@dataclass(frozen=True)
class ShopConfig:
    port: int = 8080
    database: Path = Path("shop.db")

config = read_config(ShopConfig, "shop", Sources(environ={"SHOP_PORT": "9000"}))
```

The strongest word counts: an argument, else the environment, else the file, else the default. What
is wrong is found all at once, and each mistake says where it stands. The options of a dataclass in
a dataclass are called `database.url`, and `SHOP_DATABASE_URL` in the environment. Lists of
dataclasses, and tables of them, come from the file alone.

Promise: no I/O.
"""

from __future__ import annotations

import difflib
import enum
import math
import types
import typing
from collections import abc
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, field, fields, is_dataclass, replace
from datetime import date, datetime, time, timedelta
from pathlib import Path
from typing import Any, Final, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from noex_mp import BadConfigError

__all__ = ["Sources", "prefix_of", "read_config", "sort_arguments"]

C = TypeVar("C")

_YES: Final = frozenset(("true", "yes", "on", "1"))
_NO: Final = frozenset(("false", "no", "off", "0"))


@dataclass(frozen=True)
class Sources:
    """Where options may come from.

    Attributes:
        table: The application's table in the file.
        file: The file's name.
        environ: The environment.
        arguments: Options by name, as they were typed.
    """

    table: Mapping[str, Any] = field(default_factory=dict[str, Any])
    file: str = ""
    environ: Mapping[str, str] = field(default_factory=dict[str, str])
    arguments: Mapping[str, str] = field(default_factory=dict[str, str])


def prefix_of(application: str) -> str:
    """Return how the variables of an application begin: `SHOP_` for shop."""
    return "".join(c if c.isalnum() else "_" for c in application).upper() + "_"


def read_config(cls: type[C], application: str, sources: Sources) -> C:
    """Return an instance of a dataclass, made of defaults and of what the sources say.

    Raises:
        BadConfigError: Something is wrong; the text lists every mistake.
    """
    reading = _Reading(application, sources)
    value: C = reading.read(cls)
    if reading.mistakes:
        raise BadConfigError(application, tuple(reading.mistakes))
    return value


def sort_arguments(
    arguments: Sequence[str], applications: Sequence[str]
) -> tuple[dict[str, dict[str, str]], list[str]]:
    """Return whose option each argument is, `port=9000` or `shop.port=9000`, and what is wrong."""
    of: dict[str, dict[str, str]] = {name: {} for name in applications}
    mistakes: list[str] = []
    for argument in arguments:
        key, equals, text = argument.partition("=")
        owner, dot, option = key.partition(".")
        if not equals or not key:
            mistakes.append(f"--set {argument}: expected OPTION=VALUE\n    write --set port=9000")
        elif dot and owner in of:
            of[owner][option] = text
        elif len(of) == 1:
            next(iter(of.values()))[key] = text
        elif not of:
            mistakes.append(f"--set {argument}: there is no application that takes options")
        else:
            near = difflib.get_close_matches(owner, of, n=1) or list(of)[:1]
            option = option if dot else key
            mistakes.append(
                f"--set {argument}: expected one of the applications {', '.join(of)} in front\n"
                f"    write --set {near[0]}.{option}={text}"
            )
    return of, mistakes


_MANY: Final[tuple[Any, ...]] = (list, tuple, set, frozenset)

# What an option gets that only says how it will be used.
_MADE_AS: Final[dict[Any, Any]] = {abc.Sequence: list, abc.Set: frozenset, abc.Mapping: dict}

_UNRESOLVED: Final = (
    "the types of {} cannot be looked up: {}\n"
    "    import what they name at run time, and not under TYPE_CHECKING"
)


class _WrongError(Exception):
    """What was expected instead of a value."""


class _WrongTableError(Exception):
    """What is wrong inside of a table that is to become a dataclass.

    Attributes:
        mistakes: Each with its place.
    """

    def __init__(self, mistakes: Sequence[str]) -> None:
        super().__init__(mistakes)
        self.mistakes = mistakes


@dataclass(frozen=True)
class _Said:
    """What a source says of an option.

    Attributes:
        value: A text, or what TOML made of one.
        where: The place, for people.
        is_text: Whether it is to be read as the type that the option has.
    """

    value: Any
    where: str
    is_text: bool


@dataclass(frozen=True)
class _Place:
    """Where a value stands that is to be converted.

    Attributes:
        where: The same for people.
        is_text: Whether it is to be read as the type that the option has.
        read_table: Makes a dataclass of a table that stands there; raises `_WrongTableError`.
    """

    where: str
    is_text: bool
    read_table: Callable[[type[Any], Any, str], Any]

    def inside(self, place: str) -> _Place:
        """Return the place of something that is part of the value."""
        return replace(self, where=f"{self.where}{place}")


class _Reading:
    """One configuration while it is read, or one table in a list of it.

    Attributes:
        mistakes: What is wrong so far.
    """

    def __init__(self, application: str, sources: Sources, where: str = "") -> None:
        self._application = application
        self._sources = sources
        # Of a table in a list: there is no other source of what stands in it.
        self._where = where
        self._prefix = prefix_of(application)
        self._options: dict[str, str] = {}
        self.mistakes: list[str] = []

    def read(self, cls: type[Any]) -> Any:
        """Return an instance, or something of no use if there are mistakes."""
        value = self._fill(cls, "", self._sources.table, MISSING)
        for option in self._sources.arguments:
            if option not in self._options:
                self._unknown(f"--set {option}", option)
        return value

    # --- dataclasses -------------------------------------------------------------------

    def _fill(self, cls: type[Any], path: str, said: object, default: Any) -> Any:
        """Return an instance of a dataclass whose options begin with `path`."""
        table = _as_table(said)
        if table is None:
            self._wrong(self._place(path.rstrip(".")), path.rstrip("."), "a table", said)
            return None
        hints = self._hints(cls)
        given: dict[str, Any] = {}
        for each in fields(cls):
            if each.init:
                self._read_field(each, hints[each.name], path, table, default, given)
        known: dict[str, Any] = {each.name: None for each in fields(cls) if each.init}
        for key in table:
            if key not in known:
                self._unknown(self._place(f"{path}{key}"), f"{path}{key}", path)
        return self._build(cls, path, given, default)

    def _hints(self, cls: type[Any]) -> dict[str, Any]:
        try:
            return get_type_hints(cls)
        except Exception as error:
            raise BadConfigError(
                self._application,
                (_UNRESOLVED.format(cls.__qualname__, error),),
            ) from None

    def _read_field(
        self,
        each: Field[Any],
        hint: Any,
        path: str,
        table: Mapping[str, Any],
        default: Any,
        given: dict[str, Any],
    ) -> None:
        option = f"{path}{each.name}"
        inner = _dataclass_in(hint)
        if inner is not None:
            self._read_inner(each, inner, option, table, default, given)
            return
        variable = self._prefix + option.replace(".", "_").upper()
        self._options[option] = variable
        said = self._said(option, variable, each.name, table)
        if said is None:
            if default is MISSING and _has_no_default(each):
                self.mistakes.append(self._missing(option, variable, hint))
            return
        try:
            place = _Place(said.where, said.is_text, self._read_table)
            given[each.name] = _convert(hint, said.value, place)
        except _WrongError as wrong:
            self._wrong(said.where, option, str(wrong), said.value, is_secret=not each.repr)
        except _WrongTableError as wrong:
            if each.repr:
                self.mistakes += wrong.mistakes
            else:
                self._wrong(said.where, option, _expected(hint), said.value, is_secret=True)

    def _read_table(self, cls: type[Any], said: Any, where: str) -> Any:
        reading = _Reading(self._application, Sources(table=said), where)
        value = reading.read(cls)
        if reading.mistakes:
            raise _WrongTableError(reading.mistakes)
        return value

    def _read_inner(
        self,
        each: Field[Any],
        inner: type[Any],
        option: str,
        table: Mapping[str, Any],
        default: Any,
        given: dict[str, Any],
    ) -> None:
        usual = _default_of(each) if default is MISSING else getattr(default, each.name)
        before = len(self.mistakes)
        is_said = each.name in table or self._is_said_of(inner, f"{option}.")
        start = usual if isinstance(usual, inner) else MISSING
        value = self._fill(inner, f"{option}.", table.get(each.name, {}), start)
        if is_said or usual is MISSING:
            given[each.name] = value
        elif start is MISSING:
            # Nobody asks for it, so nothing of it can be missing.
            del self.mistakes[before:]

    def _is_said_of(self, cls: type[Any], path: str) -> bool:
        """Whether the environment or an argument has a word on an option that begins so."""
        begin = self._prefix + path.replace(".", "_").upper()
        names = {begin + each.name.upper() for each in fields(cls)}
        inner = [_dataclass_in(hint) for hint in self._hints(cls).values()]
        return (
            any(key.startswith(path) for key in self._sources.arguments)
            or any(name in self._sources.environ for name in names)
            or any(
                self._is_said_of(deeper, f"{path}{name}.")
                for name, deeper in zip(self._hints(cls), inner, strict=True)
                if deeper is not None
            )
        )

    def _build(self, cls: type[Any], path: str, given: dict[str, Any], default: Any) -> Any:
        if self.mistakes:
            return None
        try:
            return cls(**given) if default is MISSING else replace(default, **given)
        except Exception as error:
            # What its own `__post_init__` has found.
            option = path.rstrip(".")
            where = self._place(option) if self._where else option or self._application
            self.mistakes.append(f"{where}: {cls.__qualname__} refuses it: {error}")
            return None

    # --- sources -----------------------------------------------------------------------

    def _said(
        self, option: str, variable: str, name: str, table: Mapping[str, Any]
    ) -> _Said | None:
        sources = self._sources
        if option in sources.arguments:
            return _Said(sources.arguments[option], f"--set {option}", is_text=True)
        if variable in sources.environ:
            return _Said(sources.environ[variable], variable, is_text=True)
        if name in table:
            return _Said(table[name], self._place(option), is_text=False)
        return None

    def _place(self, option: str) -> str:
        where = self._where or f"{self._sources.file}:{self._application}"
        return f"{where}.{option}" if option else where

    # --- mistakes ----------------------------------------------------------------------

    def _wrong(
        self, where: str, option: str, expected: str, value: Any, *, is_secret: bool = False
    ) -> None:
        got = "something else" if is_secret else f"{value!r:.80}"
        what = f" {option} to be" if option else ""
        self.mistakes.append(f"{where}: expected{what} {expected}, got {got}")

    def _missing(self, option: str, variable: str, hint: Any) -> str:
        if self._where:
            return f"{self._place(option)}: expected {_expected(hint)}, got nothing"
        return (
            f"{option}: expected {_expected(hint)}, got nothing\n"
            f"    set {variable}, or --set {option}=..., or {option} in the table "
            f"[{self._application}] of the file"
        )

    def _unknown(self, where: str, option: str, path: str = "") -> None:
        known = [each for each in self._options if each.startswith(path)]
        names = [each.removeprefix(path) for each in known]
        near = difflib.get_close_matches(option.removeprefix(path), names, n=1)
        hint = (
            f"did you mean {path}{near[0]}?" if near else f"there are: {', '.join(known) or 'none'}"
        )
        self.mistakes.append(f"{where}: there is no option {option}\n    {hint}")


def _as_table(said: Any) -> Mapping[str, Any] | None:
    if not isinstance(said, Mapping):
        return None
    table: Mapping[str, Any] = said  # pyright: ignore[reportUnknownVariableType]
    return table


def _dataclass_in(hint: Any) -> type[Any] | None:
    """Return the dataclass that an option holds, also where it may be None."""
    for each in _alternatives(hint):
        if isinstance(each, type) and is_dataclass(each):
            return each
    return None


def _alternatives(hint: Any) -> tuple[Any, ...]:
    return get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)


def _has_no_default(each: Field[Any]) -> bool:
    return each.default is MISSING and each.default_factory is MISSING


def _default_of(each: Field[Any]) -> Any:
    if each.default_factory is not MISSING:
        return each.default_factory()
    return each.default


# --- values -------------------------------------------------------------------------------------


def _convert(hint: Any, value: Any, place: _Place) -> Any:
    """Return a value as the type that an option has.

    Raises:
        _WrongError: Says what was expected.
        _WrongTableError: Says what is wrong inside of it.
    """
    if isinstance(hint, typing.NewType):
        return _convert(hint.__supertype__, value, place)
    origin: Any = get_origin(hint)
    arguments = get_args(hint)
    if hint is Any or hint is object:
        return value
    if origin in (Union, types.UnionType):
        return _convert_union(hint, value, place)
    if origin is Literal:
        choices = {str(each): each for each in arguments}
        return _choose(choices, hint, value, is_text=place.is_text)
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        choices = {str(each.value): each for each in hint}
        return _choose(choices, hint, str(value), is_text=True)
    kind = _kind_of(hint)
    if kind in _MANY:
        return _convert_many(hint, kind, arguments, value, place)
    if kind is dict:
        return _convert_dict(hint, arguments, value, place)
    if isinstance(hint, type) and is_dataclass(hint):
        return place.read_table(hint, _table_at(hint, value, place), place.where)
    return _convert_plain(hint, value, is_text=place.is_text)


def _kind_of(hint: Any) -> Any:
    kind = get_origin(hint) or hint
    return _MADE_AS.get(kind, kind)


def _convert_union(hint: Any, value: Any, place: _Place) -> Any:
    arms = get_args(hint)
    if types.NoneType in arms and (value is None or (place.is_text and value == "")):
        return None
    inside: list[_WrongTableError] = []
    for arm in arms:
        try:
            if arm is not types.NoneType:
                return _convert(arm, value, place)
        except _WrongTableError as wrong:
            inside.append(wrong)
        except _WrongError:
            continue
    if len(inside) == 1:
        # No other is a table, so this one was meant.
        raise inside[0]
    raise _WrongError(_expected(hint))


def _choose(choices: Mapping[str, Any], hint: Any, value: Any, *, is_text: bool) -> Any:
    chosen = choices.get(value if isinstance(value, str) else str(value), MISSING)
    if chosen is MISSING or not (is_text or type(chosen) is type(value)):
        near = difflib.get_close_matches(str(value), choices, n=1)
        hint = f"{_expected(hint)} (did you mean {near[0]}?)" if near else _expected(hint)
        raise _WrongError(hint)
    return chosen


def _convert_many(
    hint: Any, kind: Callable[[list[Any]], Any], arguments: Any, value: Any, place: _Place
) -> Any:
    if place.is_text:
        value = [part.strip() for part in value.split(",")] if value.strip() else []
    if not isinstance(value, list):
        raise _WrongError(_expected(hint))
    items: list[Any] = value  # pyright: ignore[reportUnknownVariableType]
    of: list[Any] = [each for each in arguments if each is not Ellipsis] or [Any]
    if _is_fixed(kind, arguments):
        if len(items) != len(of):
            raise _WrongError(_expected(hint))
    else:
        of = of[:1] * len(items)
    try:
        made = _convert_each(
            [(each, item, f"[{n}]") for n, (each, item) in enumerate(zip(of, items, strict=True))],
            place,
        )
    except _WrongError as wrong:
        expected = _expected(hint) if _is_fixed(kind, arguments) else f"a list of {wrong}"
        raise _WrongError(expected) from None
    try:
        return kind(made)
    except TypeError:
        raise _WrongError("a list of what a set can hold: no lists, no tables") from None


def _convert_each(items: Sequence[tuple[Any, Any, str]], place: _Place) -> list[Any]:
    """Return the parts of a value, each as its own type.

    Args:
        items: For each, its type, its value, and where it stands in the whole.
        place: Where the whole stands.

    Raises:
        _WrongError: Something else was expected.
        _WrongTableError: Says what is wrong in all of the tables.
    """
    made: list[Any] = []
    mistakes: list[str] = []
    for hint, value, where in items:
        try:
            made.append(_convert(hint, value, place.inside(where)))
        except _WrongTableError as wrong:
            mistakes += wrong.mistakes
    if mistakes:
        raise _WrongTableError(mistakes)
    return made


def _is_fixed(kind: Any, arguments: Sequence[Any]) -> bool:
    """Tell whether a type says of each item what it is: `tuple[str, int]`."""
    return kind is tuple and bool(arguments) and Ellipsis not in arguments


def _convert_dict(hint: Any, arguments: Any, value: Any, place: _Place) -> Any:
    table = _table_at(hint, value, place)
    key_hint, of = arguments or (Any, Any)
    try:
        # A key is text in any file.
        texts = replace(place, is_text=True)
        keys = [_convert(key_hint, key, texts) for key in table]
    except _WrongError as wrong:
        raise _WrongError(f"a table with {wrong} for each key") from None
    try:
        made = _convert_each([(of, each, f".{key}") for key, each in table.items()], place)
    except _WrongError as wrong:
        raise _WrongError(f"a table with {wrong} for each value") from None
    return dict(zip(keys, made, strict=True))


def _table_at(hint: Any, value: Any, place: _Place) -> Mapping[str, Any]:
    table = None if place.is_text else _as_table(value)
    if table is None:
        raise _WrongError(f"{_expected(hint)} in the file")
    return table


def _convert_plain(hint: Any, value: Any, *, is_text: bool) -> Any:
    if is_text and hint in (bool, int, float):
        value = _from_text(hint, value)
    if hint is timedelta:
        return _seconds(value, is_text=is_text)
    if hint is Path and isinstance(value, str) and value:
        return Path(value)
    if hint is float and type(value) is int:
        return float(value)
    # True is an int to Python, but nobody means 1 by it.
    if isinstance(hint, type) and type(value) is hint:
        return value
    raise _WrongError(_expected(hint))


def _seconds(value: Any, *, is_text: bool) -> timedelta:
    try:
        return timedelta(seconds=_convert_plain(float, value, is_text=is_text))
    except (_WrongError, OverflowError, ValueError):
        raise _WrongError(_expected(timedelta)) from None


def _from_text(hint: Any, text: str) -> Any:
    word = text.strip().lower()
    if hint is bool:
        if word not in _YES | _NO:
            raise _WrongError(_expected(bool))
        return word in _YES
    try:
        number = hint(word)
    except ValueError:
        raise _WrongError(_expected(hint)) from None
    if not math.isfinite(number):
        raise _WrongError(_expected(hint))
    return number


_NAMES: Final[dict[Any, str]] = {
    str: "text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    Path: "a path",
    timedelta: "a number of seconds",
    datetime: "a date with its time",
    date: "a date",
    time: "a time of day",
    types.NoneType: "nothing",
}


def _expected(hint: Any) -> str:
    """Return what to call a type in front of people."""
    if isinstance(hint, typing.NewType):
        return _expected(hint.__supertype__)
    origin: Any = get_origin(hint)
    arguments = get_args(hint)
    if origin in (Union, types.UnionType):
        return " or ".join(_expected(each) for each in arguments)
    if origin is Literal:
        return " or ".join(map(repr, arguments))
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return " or ".join(repr(each.value) for each in hint)
    kind = _kind_of(hint)
    if kind in _MANY:
        of = [each for each in arguments if each is not Ellipsis]
        if _is_fixed(kind, arguments):
            return f"a list of {len(of)}: {', '.join(map(_expected, of))}"
        return f"a list of {_expected(of[0])}" if of else "a list"
    if kind is dict or _dataclass_in(hint) is not None:
        return "a table"
    name = getattr(kind, "__name__", kind)
    return _NAMES.get(kind) or f"of a type that options can have, and not a {name}"
