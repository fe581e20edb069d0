"""Runs measurements against each other and judges them.

A measurement is run in a fresh process, pinned to core 0 unless it says otherwise. One round runs
each of them once, in shuffled order; so whatever the machine does meanwhile, it does to all. What
is reported is the median over the rounds, and ratios are taken inside a round before that: a
number is compared with the floor that the same round found.
"""

from __future__ import annotations

import json
import os
import random
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Literal

from bench.floor import Numbers

__all__ = [
    "Measurement",
    "Result",
    "Round",
    "Row",
    "Source",
    "as_json",
    "judge",
    "measure_here",
    "rounds_of",
    "table",
]

TIME_LIMIT = 120.0
"""How long one run of one measurement may take, in seconds."""


@dataclass(frozen=True)
class Measurement:
    """Something that is run: a function and how to run it.

    Attributes:
        run: Returns what it found, by name. Called in a fresh process.
        pinned: Everything on core 0, so that the scheduler's choice is no part of the number.
    """

    run: Callable[[], Numbers]
    pinned: bool = True


Source = tuple[str, str]
"""A measurement, and the name of a number in what it finds."""


@dataclass(frozen=True)
class Row:
    """One line of the table: a number, and what it must reach.

    Attributes:
        source: The measurement and the number's name in it: `("call", "p50")`.
        against: What it is divided by, likewise. None: `must` and `aim` are in `unit`.
        or_against: Further ones: the ratio is that to whichever is the best, by these medians.
        more_is_better: `must` is a lower bound, else an upper one.
    """

    name: str
    source: Source
    unit: str
    must: float | None = None
    aim: float | None = None
    against: Source | None = None
    or_against: tuple[Source, ...] = ()
    more_is_better: bool = False

    def needs(self) -> set[str]:
        """Return the names of the measurements that this row is made of."""
        return {self.source[0]} | {name for name, _ in self.rivals()}

    def rivals(self) -> tuple[Source, ...]:
        """Return what it is compared with."""
        return (self.against, *self.or_against) if self.against else ()


Round = Mapping[str, Numbers | str]
"""What one round found, by measurement; a string says why there is nothing."""

Verdict = Literal["aim", "must", "MISSED", "FAILED", ""]


@dataclass(frozen=True)
class Result:
    """A row with its numbers.

    Attributes:
        value: The median over the rounds, in the row's unit.
        low: The smallest of the rounds; `high` the largest.
        ratio: The median of the rounds' ratios to what it is compared with; of several, to the
            one against which it is the worst.
        verdict: What it reached: its aim, what it must, or neither.
        error: Why there are no numbers.
    """

    row: Row
    value: float | None = None
    low: float | None = None
    high: float | None = None
    ratio: float | None = None
    verdict: Verdict = ""
    error: str = ""


# --- running -----------------------------------------------------------------------------------


def rounds_of(
    measurements: Mapping[str, Measurement],
    count: int,
    *,
    seed: int | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> list[Round]:
    """Run every measurement `count` times, interleaved."""
    order = random.Random(seed)
    rounds: list[Round] = []
    for number in range(1, count + 1):
        names = list(measurements)
        order.shuffle(names)
        found: dict[str, Numbers | str] = {}
        for name in names:
            progress(f"round {number}/{count}: {name}")
            found[name] = _in_fresh_process(name)
        rounds.append(found)
    return rounds


def _in_fresh_process(name: str) -> Numbers | str:
    command = [sys.executable, "-m", "bench", "--measure", name]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=TIME_LIMIT, check=False
        )
    except subprocess.TimeoutExpired:
        return f"took more than {TIME_LIMIT:g} s"
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        return lines[-1]
    numbers: Numbers = json.loads(done.stdout.splitlines()[-1])
    return numbers


def measure_here(measurement: Measurement) -> Numbers:
    """Run a measurement in this process, which is there for nothing else."""
    if measurement.pinned and sys.platform == "linux":
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    return measurement.run()


# --- judging -----------------------------------------------------------------------------------


def judge(row: Row, rounds: Sequence[Round]) -> Result:
    """Return what `rounds` say about `row`."""
    errors = [text for r in rounds for name in row.needs() if isinstance(text := r[name], str)]
    if errors:
        return Result(row, error=errors[0], verdict="FAILED")
    values = [_number(r, row.source) for r in rounds]
    ratio = None
    if rivals := row.rivals():
        # Not to the best of each round: of several that are as good as ours, and waver as ours
        # does, one is ahead in most rounds.
        worst = min if row.more_is_better else max
        ratio = worst(
            statistics.median(
                value / _number(r, rival) for value, r in zip(values, rounds, strict=True)
            )
            for rival in rivals
        )
    value = statistics.median(values)
    verdict = _verdict(row, value if ratio is None else ratio)
    return Result(row, value, min(values), max(values), ratio, verdict)


def _number(found: Round, source: Source) -> float:
    numbers = found[source[0]]
    assert not isinstance(numbers, str)
    return numbers[source[1]]


def _verdict(row: Row, reached: float) -> Verdict:
    sign = -1 if row.more_is_better else 1
    if row.must is None:
        return ""
    if row.aim is not None and sign * reached <= sign * row.aim:
        return "aim"
    return "must" if sign * reached <= sign * row.must else "MISSED"


# --- showing -----------------------------------------------------------------------------------


def table(results: Iterable[Result]) -> str:
    """Return the results as text, a line each."""
    head = ("", "median", "lowest", "highest", "unit", "ratio", "must", "aim", "")
    lines = [head, *(_cells(result) for result in results)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    return "\n".join(
        "  ".join(
            # Names and units read from the left, numbers from the right.
            cell.ljust(width) if i in {0, 4, 8} else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def _cells(result: Result) -> tuple[str, ...]:
    row = result.row
    if result.error:
        return (row.name, "", "", "", row.unit, "", _bound(row, row.must), _bound(row, row.aim),
                f"FAILED: {result.error}")  # fmt: skip
    ratio = "" if result.ratio is None else f"x {result.ratio:.2f}"
    return (
        row.name,
        _short(result.value),
        _short(result.low),
        _short(result.high),
        row.unit,
        ratio,
        _bound(row, row.must),
        _bound(row, row.aim),
        result.verdict,
    )


def _short(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _bound(row: Row, bound: float | None) -> str:
    if bound is None:
        return ""
    return f"{'>=' if row.more_is_better else '<='} {'x ' if row.against else ''}{bound:g}"


def as_json(results: Iterable[Result], rounds: Sequence[Round]) -> str:
    """Return the results, and every number behind them, as JSON."""
    rows = [{**asdict(result), **asdict(result.row)} for result in results]
    for row in rows:
        del row["row"]
    return json.dumps({"rows": rows, "rounds": rounds}, indent=1)
