"""Our `dataclass` makes of a class what the original makes of it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import field
from typing import Any, ClassVar

import pytest

from noex_mp.core.dataclass import dataclass

OPTIONS: list[dict[str, Any]] = [
    {},
    {"frozen": True},
    {"frozen": True, "slots": True},
    {"frozen": True, "kw_only": True},
    {"repr": False},
    {"eq": False},
    {"eq": False, "frozen": True},
    {"frozen": True, "repr": False},
]


def many_fields() -> type:
    class Many:
        a: int = 1
        b: list[int] = field(default_factory=list[int], hash=False)
        hidden: str = field(default="x", repr=False)
        label: str = field(default="y", compare=False)
        shared: ClassVar[int] = 7

    return Many


def one_field() -> type:
    class One:
        only: float = math.nan

    return One


def no_field() -> type:
    class Nothing:
        pass

    return Nothing


def own_text() -> type:
    class Own:
        a: int = 1

        def __repr__(self) -> str:
            return "mine"

    return Own


def own_text_inherited() -> type:
    return type("Heir", (own_text(),), {"b": 2, "__annotations__": {"b": "int"}})


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("make", [many_fields, one_field, no_field, own_text, own_text_inherited])
def test_it_behaves_as_the_original_does(make: Callable[[], type], options: dict[str, Any]) -> None:
    ours = seen(made_by(dataclass, make(), options))
    assert ours == seen(made_by(dataclasses.dataclass, make(), options))


def made_by(decorator: Any, cls: type, options: dict[str, Any]) -> type[Any]:
    made: type[Any] = decorator(**options)(cls)
    return made


def seen(cls: type[Any]) -> list[object]:
    """Return all that can be seen of a class and two instances of it."""
    one, other = cls(), cls()
    heir = type("Heir", (cls,), {})()
    changed = dataclasses.replace(one)
    return [
        one == other,
        one == one,
        one == heir,
        one == changed,
        one != object(),
        text(one),
        hash_of(one),
        hash_of(one) == hash_of(other),
        cls.__match_args__,
        [each.name for each in dataclasses.fields(cls)],
        what_assigning_says(one),
    ]


def text(thing: object) -> str:
    # The number of an object with the plain text.
    return repr(thing).partition(" object at ")[0]


def hash_of(thing: object) -> object:
    if type(thing).__hash__ is object.__hash__:
        return "by identity"
    try:
        return hash(thing)
    except TypeError as error:
        return str(error)


def what_assigning_says(thing: Any) -> str:
    try:
        thing.a = 5
    except (AttributeError, TypeError) as error:
        return f"{type(error).__name__}: {error}"
    return ""


def test_a_value_that_holds_itself_has_a_text() -> None:
    @dataclass
    class Node:
        inner: object = None

    node = Node()
    node.inner = node
    assert repr(node).endswith("Node(inner=...)")
