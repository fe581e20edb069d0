"""Classes that pickle cannot send, and their registrations."""

from __future__ import annotations

import threading
from decimal import Decimal
from typing import Any, NoReturn

from noex_mp import register_type
from tests.wire.samples import Foreign

DECODED: list[str] = []


class Guarded:
    """Holds a lock, so that only `register_type` can send it."""

    def __init__(self, content: Any) -> None:
        self.content = content
        self.lock = threading.Lock()


class Money(Guarded):
    """Not registered through its base; and what it becomes needs extensions itself."""

    def __init__(self, amount: Decimal, currency: str) -> None:
        super().__init__((amount, currency))


class Below(Guarded):
    """A subclass of a registered class, and not registered."""


class Moody(Guarded):
    """Fails on the way that its content names."""


def _moody_to_wire(value: Moody) -> str:
    if value.content == "encode":
        raise ValueError("not today")
    return str(value.content)


def _moody_from_wire(content: str) -> Moody:
    if content == "decode":
        raise LookupError("not there")
    if content == "decode, badly":
        raise GeneratorExit("out of here")
    return Moody(content)


class Mirror(Guarded):
    """Its encode function returns what it got."""


def _never(content: Any) -> NoReturn:
    raise AssertionError(content)


def content_of(value: Guarded) -> Any:
    return value.content


register_type(Guarded, content_of, Guarded)
register_type(Foreign, lambda value: [value.content], lambda parts: Foreign(*parts))
register_type(Money, content_of, lambda parts: Money(*parts))
register_type(Moody, _moody_to_wire, _moody_from_wire)
register_type(Mirror, lambda value: value, _never)


class Unshared(Guarded):
    """For a test to register."""
