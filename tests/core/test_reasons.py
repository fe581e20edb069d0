from __future__ import annotations

import doctest
from typing import get_args

import pytest

from noex_mp.core import reasons
from noex_mp.core.reasons import (
    Crash,
    Exited,
    ExitReason,
    ExitReport,
    Hung,
    InitFailed,
    InitTimedOut,
    Killed,
    Linked,
    Normal,
    NoServer,
    OutOfMemory,
    Replaced,
    RootDied,
    Shutdown,
    ShutdownTimedOut,
    Unknown,
    is_abnormal,
    render,
)

TABLE: list[tuple[ExitReason, bool, str]] = [
    (Normal(), False, "stopped normally"),
    (Shutdown(), False, "was shut down"),
    (Shutdown("node is stopping"), False, "was shut down: node is stopping"),
    (Crash("ValueError", "bad"), True, "crashed with ValueError: bad"),
    (Crash("KeyError", ""), True, "crashed with KeyError"),
    (Exited(3), True, "exited with status 3"),
    (Exited(0), True, "exited with status 0"),
    (Killed("SIGKILL"), True, "killed by SIGKILL"),
    (OutOfMemory(), True, "killed by the system, which was out of memory"),
    (
        OutOfMemory(512_000_000, 600_000_000),
        True,
        "had 572.2 MiB, more than its memory_limit of 488.3 MiB, and was killed",
    ),
    (OutOfMemory(2**30), True, "asked for more than its memory_limit of 1024 MiB"),
    (Hung(2.5, "python"), True, "hung for 2.5 s, computing in Python, and was killed"),
    (
        Hung(2.0, "c", callback="resize"),
        True,
        "hung for 2 s in resize, computing in C with the GIL held, and was killed",
    ),
    (
        Hung(2.0, "blocked", "flock", "handle_info"),
        True,
        "hung for 2 s in handle_info, blocked in flock, and was killed",
    ),
    (Hung(2.0, "blocked"), True, "hung for 2 s, blocked in a system call, and was killed"),
    (Hung(2.0, "waiting"), True, "hung for 2 s, awaiting something, and was killed"),
    (Hung(2.0, "stopped"), True, "hung for 2 s, stopped by a signal, and was killed"),
    (Hung(2.0), True, "hung for 2 s, and was killed"),
    (InitFailed("OSError: no disk"), True, "failed in its init: OSError: no disk"),
    (InitTimedOut(0.5), True, "did not finish its init within 0.5 s"),
    (Replaced(), False, "was replaced, to have other code"),
    (ShutdownTimedOut(5.0), True, "did not stop within 5 s and was killed"),
    (
        Linked("visits", Crash("ValueError", "bad")),
        True,
        "ended with visits, to which it was linked and which crashed with ValueError: bad",
    ),
    (
        Linked("visits", Shutdown()),
        False,
        "ended with visits, to which it was linked and which was shut down",
    ),
    (
        RootDied(4711),
        True,
        "ended with the root process of its node (os pid 4711), which has died",
    ),
    (RootDied(0), True, "ended with the root process of its node, which has died"),
    (NoServer(), True, "does not exist"),
    (Unknown("zygote died"), True, "ended for an unknown reason: zygote died"),
    (Unknown(""), True, "ended for an unknown reason"),
]


def a_report(reason: ExitReason, follows: str = "") -> ExitReport:
    return ExitReport(
        server="visits", sid=7, incarnation=2, reason=reason, os_pid=4711, uptime=1.5, next=follows
    )


def test_the_table_knows_every_reason() -> None:
    assert {type(reason) for reason, _, _ in TABLE} == set(get_args(ExitReason))


@pytest.mark.parametrize(("reason", "abnormal", "words"), TABLE)
def test_only_normal_and_shutdown_are_normal(
    reason: ExitReason, abnormal: bool, words: str
) -> None:
    assert is_abnormal(reason) is abnormal


@pytest.mark.parametrize(("reason", "abnormal", "words"), TABLE)
def test_every_reason_has_its_words(reason: ExitReason, abnormal: bool, words: str) -> None:
    assert render(reason) == words


@pytest.mark.parametrize(
    ("message", "words"),
    [
        ("first\nsecond", "crashed with E: first ..."),
        ("  \n first \r\n second", "crashed with E: first ..."),
        ("padded \n", "crashed with E: padded"),
        ("x" * 200, "crashed with E: " + "x" * 200),
        ("x" * 201, "crashed with E: " + "x" * 200 + " ..."),
        (" \n ", "crashed with E"),
    ],
)
def test_a_long_message_becomes_one_line_of_decent_length(message: str, words: str) -> None:
    assert render(Crash("E", message)) == words


def test_reasons_and_reports_are_values() -> None:
    assert Killed("SIGKILL") == Killed("SIGKILL") != Killed("SIGTERM")
    assert len({reason for reason, _, _ in TABLE * 2}) == len(TABLE)
    assert len({a_report(Normal()), a_report(Normal()), a_report(Shutdown())}) == 2


@pytest.mark.parametrize(
    ("follows", "summary"),
    [("restarting", "killed by SIGSEGV; restarting"), ("", "killed by SIGSEGV")],
)
def test_a_report_sums_up_what_happened_and_what_follows(follows: str, summary: str) -> None:
    assert a_report(Killed("SIGSEGV"), follows).summary == summary


def test_a_report_starts_out_without_extras() -> None:
    report = a_report(Normal())
    assert (report.requested, report.traceback, report.casts_lost) == (False, "", 0)


def test_the_examples_in_the_docstrings_are_true() -> None:
    result = doctest.testmod(reasons)
    assert result.attempted
    assert not result.failed
