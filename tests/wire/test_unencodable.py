"""What cannot be sent is named by its place, its type and the reason."""

from __future__ import annotations

import gc
import sys
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from noex_mp.errors import UnencodableError
from noex_mp.wire.codec import BIG, Encoder
from tests.wire.samples import Plain, Point, WithLock


def explained(*args: Any, encoder: Encoder | None = None, **kwargs: Any) -> UnencodableError:
    encoder = encoder or Encoder()
    with pytest.raises(Exception) as failure:  # each its own
        encoder.pack([1, kwargs, *args])
    error = encoder.explain(args, kwargs, failure.value)
    assert encoder.buffers == []
    assert encoder.pack([1, (2,)])
    return error


def generator() -> Any:
    yield from ()


def holding(value: object) -> Callable[[], object]:
    return lambda: value


def in_list(value: list[Any]) -> list[Any]:
    value.append(value)
    return value


def in_tuple() -> tuple[Any, ...]:
    inner: list[Any] = []
    outer = ({"a": inner},)
    inner.append(outer)
    return outer


def too_deep() -> list[Any]:
    value: list[Any] = []
    for _ in range(5000):
        value = [value]
    return value


@dataclass
class Node:
    next: Any = None


def in_object() -> WithLock:
    outer = WithLock()
    vars(outer).clear()
    vars(outer).update(me=outer, lock=WithLock().lock)
    return outer


def in_dataclass() -> Node:
    node = Node()
    node.next = node
    return node


class Nasty:
    def __repr__(self) -> str:
        raise RuntimeError("no repr")

    def __reduce__(self) -> str:
        raise RuntimeError("no reduce")


@pytest.mark.parametrize(
    ("value", "path", "text", "reason"),
    [
        (generator(), "", "<generator>", "generator"),
        ({"rows": [1, 2, 3, generator()]}, "['rows'][3]", "<generator>", "list(...)"),
        ((1, [generator()]), "[1][0]", "<generator>", ""),
        (holding(generator()), "", "<lambda>", "generator"),
        (holding(sys.__stdin__), "", "<lambda>", "file"),
        ({1: {(2, 3): holding(generator())}}, "[1][(2, 3)]", "<lambda>", ""),
        ({generator(): 1}, " (key)", "<generator>", ""),
        ({holding(generator())}, " (member)", "<lambda>", ""),
        (Point(1, [generator()]), ".y[0]", "<generator>", ""),
        (WithLock(), ".lock", "<lock>", "a lock works in one process"),
        (Plain(Plain(generator())), ".content.content", "<generator>", ""),
        ("a\ud800", "", "'a\\ud800'", "surrogates"),
        (sys.stderr, "", None, "file"),
        (sys, "", "<module>", "module"),
        (in_list([1]), "[1]", "<list>", "contains itself"),
        (in_list([generator()]), "[0]", "<generator>", ""),
        (in_tuple(), "[0]['a'][0]", "<tuple>", "contains itself"),
        (in_dataclass(), ".next", "<Node>", "contains itself"),
        (in_object(), ".lock", "<lock>", "a lock works in one process"),
        (too_deep(), None, "<list>", "too deeply"),
        (Nasty(), "", "<Nasty>", "no reduce"),
        ([np.zeros(BIG), generator()], "[1]", "<generator>", ""),
        (memoryview(b"abcd")[::2], "", "<memoryview>", "contiguous"),
    ],
    ids=lambda v: type(v).__name__ if not isinstance(v, str) else ascii(v),
)
def test_an_argument_that_cannot_be_sent_is_named(
    value: Any, path: str | None, text: str | None, reason: str
) -> None:
    error = explained(0, value)
    if path is None:
        assert len(error.path) < 300
    else:
        assert error.path == f"args[1]{path}"
    assert text is None or error.value == text
    assert reason in error.reason


def test_a_keyword_argument_is_named_too() -> None:
    error = explained([1], rows=[generator()])
    assert (error.path, error.value) == ("kwargs['rows'][0]", "<generator>")


def test_a_reply_is_named_by_its_root() -> None:
    encoder = Encoder()
    error = encoder.explain_reply({"a": generator()}, TypeError("x"))
    assert error.path == "reply['a']"
    assert encoder.explain_value("init", generator(), TypeError("x")).path == "init"


def test_a_local_dataclass_or_enum_says_what_to_do() -> None:
    @dataclass
    class Local:
        x: int

    error = explained(Local(1), encoder=Encoder(allow_pickle=False))
    assert (error.path, error.value) == ("args[0]", "<Local>")
    assert "move it to the top level" in error.reason


def test_without_pickle_a_lambda_says_so() -> None:
    error = explained([lambda: 0], encoder=Encoder(allow_pickle=False))
    assert (error.path, error.value) == ("args[0][0]", "<lambda>")
    assert "pickle only, which is switched off" in error.reason


def test_without_a_culprit_the_error_itself_is_told() -> None:
    error = Encoder().explain([1, 2], None, MemoryError("all gone"))
    assert "all gone" in str(error)


def test_what_cannot_be_sent_is_not_kept_alive_by_its_error() -> None:
    class Big:
        def __reduce__(self) -> Any:
            raise ValueError("no")

    big = Big()
    gone = weakref.ref(big)
    gc.disable()
    try:
        error = Encoder().explain([1, big], None, ValueError("no"))
        del big
        assert error.path == "args[1]"
        assert gone() is None
    finally:
        gc.enable()
