"""What cannot be sent is named by its place, its type and the reason."""

from __future__ import annotations

import collections
import concurrent.futures
import contextvars
import functools
import gc
import queue
import socket
import sqlite3
import sys
import threading
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pytest

from noex_mp.errors import UnencodableError
from noex_mp.wire import codec
from noex_mp.wire.codec import BIG, Encoder
from tests.wire.samples import Pair, Plain, Point, Row, WithLock


def explained(*args: Any, encoder: Encoder | None = None, **kwargs: Any) -> UnencodableError:
    encoder = encoder or Encoder()
    with pytest.raises(Exception) as failure:  # each its own
        encoder.pack([1, kwargs, *args])
    error = encoder.explain(args, kwargs, failure.value)
    assert encoder.buffers == []
    assert encoder.pack([1, (2,)])
    assert isinstance(error, UnencodableError)
    return error


def generator() -> Any:
    yield from ()


def holding(value: object) -> Callable[[], object]:
    def held() -> object:
        return value

    return held


def zeros() -> object:
    return collections.defaultdict[str, int](lambda: 0)


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


class Refuses:
    """Says itself that it stays, by one of the two ways; what it holds cannot be sent either."""

    def __init__(self) -> None:
        self.lock = threading.Lock()

    def __reduce__(self) -> str:
        raise TypeError("it stays here")


class RefusesItsState:
    def __init__(self) -> None:
        self.lock = threading.Lock()

    def __getstate__(self) -> object:
        raise TypeError("it stays here")


class NoField:
    __dataclass_fields__: ClassVar = {"broken": None, "held": None}

    def __init__(self) -> None:
        self.held = generator()

    @property
    def broken(self) -> object:
        raise RuntimeError("no field")

    def __reduce__(self) -> str:
        raise RuntimeError("no reduce")


class NoClass(Nasty):
    def __getattribute__(self, name: str) -> Any:
        if name == "__class__":
            raise RuntimeError("no class")
        return super().__getattribute__(name)


class NoIteration(list[Any]):
    def __iter__(self) -> Any:
        raise RuntimeError("no iteration")


class NoOrder(type):
    def __getattribute__(cls, name: str) -> Any:
        if name in ("__mro__", "__name__"):
            raise RuntimeError("no order")
        return super().__getattribute__(name)


class NoType(Nasty, metaclass=NoOrder):
    pass


class NoText(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


class RaisesNoText:
    def __reduce__(self) -> str:
        raise NoText


@pytest.mark.parametrize(
    ("value", "path", "text"),
    [
        (NoField(), ".held", "<generator>"),
        (NoClass(), "", "<NoClass>"),
        (NoIteration([1]), "", "<NoIteration>"),
        (NoType(), "", "<NoType>"),
        (RaisesNoText(), "", "<RaisesNoText>"),
    ],
    ids=["field", "class", "iteration", "type", "text"],
)
def test_a_value_whose_own_code_raises_is_named_too(value: Any, path: str, text: str) -> None:
    error = explained([0, value])
    assert (error.path, error.value) == (f"args[0][1]{path}", text)
    assert str(error)


@pytest.mark.parametrize(
    ("value", "path", "text", "reason"),
    [
        (generator(), "", "<generator>", "generator"),
        ({"rows": [1, 2, 3, generator()]}, "['rows'][3]", "<generator>", "list(...)"),
        ((1, [generator()]), "[1][0]", "<generator>", ""),
        (holding(generator()), "", "<function held>", "generator"),
        (holding(sys.__stdin__), "", "<function held>", "file"),
        ({1: {(2, 3): holding(generator())}}, "[1][(2, 3)]", "<function held>", ""),
        ({generator(): 1}, " (key)", "<generator>", ""),
        ({holding(generator())}, " (member)", "<function held>", ""),
        (Point(1, [generator()]), ".y[0]", "<generator>", ""),
        (WithLock(), ".lock", "<lock>", "a lock works in one process"),
        (Plain(Plain(generator())), ".content.content", "<generator>", ""),
        ({"key": [lambda: 0]}, "['key'][0]", "<lambda>", "write it as a def"),
        (zeros(), ".default_factory", "<lambda>", "write it as a def"),
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
        ([Refuses()], "[0]", "<Refuses>", "it stays here"),
        (Plain(RefusesItsState()), ".content", "<RefusesItsState>", "it stays here"),
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
    assert isinstance(error, UnencodableError)
    assert error.path == "reply['a']"
    error = encoder.explain_value("init", generator(), TypeError("x"))
    assert isinstance(error, UnencodableError)
    assert error.path == "init"


def test_no_value_is_to_blame_for_a_lack_of_memory() -> None:
    error = Encoder().explain([generator()], None, MemoryError())
    assert type(error) is MemoryError


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
        assert isinstance(error, UnencodableError)
        assert error.path == "args[1]"
        assert gone() is None
    finally:
        gc.enable()


async def coroutine() -> None:
    pass


def open_file() -> Any:
    return open(__file__)


def variable() -> Any:
    return contextvars.ContextVar[int]("v")


def view() -> Any:
    return {1: 2}.keys()


HELP: list[tuple[str, Callable[[], Any], str]] = [
    ("generator", generator, "send list(...)"),
    ("coroutine", coroutine, "await it"),
    ("open file", open_file, "its path or its content"),
    ("lock", threading.Lock, "let one server own"),
    ("rlock", threading.RLock, "let one server own"),
    ("event", threading.Event, "let one server own"),
    ("socket", socket.socket, "let one server own"),
    ("queue", queue.Queue, "a server's mailbox"),
    ("simple queue", queue.SimpleQueue, "a server's mailbox"),
    ("thread", threading.Thread, "runs in one process"),
    ("future", concurrent.futures.Future, "send its result"),
    ("database", lambda: sqlite3.connect(":memory:"), "let one server own"),
    ("context variable", variable, "send its value"),
    ("weak reference", functools.partial(weakref.ref, Point), "send the object"),
    ("dict view", view, "send list(...)"),
    ("mapping proxy", functools.partial(vars, Point), "send dict(...)"),
    ("module", lambda: sys, "send its name"),
    ("frame", sys._getframe, "this process's stack"),  # pyright: ignore[reportPrivateUsage]
]


@pytest.mark.parametrize(("name", "make", "remedy"), HELP, ids=[name for name, _, _ in HELP])
def test_what_people_try_to_send_gets_a_sentence_that_helps(
    name: str, make: Callable[[], Any], remedy: str
) -> None:
    value = make()
    try:
        error = explained({"rows": (1, value)})
        assert error.path == "args[0]['rows'][1]"
        assert remedy in error.reason
        assert len(str(error)) < 200
    finally:
        getattr(value, "close", int)()


@dataclass
class Tree:
    children: Any = ()


def test_the_path_leads_through_what_is_pickled() -> None:
    values: list[tuple[Any, str]] = [
        (collections.defaultdict(holding(generator())), ".default_factory"),
        (collections.deque([1, generator()]), "[1]"),
        (collections.OrderedDict(a=generator()), "['a']"),
        (functools.partial(print, generator()), ".args[0]"),
        (functools.partial(holding(generator())), ".func"),
        (Pair(1, generator()), "[1]"),
        (Row(a=[generator()]), "['a'][0]"),
        (Plain(generator()).__eq__, ".__self__.content"),
    ]
    for value, path in values:
        error = explained(value)
        assert error.path == f"args[0]{path}"


def in_itself(wrap: Callable[[Any], Any], depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = wrap(value)
    return value


def a_list(value: Any) -> Any:
    return [value]


def a_tuple(value: Any) -> Any:
    return (value,)


def a_dict(value: Any) -> Any:
    return {1: value}


@pytest.mark.parametrize("wrap", [a_list, a_tuple, a_dict, Tree, Pair])
def test_deep_nesting_is_refused_and_no_crash(wrap: Callable[[Any], Any]) -> None:
    for depth in (1030, 5000):
        assert "too deeply" in explained(in_itself(wrap, depth)).reason


def test_a_frame_larger_than_the_peer_takes_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(codec, "MAX_FRAME_SIZE", 1000)
    encoder = Encoder()
    # Of numbers alone, so nothing can leave it.
    with pytest.raises(ValueError, match="send it in parts"):
        encoder.pack_big([1] * 1001)
    assert encoder.pack_big([1] * 900)


def test_a_message_that_is_too_large_says_so_in_full() -> None:
    error = Encoder().explain(
        ["x"], None, ValueError("it takes 272,629,784 bytes; send it in parts")
    )
    assert "the message: it takes 272,629,784 bytes; send it in parts" in str(error)
