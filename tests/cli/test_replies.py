"""Any value as JSON, without the classes of the application."""

from __future__ import annotations

import collections
import dataclasses
import datetime as dt
import decimal
import enum
import json
import math
import pathlib
import uuid
from typing import Any, NamedTuple

import numpy as np
import pytest

from noex_mp import ExitReport, Killed, Ref, RemoteError, ServerExitedError
from noex_mp.cli import replies
from noex_mp.cli.replies import plain
from noex_mp.wire import extensions
from noex_mp.wire.codec import Decoder, Encoder
from noex_mp.wire.values import new_unpacker


@dataclasses.dataclass(frozen=True)
class Item:
    name: str
    tags: frozenset[str] = frozenset()


class Colour(enum.Enum):
    RED = 1


class Point(NamedTuple):
    x: int
    y: int


class Slotted:
    __slots__ = ("a",)

    def __init__(self, a: int) -> None:
        self.a = a


class Own:
    def __init__(self) -> None:
        self.a = [1]


class Refused(Exception):
    pass


class Bag(list[int]):
    pass


class Danger:
    def __reduce__(self) -> Any:
        return (print, ("this must not run",))


@pytest.fixture(autouse=True)
def show_only(monkeypatch: pytest.MonkeyPatch) -> None:
    # What the command does for its whole process is undone after each test.
    for code, loader in list(extensions.LOADERS.items()):
        monkeypatch.setitem(extensions.LOADERS, code, loader)
    replies.import_no_applications()


def through_the_wire(value: Any) -> Any:
    decoder = Decoder(peer="a server", allow_pickle=False)
    unpacker = new_unpacker(decoder.hook, max_size=2**20, first_buffer=1024)
    unpacker.feed(Encoder().pack(value))
    decoded = unpacker.unpack()
    assert not decoder.failures
    return decoded


REPORT = ExitReport(
    server="a", sid=1, incarnation=1, reason=Killed("SIGKILL"), os_pid=7, uptime=1.0
)


VALUES: list[tuple[Any, Any]] = [
    (None, None),
    (True, True),
    (1.5, 1.5),
    (2**80, 2**80),
    ("tea", "tea"),
    (b"tea", "b'tea'"),
    ([1, (2, 3)], [1, [2, 3]]),
    ({3, 1, 2}, [1, 2, 3]),
    (frozenset({"b", "a"}), ["a", "b"]),
    ({1: 2, (1, 2): 3, None: 4}, {"1": 2, "(1, 2)": 3, "None": 4}),
    # Keys that JSON cannot tell apart.
    ({1: "a", "1": "b"}, [[1, "a"], ["1", "b"]]),
    (
        [math.nan, math.inf, -math.inf, np.float64("inf")],
        ["NaN", "Infinity", "-Infinity", "Infinity"],
    ),
    (dt.datetime(2020, 2, 29, 12, tzinfo=dt.UTC), "2020-02-29T12:00:00+00:00"),
    (dt.date(2020, 2, 29), "2020-02-29"),
    (dt.time(12, 30), "12:30:00"),
    (dt.timedelta(minutes=1), 60.0),
    (uuid.UUID(int=1), "00000000-0000-0000-0000-000000000001"),
    (decimal.Decimal("1.50"), "1.50"),
    (1j, "1j"),
    (Colour.RED, "RED"),
    (Ref("n", 7, label="Counter"), "Ref(Counter, 7)"),
    (np.array([[1, 2]]), [[1, 2]]),
    (np.float32(0.5), 0.5),
    (pathlib.PurePosixPath("/tea"), "/tea"),
    (collections.Counter("aab"), {"a": 2, "b": 1}),
    (collections.OrderedDict(a=1), {"a": 1}),
    (collections.defaultdict(list, a=[1]), {"a": [1]}),
    (collections.deque([1, 2]), [1, 2]),
    (Point(1, 2), [1, 2]),
    (Own(), "Own(a=[1])"),
    (Slotted(1), "Slotted(a=1)"),
    (Bag([1, 2]), "Bag(1, 2)"),
    (Danger(), "print('this must not run')"),
    (ValueError("no"), "ValueError: no"),
    (REPORT.reason, {"signal": "SIGKILL"}),
]


@pytest.mark.parametrize(("value", "shown"), VALUES)
def test_every_value_can_be_shown(
    value: Any, shown: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    found = plain(through_the_wire(value))
    assert found == shown
    assert json.loads(json.dumps(found)) == shown
    assert capsys.readouterr().out == ""


def test_a_dataclass_of_an_application_becomes_its_fields() -> None:
    items = [Item("tea", frozenset({"b", "a"}))]
    fields = {"name": "tea", "tags": ["a", "b"]}
    assert plain(through_the_wire(items)) == [fields]
    assert plain(through_the_wire({Item("tea")})) == [{"name": "tea", "tags": []}]


def test_an_error_of_an_application_is_not_rebuilt() -> None:
    error = Refused("no")
    error.__cause__ = ValueError("because")
    error.add_note("a note")
    found = through_the_wire(error)
    assert type(found) is RemoteError
    assert found.type_name.endswith(":Refused")
    assert found.message == "no"
    assert found.__notes__ == ["a note"]
    assert isinstance(found.__cause__, ValueError)


def test_an_error_of_ours_is_rebuilt() -> None:
    found = through_the_wire(ServerExitedError(REPORT))
    assert type(found) is ServerExitedError
    assert found.report == REPORT
