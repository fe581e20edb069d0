"""Exit reports: whole ones are small, fit on a screen, and survive as plain values."""

from __future__ import annotations

import doctest
import json
from dataclasses import replace
from typing import get_args

import pytest

from noex_mp.core import report_plain
from noex_mp.core.reasons import (
    Begun,
    Crash,
    ExitReason,
    ExitReport,
    Killed,
    Linked,
    OutOfMemory,
    Rule,
    Shutdown,
    Unknown,
)
from noex_mp.core.report_bounds import LAST_LINES, bounded
from noex_mp.core.report_plain import as_plain, from_plain
from noex_mp.core.report_text import COLUMNS, LINES
from noex_mp.wire.codec import Encoder
from tests.core.test_reasons import TABLE

SMALL = ExitReport(
    server="visits",
    sid=7,
    incarnation=3,
    reason=Killed("SIGKILL"),
    os_pid=4711,
    uptime=2.5,
    message=Begun(operation="increment", size=430, age=0.25, attempts=2, arguments="by=3"),
    mailbox=3,
    casts_lost=2,
    rss=12 * 2**20,
    peak_rss=13 * 2**20,
    oom_kills=1,
    stderr=("first", "second"),
    time=1795867222.5,
    next="restarting",
)

# As large as somebody can make it; characters of three bytes each.
HUGE = replace(
    SMALL,
    server="€" * 100_000,
    reason=Crash("€" * 100_000, "€" * 1_000_000),
    traceback="\n".join(["€" * 100_000] * 100),
    stack="\n".join(f"{n} €€€" for n in range(100_000)),
    message=Begun(operation="€" * 100_000, arguments="€" * 100_000),
    stderr=tuple(f"{n} " + "€" * 100_000 for n in range(50)),
    next="€" * 10_000,
    shared="€" * 10_000,
)


def wire_size(report: ExitReport) -> int:
    return len(Encoder(allow_pickle=False).pack(report))


def test_a_huge_report_is_cut_to_16_kib() -> None:
    small = bounded(HUGE)
    assert 8_000 < wire_size(small) < 16 * 1024
    assert len(json.dumps(as_plain(small), ensure_ascii=False).encode()) < 16 * 1024
    # What is most useful of each is still there.
    assert small.traceback.startswith("€€€")
    assert small.stack.startswith("0 €€€\n")
    assert small.stack.endswith("\n99999 €€€")
    assert small.stderr[-1].startswith("49 €")
    assert bounded(small) == small


def test_a_small_report_is_not_cut() -> None:
    assert bounded(SMALL) == SMALL


def test_the_last_lines_of_an_output_are_kept() -> None:
    lines = tuple(map(str, range(100)))
    assert bounded(replace(SMALL, stderr=lines)).stderr == lines[-LAST_LINES:]


def test_half_a_character_and_a_lone_surrogate_do_no_harm() -> None:
    for text in ("€" * 10_000, "x" + "€" * 10_000, "\ud800" * 10_000):
        cut = bounded(replace(SMALL, server=text, traceback=text, next=text))
        assert cut.server.endswith(" ...")
        cut.server.rstrip(" .").encode(errors="surrogatepass")


def test_links_to_links_come_to_an_end() -> None:
    reason: ExitReason = Killed("SIGKILL")
    for n in range(500):
        reason = Linked(f"server {n}", reason)
    cut = bounded(replace(SMALL, reason=reason)).reason
    assert wire_size(replace(SMALL, reason=cut)) < 1000


@pytest.mark.parametrize("reason", [reason for reason, _, _ in TABLE])
def test_a_report_survives_as_plain_values(reason: ExitReason) -> None:
    report = replace(SMALL, reason=reason)
    plain = json.loads(json.dumps(as_plain(report)))
    assert from_plain(plain) == report
    assert plain["restarts"] == 2
    idle = replace(report, message=None)
    assert from_plain(json.loads(json.dumps(as_plain(idle)))) == idle


def test_a_reason_of_a_later_version_is_named() -> None:
    plain = {**as_plain(SMALL), "reason": {"type": "Evaporated", "heat": 100}}
    assert from_plain(plain).reason == Unknown("Evaporated")


def test_a_report_fits_on_a_screen_whatever_it_holds() -> None:
    for report in (HUGE, bounded(HUGE), SMALL, replace(SMALL, stderr=("\x1b[2J\r\n\t€",) * 30)):
        lines = report.text.splitlines()
        assert len(lines) <= LINES
        assert max(map(len, lines)) <= COLUMNS
        assert report.text.replace("\n", "").isprintable()


def test_the_text_says_what_is_known() -> None:
    assert SMALL.text.splitlines()[0] == "visits killed by SIGKILL; restarting"
    for part in (
        "after 2.5 s",
        "incarnation 3 (2 restarts), os pid 4711",
        "asked by: nobody",
        "increment(by=3), 430 bytes, begun 250 ms before, attempt 2",
        "3 waited, 2 casts lost",
        "12.0 MiB in the end, 13.0 MiB at most, OOM kills since its start: 1",
        "    first\n    second",
    ):
        assert part in SMALL.text, part


def test_of_a_long_traceback_the_end_is_shown_and_of_a_long_stack_the_beginning() -> None:
    lines = "\n".join(f"line {n}" for n in range(100))
    traced = replace(SMALL, traceback=lines, stderr=()).text
    assert "line 99\n" in traced + "\n"
    assert "line 60\n" not in traced
    stacked = replace(SMALL, stack=lines, stderr=()).text
    assert "line 8\n" in stacked
    assert "lines)" in stacked


@pytest.mark.parametrize("rule", get_args(Rule))
def test_every_rule_has_its_words(rule: Rule) -> None:
    assert "asked by: " in replace(SMALL, rule=rule).text
    assert f"asked by: {rule}\n" not in replace(SMALL, rule=rule).text


def test_a_traceback_is_where_to_look_first() -> None:
    both = replace(SMALL, traceback="where it crashed", stack="where it was")
    assert both.trace == "where it crashed"
    assert replace(both, traceback="").trace == "where it was"
    assert SMALL.restarts == 2


def test_out_of_memory_is_abnormal_and_a_stop_is_not() -> None:
    assert replace(SMALL, reason=OutOfMemory()).summary.startswith("killed by the system")
    assert replace(SMALL, reason=Shutdown("done"), next="").summary == "was shut down: done"


def test_the_examples_in_the_docstrings_are_true() -> None:
    result = doctest.testmod(report_plain)
    assert result.attempted
    assert not result.failed
