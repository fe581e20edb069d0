"""register_type: who may register what, twice or not, and what becomes of failures."""

from __future__ import annotations

import collections
import dataclasses
import datetime as dt
import enum
import functools
import gc
import importlib
import pathlib
import subprocess
import sys
import weakref
from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any

import numpy as np
import pytest

from noex_mp import (
    BadRegistrationError,
    Ref,
    RemoteProtocolError,
    UnencodableError,
    UnregisteredTypeError,
    register_type,
)
from noex_mp.wire import extensions, registration
from noex_mp.wire.codec import BIG, Encoder
from noex_mp.wire.stream import FrameReader
from tests.wire import registered
from tests.wire.registered import Below, Guarded, Mirror, Money, Moody
from tests.wire.samples import Color, Foreign, Pair, Plain, Point, sent


@pytest.fixture(autouse=True)
def registrations() -> Iterator[dict[str, Any]]:
    """Undo what a test registers."""
    table: dict[str, Any] = registration._registrations  # pyright: ignore[reportPrivateUsage]
    dumpers, known = extensions._found, dict(table)  # pyright: ignore[reportPrivateUsage]
    found, reducers = dict(dumpers), dict(extensions.REDUCERS)
    yield table
    extensions.REDUCERS.clear()
    extensions.REDUCERS.update(reducers)
    table.clear()
    table.update(known)
    dumpers.clear()
    dumpers.update(found)


def through(value: Any) -> tuple[Any, list[Exception]]:
    encoder, reader = Encoder(), FrameReader(peer="worker 1")
    reader.feed(encoder.pack([1, value]) + encoder.pack([2, (3,)]))
    (_, result), rest = reader.frames()
    assert rest == [2, (3,)]
    return result, reader.failures


def test_a_registered_value_arrives_with_and_without_pickle() -> None:
    for allow_pickle in (True, False):
        money = sent(Money(Decimal("1.50"), "EUR"), allow_pickle=allow_pickle)
        assert type(money) is Money
        assert money.content == (Decimal("1.50"), "EUR")


def test_a_registered_value_in_what_is_pickled_is_asked_too() -> None:
    inner = sent(Plain({"a": [Guarded((1, Money(Decimal(1), "EUR")))]})).content["a"][0]
    assert inner.content[0] == 1
    assert inner.content[1].content == (Decimal(1), "EUR")


def test_big_bytes_in_it_leave_behind_the_message() -> None:
    encoder = Encoder()
    chunks = encoder.pack_big([1, Guarded(bytes(BIG))])
    assert [len(chunk) for chunk in chunks][1] == BIG


@pytest.mark.parametrize("cls", [Color, Pair, Point, Plain])
def test_a_registration_goes_before_what_else_there_is(cls: Any) -> None:
    value: Any = {Color: Color.RED, Pair: Pair(1), Point: Point(1), Plain: Plain(1)}[cls]
    assert type(sent(value)) is cls
    register_type(cls, lambda value: "encoded", lambda content: [content])
    assert sent(value) == ["encoded"]


def test_a_subclass_is_not_meant() -> None:
    with pytest.raises(TypeError, match="lock"):
        Encoder().pack([1, Below(1)])
    with pytest.raises(TypeError, match="register_type"):
        Encoder(allow_pickle=False).pack([1, Below(1)])


def test_to_register_the_same_again_changes_nothing() -> None:
    importlib.import_module("tests.wire.registered")
    register_type(Guarded, registered.content_of, Guarded)
    for _ in range(2):
        register_type(Plain, lambda value: value.content, Plain)
    assert sent(Plain(1)) == Plain(1)


def test_a_module_that_is_loaded_again_registers_its_new_class() -> None:
    names: dict[str, Any] = registered.__dict__
    old, before = dict(names), Guarded
    try:
        importlib.reload(registered)
        assert registered.Guarded is not before
        assert type(sent(registered.Guarded(1))) is registered.Guarded
    finally:
        names.update(old)


@pytest.mark.parametrize(
    ("encode", "decode"),
    [
        (str, Guarded),
        (registered.content_of, Money),
        (functools.partial(getattr, "content"), Guarded),
    ],
)
def test_to_register_it_otherwise_is_an_error(encode: Any, decode: Any) -> None:
    with pytest.raises(BadRegistrationError) as failure:
        register_type(Guarded, encode, decode)
    assert failure.value.path == "tests.wire.registered:Guarded"
    assert "tests.wire.registered has registered it" in failure.value.reason
    assert sent(Guarded(1)).content == 1


@pytest.mark.parametrize(
    "cls",
    [
        *(None, int, str, list, dict, bytes, tuple, dt.datetime, Decimal, pathlib.PosixPath, Ref),
        *(np.ndarray, np.float64, ValueError, type(None), bool, memoryview, "str"),
    ],
)
def test_what_has_a_way_of_its_own_cannot_be_registered(cls: Any) -> None:
    with pytest.raises(BadRegistrationError):
        register_type(cls, lambda value: value, lambda content: content)


def test_encode_and_decode_must_be_functions() -> None:
    with pytest.raises(BadRegistrationError, match="functions"):
        register_type(Plain, {}, Plain)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def test_an_encode_that_fails_is_named_with_its_place() -> None:
    encoder = Encoder()
    for bad, reason in [
        (Moody("encode"), "Moody raised ValueError: not today"),
        (Mirror(1), "returned the value itself"),
    ]:
        with pytest.raises(TypeError) as failure:
            encoder.pack([1, bad])
        error = encoder.explain([[bad]], None, failure.value)
        assert isinstance(error, UnencodableError)
        assert error.path == "args[0][0]"
        assert reason in error.reason


def test_what_cannot_be_sent_in_it_is_named() -> None:
    encoder, bad = Encoder(), Guarded({"rows": [1, (i for i in [1])]})
    error = encoder.explain([bad], None, TypeError())
    assert isinstance(error, UnencodableError)
    assert (error.path, error.value) == ("args[0] (encoded)['rows'][1]", "<generator>")


@pytest.mark.parametrize(
    ("content", "text"),
    [("decode", "Moody raised LookupError: not there"), ("decode, badly", "out of here")],
)
def test_a_decode_that_fails_is_a_failure_of_its_message_only(content: str, text: str) -> None:
    result, [failure] = through(Moody(content))
    assert result is None
    assert isinstance(failure, RemoteProtocolError)
    assert text in str(failure)


def test_a_type_that_is_not_registered_here_is_named(registrations: dict[str, Any]) -> None:
    data = Encoder().pack([1, Money(Decimal(1), "EUR")])
    del registrations["tests.wire.registered:Money"]
    reader = FrameReader(peer="worker 1")
    reader.feed(data)
    assert list(reader.frames()) == [[1, None]]
    [failure] = reader.failures
    assert isinstance(failure, UnregisteredTypeError)
    assert (failure.path, failure.home) == ("tests.wire.registered:Money", "tests.wire.registered")
    assert "register_type" in str(failure)


def test_a_process_that_has_not_heard_of_it_imports_who_has_registered_it() -> None:
    data = Encoder().pack([1, Foreign(1), Money(Decimal("1.50"), "EUR")])
    program = (
        "import sys\n"
        "from noex_mp.wire.stream import FrameReader\n"
        "reader = FrameReader(peer='worker 1')\n"
        f"reader.feed({data!r})\n"
        "assert 'tests.wire.registered' not in sys.modules\n"
        "[[_, foreign, money]] = reader.frames()\n"
        "print(foreign.content, type(money).__name__, *money.content, reader.failures)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert done.stdout == "1 Money 1.50 EUR []\n", done.stderr


def made_dataclass() -> Any:
    return dataclasses.make_dataclass("Made", ["x"])(1)


def made_named_tuple() -> Any:
    make: Any = collections.namedtuple  # noqa: PYI024
    return make("Made", "x")(1)


def made_enum() -> Any:
    make: Any = enum.Enum
    return make("Made", "A").A


@pytest.mark.parametrize("make", [made_dataclass, made_named_tuple, made_enum])
def test_a_class_made_at_run_time_can_go_once_it_was_sent(make: Callable[[], object]) -> None:
    made = make()
    cls: Any = type(made)
    cls.__module__ = __name__
    namespace = sys.modules[__name__].__dict__
    namespace["Made"] = cls
    assert sent(made, allow_pickle=False) == made
    gone: Any = weakref.ref(cls)
    del namespace["Made"], cls, made
    gc.collect()
    assert gone() is None


def _nobody_imports(module: object) -> bool:
    return False


def test_without_pickle_a_registration_has_to_stand_in_a_module(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Sealed:
        pass

    register_type(Sealed, lambda _: 1, lambda _: Sealed())
    monkeypatch.setattr(registration, "others_import", _nobody_imports)
    sealed = Sealed()
    with pytest.raises(TypeError, match="which other processes cannot import"):
        Encoder(allow_pickle=False).pack([1, sealed])
    reader = FrameReader(peer="worker 1", allow_pickle=False)
    reader.feed(Encoder().pack([1, sealed]))
    assert list(reader.frames()) == [[1, None]]
    assert "pickle is switched off" in str(reader.failures[0])


def test_what_comes_along_with_a_value_is_used_where_it_is_new(
    registrations: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Sealed:
        pass

    register_type(Sealed, lambda _: 1, lambda _: Sealed())
    with monkeypatch.context() as patch:
        patch.setattr(registration, "others_import", _nobody_imports)
        data = Encoder().pack([1, Sealed(), Plain(Sealed())])
    registrations.clear()
    reader = FrameReader(peer="worker 1")
    reader.feed(data)
    [[_, alone, inside]] = reader.frames()
    assert type(alone) is type(inside.content) is Sealed
    # From here it goes on with all that it came with.
    registrations_here = dict(registrations)
    data = Encoder().pack([1, alone])
    registrations.clear()
    reader.feed(data)
    [[_, again]] = reader.frames()
    assert type(again) is Sealed
    assert registrations_here.keys() == registrations.keys()
