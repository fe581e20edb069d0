"""How the benchmark judges what it has measured."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from bench import floor
from bench.__main__ import named
from bench.cases import MEASUREMENTS, ROWS
from bench.harness import Round, Row, Verdict, as_json, judge, table

ROUNDS: list[Round] = [
    {"floor": {"p50": 8.0}, "call": {"p50": 16.0}},
    {"floor": {"p50": 20.0}, "call": {"p50": 40.0}},  # a slow moment, for both
    {"floor": {"p50": 10.0}, "call": {"p50": 30.0}},
]
CALL = Row("call", ("call", "p50"), "µs", 2.4, 1.8, ("floor", "p50"))


def test_a_ratio_is_taken_inside_each_round() -> None:
    result = judge(CALL, ROUNDS)
    assert (result.value, result.low, result.high, result.ratio) == (30.0, 16.0, 40.0, 2.0)
    assert result.verdict == "must"


@pytest.mark.parametrize(
    ("reached", "more_is_better", "verdict"),
    [
        (2.0, False, "aim"),
        (2.1, False, "must"),
        (3.0, False, "must"),
        (3.1, False, "MISSED"),
        (3.0, True, "aim"),
        (2.9, True, "must"),
        (2.0, True, "must"),
        (1.9, True, "MISSED"),
    ],
)
def test_a_bound_itself_is_still_good(
    reached: float, more_is_better: bool, verdict: Verdict
) -> None:
    must, aim = (2.0, 3.0) if more_is_better else (3.0, 2.0)
    row = Row("x", ("x", "ms"), "ms", must, aim, more_is_better=more_is_better)
    assert judge(row, [{"x": {"ms": reached}}]).verdict == verdict


def test_a_number_without_a_bound_is_not_judged() -> None:
    assert judge(Row("x", ("x", "ms"), "ms"), [{"x": {"ms": 1.0}}]).verdict == ""


@pytest.mark.parametrize("broken", ["floor", "call"])
def test_one_failed_run_fails_the_row_and_says_why(broken: str) -> None:
    rounds: list[Round] = [*ROUNDS, {**ROUNDS[0], broken: "took more than 120 s"}]
    result = judge(CALL, rounds)
    assert result.verdict == "FAILED"
    assert "took more than 120 s" in table([result])


@pytest.mark.parametrize(("more_is_better", "ratio"), [(False, 2.0), (True, 0.5)])
def test_of_several_the_best_by_the_medians_is_what_it_is_compared_with(
    more_is_better: bool, ratio: float
) -> None:
    rounds: list[Round] = [
        {"ours": {"n": 4.0}, "a": {"n": 2.0}, "b": {"n": 8.0}},
        {"ours": {"n": 4.0}, "a": {"n": 2.0}, "b": {"n": 8.0}},
        # What one round finds is chance.
        {"ours": {"n": 4.0}, "a": {"n": 40.0}, "b": {"n": 0.4}},
    ]
    row = Row(
        "x", ("ours", "n"), "", None, None, ("a", "n"), (("b", "n"),), more_is_better=more_is_better
    )
    assert judge(row, rounds).ratio == ratio


def test_a_group_is_named_by_what_stands_before_the_dot() -> None:
    assert named("pools") == [name for name in MEASUREMENTS if name.startswith("pools.")]
    assert named("call") == ["call"]
    assert named("poo") == []


def test_the_table_has_a_line_for_each_row() -> None:
    head, line = table([judge(CALL, ROUNDS)]).splitlines()
    assert head.split() == ["median", "lowest", "highest", "unit", "ratio", "must", "aim"]
    assert line.split("  ")[-1] == "must"
    assert "x 2.00" in line
    assert "<= x 2.4" in line


def test_the_json_holds_the_rows_and_every_round() -> None:
    read = json.loads(as_json([judge(CALL, ROUNDS)], ROUNDS))
    assert read["rows"][0]["name"] == "call"
    assert read["rows"][0]["ratio"] == 2.0
    assert read["rounds"] == ROUNDS


def test_every_row_is_made_of_measurements_that_exist() -> None:
    assert {name for row in ROWS for name in row.needs()} == set(MEASUREMENTS)


def test_percentiles_are_in_microseconds() -> None:
    assert floor.percentiles(range(1000, 101_000, 1000)) == {"p50": 50.5, "p99": 100.0}


def test_the_runtime_without_its_promises_is_still_made_of_its_source() -> None:
    code = "import bench.bare; from noex_mp.client.route import Route; print(Route.invoke.__name__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("invoke\n", "")
