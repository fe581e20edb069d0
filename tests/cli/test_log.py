"""Events in words, and words in bytes."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from typing import Any, get_args

import pytest

from noex_mp import (
    Crash,
    ExitReason,
    ExitReport,
    Killed,
    Normal,
    Ref,
    Shutdown,
    ShutdownTimedOut,
)
from noex_mp.cli.log import LEVELS, JsonFormat, Level, Log, Record, TextFormat, record_of
from noex_mp.cli.streams import Stream
from noex_mp.cli.words import amount, duration, size
from noex_mp.client.events import Event, EventKind


def report(reason: ExitReason, following: str = "", *, requested: bool = False) -> ExitReport:
    return ExitReport(
        server="visits",
        sid=1,
        incarnation=1,
        reason=reason,
        os_pid=7,
        uptime=1.25,
        requested=requested,
        traceback="Traceback ...\n  two",
        next=following,
    )


def event(kind: Any, ended: ExitReport | None = None, **fields: Any) -> Event:
    known: dict[str, Any] = {"incarnation": 1, "os_pid": 7, "time": 100.5}
    ref = Ref[Any]("node", 1)
    return Event(kind=kind, ref=ref, server="visits", report=ended, **{**known, **fields})


KILLED = report(Killed("SIGKILL"), "restarting")
ASKED = report(Shutdown("the node is stopping"), "stays down", requested=True)
LATE = report(ShutdownTimedOut(5.0), "stays down", requested=True)


def test_a_log_wants_all_that_it_may_write() -> None:
    for level in LEVELS:
        log = Log("shop", {}, TextFormat(), level)
        wanted = {kind for kind in get_args(EventKind) if log.wants(kind)}
        assert (wanted == set(get_args(EventKind))) is (level == "debug")
        unwanted = [event(kind) for kind in get_args(EventKind) if kind not in wanted]
        assert {record_of(each).level for each in unwanted} <= {"debug"}


@pytest.mark.parametrize(
    ("happened", "down_since", "level", "what"),
    [
        (event("started"), None, "debug", "started"),
        (event("ready"), None, "info", "is ready"),
        (event("ready", incarnation=2), None, "debug", "is ready"),
        (event("restarting", incarnation=2), None, "debug", "is to start as incarnation 2"),
        (event("restarting", delay=1.5, incarnation=2), None, "info", "incarnation 2 in 1.5 s"),
        (event("mailbox_full", count=2), None, "warning", "2 messages refused or dropped"),
        (event("mailbox_full"), None, "debug", "messages wait at their senders"),
        (
            event("memory_pressure", count=80 * 2**20, detail="memory_limit of 100 MiB"),
            None,
            "warning",
            "uses 80 MiB of its memory_limit of 100 MiB",
        ),
        (event("stopping"), None, "debug", "stopping"),
        (event("restarted", incarnation=3), 100.0, "warning", "incarnation 3 after 500 ms"),
        (event("restarted", incarnation=3), 200.0, "warning", "incarnation 3 after 0 ms"),
        (event("restarted", incarnation=3), None, "warning", "restarted as incarnation 3"),
        (event("crashed", KILLED), None, "error", "killed by SIGKILL; restarting"),
        (event("crashed", report(Crash("E", "m"))), None, "error", "crashed with E: m"),
        (event("exited", report(Normal(), "stays down")), None, "info", "normally; stays down"),
        (event("exited", ASKED), None, "info", "stopped"),
        (event("exited", LATE), None, "warning", "did not stop within 5 s and was killed"),
        (event("messages_lost", count=1), None, "warning", "to 1 cast, which was lost"),
        (event("messages_lost", count=2), None, "warning", "to 2 casts, which were lost"),
        (event("something_new"), None, "debug", "something new"),
    ],
)
def test_each_event_has_a_level_and_words(
    happened: Event, down_since: float | None, level: Level, what: str
) -> None:
    record = record_of(happened, down_since)
    assert record.level == level
    assert record.what.endswith(what)
    assert (record.traceback != "") == (happened.kind == "crashed")


@pytest.fixture
def stream() -> Iterator[Stream]:
    sink = os.open(os.devnull, os.O_WRONLY)
    stream = Stream(sink)
    yield stream
    stream.close()
    os.close(sink)


def record(**fields: Any) -> Record:
    known: dict[str, Any] = {"time": 0.0, "level": "error", "event": "x", "what": "happened"}
    return Record(**{**known, **fields})


def test_a_line_of_text_has_time_level_server_and_process(stream: Stream) -> None:
    line = TextFormat().line(record(server="visits", os_pid=7), "app", stream).decode()
    stamp = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.000"
    assert re.fullmatch(rf"{stamp} error   visits happened \(os pid 7\)\n", line)


def test_whoever_watches_gets_the_time_without_the_day(stream: Stream) -> None:
    stream.is_terminal = True
    line = TextFormat().line(record(), "app", stream).decode()
    assert re.fullmatch(r"\d\d:\d\d:\d\d\.000 error   happened\n", line)


@pytest.mark.parametrize(("level", "colours"), [("error", 2), ("warning", 2), ("info", 1)])
def test_colours_are_few(stream: Stream, level: str, colours: int) -> None:
    stream.in_colour = True
    line = TextFormat().line(record(level=level), "app", stream)
    assert line.count(b"\033[0m") == colours


def test_text_below_a_line_is_indented(stream: Stream) -> None:
    lines = TextFormat().line(record(what="a\nb", traceback="c\n  d"), "app", stream).decode()
    assert lines.splitlines()[1:] == ["    b", "    c", "      d"]


def test_a_line_of_json_leaves_out_what_is_not_known(stream: Stream) -> None:
    line = JsonFormat().line(record(facts={"count": 3, "gone": None}), "app", stream)
    assert json.loads(line) == {
        "time": "1970-01-01T00:00:00.000+00:00",
        "node": "app",
        "level": "error",
        "event": "x",
        "message": "happened",
        "count": 3,
    }


def test_output_need_not_be_text(stream: Stream) -> None:
    assert TextFormat().output("a", "stdout", b"\xff", "app", stream) == b"a | \xff\n"
    assert json.loads(JsonFormat().output("a", "stdout", b"\xff", "app", stream))["text"] == "�"


@pytest.mark.parametrize("level", LEVELS)
def test_the_level_and_what_is_above_it_is_written(level: Level) -> None:
    read_end, write_end = os.pipe()
    log = Log("app", {"stdout": (s := Stream(write_end)), "stderr": s}, TextFormat(), level)
    for each in LEVELS:
        log.say(each, "x", f"said {each}")
    log.close()
    os.close(write_end)
    with os.fdopen(read_end) as file:
        said = re.findall(r"said (\w+)", file.read())
    assert said == list(LEVELS[LEVELS.index(level) :])


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.0004, "0 ms"),
        (0.35, "350 ms"),
        (1.0, "1.0 s"),
        (59.94, "59.9 s"),
        (60.0, "1 m 0 s"),
        (192.4, "3 m 12 s"),
        (7320.0, "2 h 2 m"),
        (90061.0, "1 d 1 h"),
    ],
)
def test_durations_have_two_units(seconds: float, words: str) -> None:
    assert duration(seconds) == words


def test_amounts_agree_in_number() -> None:
    assert [amount(n, "server") for n in (0, 1, 2)] == ["0 servers", "1 server", "2 servers"]
    assert size(12_900_000) == "12.9 MB"
