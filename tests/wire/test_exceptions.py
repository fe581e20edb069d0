"""Exceptions arrive with class, args, attributes, text, notes, causes and traceback."""

from __future__ import annotations

import asyncio
import json
import threading
from typing import Any

import pytest

from noex_mp.errors import CallTimedOutError, RemoteError, UnencodableError
from noex_mp.wire.codec import Encoder
from noex_mp.wire.exceptions import MAX_CHAIN, MAX_SIZE, REMOTE_TRACEBACK
from noex_mp.wire.stream import FrameReader
from tests.wire.samples import (
    BrokenText,
    Forgetful,
    FrozenError,
    KeywordOnly,
    NeedsInit,
    OwnOSError,
    Slotted,
    TwoArguments,
    WithLock,
    sent,
)


def raised(error: BaseException) -> BaseException:
    """Return the exception with a traceback."""
    try:
        raise error
    except BaseException as caught:
        return caught


def unicode_error() -> BaseException:
    try:
        return raised(ValueError(b"\xff".decode()))
    except UnicodeDecodeError as error:
        return error


def json_error() -> BaseException:
    try:
        return raised(ValueError(json.loads("{")))
    except json.JSONDecodeError as error:
        return error


REBUILT: list[BaseException] = [
    ValueError(),
    ValueError("bad", 1, (2, 3)),
    KeyError("k"),
    StopIteration(5),
    SystemExit(3),
    KeyboardInterrupt(),
    asyncio.CancelledError("x"),
    FileNotFoundError(2, "nope", "/a"),
    OSError("only text"),
    BlockingIOError(11, "again", 7),
    unicode_error(),
    json_error(),
    SyntaxError("bad", ("f.py", 3, 4, "x = ", 3, 5)),
    ImportError("x", name="m", path="/m.py"),
    TwoArguments(3, "full"),
    KeywordOnly(code=7),
    OwnOSError("/dev/x"),
    Slotted(5),
    NeedsInit("from init"),
    FrozenError(4),
    CallTimedOutError("Counter.increment", 0.5),
    UnencodableError("args[0]", "<generator>", "why"),
    RemoteError("app:Gone", "text"),
]


@pytest.mark.parametrize("error", REBUILT, ids=lambda e: type(e).__name__)
def test_an_exception_arrives_as_the_same_class(error: BaseException) -> None:
    result = sent(error)
    assert type(result) is type(error)
    assert (result.args, str(result)) == (error.args, str(error))
    vars(result).pop("__notes__", None)
    assert vars(result) == vars(error)


@pytest.mark.parametrize(
    ("error", "name"),
    [
        (FileNotFoundError(2, "nope", "/a"), "filename"),
        (FileNotFoundError(2, "nope", "/a"), "errno"),
        (BlockingIOError(11, "again", 7), "characters_written"),
        (StopIteration(5), "value"),
        (SystemExit(3), "code"),
        (ImportError("x", name="m"), "name"),
        (unicode_error(), "start"),
        (SyntaxError("bad", ("f.py", 3, 4, "x = ", 3, 5)), "end_lineno"),
        (Slotted(5), "amount"),
    ],
    ids=lambda v: v if isinstance(v, str) else type(v).__name__,
)
def test_what_c_code_keeps_outside_of_dict_arrives(error: BaseException, name: str) -> None:
    assert getattr(sent(error), name) == getattr(error, name)


def test_the_object_of_an_attribute_error_stays_at_home() -> None:
    asked: Any = WithLock()
    with pytest.raises(AttributeError) as failure:
        asked.nothing
    result = sent(failure.value)
    assert type(result) is AttributeError
    assert result.obj is None
    assert result.name == "nothing"


def test_a_local_class_comes_home_as_the_class_it_was() -> None:
    class Local(Exception):
        pass

    result = sent(raised(Local("text")))
    assert type(result) is Local
    assert result.args == ("text",)


def test_without_pickle_a_local_class_arrives_as_remote_error() -> None:
    class Local(Exception):
        pass

    result = sent(raised(Local("text")), allow_pickle=False)
    assert type(result) is RemoteError
    assert result.type_name.endswith("<locals>.Local")
    assert result.message == "text"
    assert result.__notes__[0].startswith(REMOTE_TRACEBACK)


def test_a_class_that_the_receiver_lacks_arrives_as_remote_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data = Encoder().pack([1, TwoArguments(3, "full")])
    monkeypatch.delattr("tests.wire.samples.TwoArguments")
    reader = FrameReader(peer="worker 1")
    reader.feed(data)
    [[_, result]] = reader.frames()
    assert reader.failures == []
    assert (result.type_name, result.message) == ("tests.wire.samples:TwoArguments", "3: full")


def test_a_class_that_cannot_be_rebuilt_arrives_as_remote_error() -> None:
    result = sent(Forgetful("text"))
    assert (type(result), result.message) == (RemoteError, "text")


def test_parts_that_cannot_be_sent_become_text() -> None:
    error = ValueError("bad", threading.Lock(), [1])
    vars(error).update(session=WithLock(), code=5)
    result = sent(error)
    assert type(result) is ValueError
    assert result.args[0] == "bad"
    assert "lock" in result.args[1]
    assert result.args[2] == [1]
    assert "WithLock" in vars(result)["session"]
    assert vars(result)["code"] == 5


def test_a_part_that_cannot_be_read_makes_it_a_remote_error_and_no_failure(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data = Encoder().pack([1, ValueError(FrozenError, WithLock)])
    monkeypatch.delattr("tests.wire.samples.WithLock")
    reader = FrameReader(peer="worker 1")
    reader.feed(data)
    [[_, result]] = reader.frames()
    assert reader.failures == []
    assert type(result) is RemoteError
    assert result.type_name == "builtins:ValueError"


def test_broken_text_breaks_nothing() -> None:
    result = sent(BrokenText())
    assert type(result) is RemoteError
    assert "__str__ failed" in result.message


def test_lone_surrogates_break_nothing() -> None:
    error = OSError(2, "nope", "a\udcff")
    error.add_note("note \udcff")
    result = sent(raised(error))
    assert type(result) is FileNotFoundError
    assert "udcff" in str(result)


def test_notes_come_first_and_the_remote_traceback_last() -> None:
    error = ValueError("bad")
    error.add_note("mine")
    result = sent(raised(error))
    mine, remote = result.__notes__
    assert mine == "mine"
    first, frame, *_ = remote.splitlines()
    assert first == "Remote traceback (most recent call last):"
    assert "in raised" in frame


def test_the_remote_traceback_stands_there_once_after_several_journeys() -> None:
    error: Any = ValueError("bad")
    for _ in range(3):
        error = sent(raised(error))
    [note] = error.__notes__
    assert note.count("Remote traceback") == 1
    assert note.count("in raised") == 3


def test_an_exception_that_was_never_raised_has_no_traceback() -> None:
    assert not hasattr(sent(ValueError()), "__notes__")


def chained(kind: str) -> BaseException:
    try:
        try:
            raise KeyError("inner")
        except KeyError as inner:
            if kind == "cause":
                raise ValueError("outer") from inner
            if kind == "none":
                raise ValueError("outer") from None
            raise ValueError("outer")  # noqa: B904
    except ValueError as outer:
        return outer


def test_cause_and_context_arrive() -> None:
    cause = sent(chained("cause")).__cause__
    assert (type(cause), cause.args) == (KeyError, ("inner",))
    assert "Remote traceback" in cause.__notes__[0]
    with_context = sent(chained("context"))
    assert with_context.__cause__ is None
    assert type(with_context.__context__) is KeyError
    assert sent(chained("none")).__context__ is None


def test_a_group_arrives_with_its_exceptions() -> None:
    class Local(Exception):
        pass

    group = ExceptionGroup("two", [TwoArguments(1, "a"), ExceptionGroup("in", [Local("x")])])
    result: Any = sent(raised(group))
    assert result.__class__ is ExceptionGroup
    first: Any
    inner: Any
    first, inner = result.exceptions
    assert (first.code, first.reason) == (1, "a")
    assert type(inner.exceptions[0]) is Local


def test_a_chain_ends_at_the_limit() -> None:
    error: BaseException = ValueError(0)
    for i in range(1, 50):
        outer = ValueError(i)
        outer.__cause__ = error
        error = outer
    found: list[object] = []
    step: BaseException | None = sent(error)
    while step is not None:
        found.append(type(step))
        step = step.__cause__
    assert found == [ValueError] * MAX_CHAIN + [RemoteError]


def test_exceptions_that_contain_themselves_arrive() -> None:
    error = ValueError("a")
    error.args = (error, [error])
    error.__cause__ = KeyError(error)
    loop: list[Any] = []
    loop.append(loop)
    vars(error)["loop"] = loop
    result = sent(error)
    assert type(result) is ValueError
    assert type(result.args[0]) is RemoteError
    assert type(result.__cause__) is KeyError


def test_an_exception_that_fails_leaves_no_buffers_behind() -> None:
    numpy = pytest.importorskip("numpy")
    encoder = Encoder()
    error = ValueError([numpy.zeros(10**6), threading.Lock()])
    encoder.pack([1, error])
    assert encoder.buffers == []


def test_one_that_is_too_large_arrives_as_its_name_and_the_beginning_of_its_text() -> None:
    error = sent(ValueError("text" * (MAX_SIZE // 4)))
    assert type(error) is RemoteError
    assert error.type_name == "builtins:ValueError"
    assert error.message == "text" * 2500
