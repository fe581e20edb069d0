"""Typed messages, and the outcomes that answer them."""

from __future__ import annotations

import dataclasses
from typing import Any, Generic, TypeVar

import pytest

from noex_mp.core import outcomes
from noex_mp.core.messages import Call, Cast, Timeout
from noex_mp.core.outcomes import (
    OUTCOMES,
    Continue,
    Ignore,
    NoReply,
    Reply,
    Stop,
    TimeoutAfter,
)
from noex_mp.core.reasons import Normal, Shutdown

T = TypeVar("T")


class Push(Cast, frozen=True):
    item: str
    times: int = 1


class Pop(Call[str], frozen=True):
    pass


class Echo(Call[T], Generic[T], kw_only=True, order=True):
    value: int


def test_a_message_is_a_dataclass_by_its_class_statement() -> None:
    assert Push("a") == Push(item="a", times=1)
    assert Push("a") != Push("b")
    assert repr(Push("a")) == "Push(item='a', times=1)"
    assert hash(Push("a")) == hash(Push("a"))


def test_frozen_messages_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Push("a").item = "b"  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]


def test_the_class_statement_takes_the_options_of_a_dataclass() -> None:
    low, high = Echo[int](value=1), Echo[int](value=2)
    assert low < high
    low.value = 3
    with pytest.raises(TypeError):
        Echo[int](3)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


def test_messages_can_be_matched() -> None:
    match Push("a"):
        case Push("a", times):
            assert times == 1
        case _:
            pytest.fail("no match")


def test_a_request_makes_its_own_reply() -> None:
    assert Pop().reply("a") == Reply("a")
    assert Pop().reply("a", then=Stop()) == Reply("a", Stop(Normal()))
    assert Echo[int](value=1).reply(1) == Reply(1)


@pytest.mark.parametrize("namespace", [{"__annotations__": {"reply": "int"}}, {"reply": 3}])
def test_a_field_called_reply_is_refused(namespace: dict[str, Any]) -> None:
    with pytest.raises(TypeError, match="Bad has a field called reply"):
        type("Bad", (Call,), namespace)


def test_outcomes_stop_normally_unless_told_otherwise() -> None:
    assert Stop().reason == Normal()
    assert Stop(Shutdown("full")).reason == Shutdown("full")


@pytest.mark.parametrize(
    "outcome",
    [Reply(1), NoReply(), Stop(), Continue(1), TimeoutAfter(1.0), Ignore(), Reply[int](1)],
)
def test_each_outcome_is_found_by_its_type(outcome: Any) -> None:
    assert type(outcome) in OUTCOMES


@pytest.mark.parametrize("value", [None, 3, "x", Reply, Timeout(), Push("a")])
def test_a_plain_value_is_no_outcome(value: Any) -> None:
    assert type(value) not in OUTCOMES


def test_every_class_of_outcomes_is_in_the_table() -> None:
    classes = {c for c in vars(outcomes).values() if isinstance(c, type)}
    assert {c for c in classes if c.__module__ == outcomes.__name__} == OUTCOMES


@pytest.mark.parametrize("value", [NoReply(), Stop(), Continue(), Timeout()])
def test_outcomes_and_system_messages_have_no_room_for_more(value: Any) -> None:
    assert not hasattr(value, "__dict__")
    with pytest.raises((AttributeError, TypeError)):
        value.extra = 1
