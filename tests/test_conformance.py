"""Keeps docs/otp-conformance.md, docs/moving-from-noex.md and docs/pools.md honest."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

from tests.processes.harness import REPOSITORY

OTP = REPOSITORY / "docs" / "otp-conformance.md"
NOEX = REPOSITORY / "docs" / "moving-from-noex.md"
POOLS = REPOSITORY / "docs" / "pools.md"
SEMANTICS = REPOSITORY / "docs" / "semantics.md"

TEST = re.compile(r"`([\w/]+\.py)::(\w+)`")
PROMISE = re.compile(r"`([a-z]+-\d+)`")


def rows(text: str) -> list[tuple[str, str]]:
    """Return what stands in the two columns of all tables, without their heads."""
    lines = [line.strip("| ").split(" | ", 1) for line in text.splitlines() if line[:1] == "|"]
    return [(row[0], row[1]) for row in lines if len(row) == 2 and "Here" not in row[1][:5]]


@cache
def functions_of(path: Path) -> set[str]:
    """Return the functions that stand in a module, at its top."""
    body = ast.parse(path.read_text()).body
    return {each.name for each in body if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef)}


@pytest.mark.parametrize("page", [OTP, NOEX, POOLS], ids=lambda page: page.stem)
def test_every_test_and_promise_that_is_named_is_there(page: Path) -> None:
    text = page.read_text()
    named = TEST.findall(text)
    assert len(named) > 10
    missing = [
        f"{path}::{name}"
        for path, name in named
        if not (REPOSITORY / "tests" / path).exists()
        or name not in functions_of(REPOSITORY / "tests" / path)
    ]
    promises = re.findall(r"^- `([a-z]+-\d+)`", SEMANTICS.read_text(), re.MULTILINE)
    assert missing == []
    assert set(PROMISE.findall(text)) - set(promises) == set()


@pytest.mark.parametrize("page", [OTP, NOEX], ids=lambda page: page.stem)
def test_every_row_names_a_test_or_a_reason(page: Path) -> None:
    before = ""
    for case, here in rows(page.read_text()):
        if re.match(r"Not here: likewise", here):
            # Like the row above it.
            assert before.startswith("Not here: "), case
        elif not re.match(r"(Not here|Later): \w.{20,}\.", here):
            assert TEST.search(here) or PROMISE.search(here), case
        before = here


def test_all_cases_of_otp_are_there_once() -> None:
    text, _, _ = OTP.read_text().partition("\n## Elixir")
    cases = [case.strip("`") for case, _ in rows(text)]
    said = re.search(r"all (\d+) cases", text)
    assert said is not None
    assert len(set(cases)) == len(cases) == int(said[1])


def test_all_defects_that_the_survey_numbers_are_there() -> None:
    numbers = [int(row[0].split()[0]) for row in rows(NOEX.read_text()) if row[0][:1].isdigit()]
    # 29 is none of the survey's numbers.
    assert numbers == [*range(1, 29), *range(30, 45), *range(50, 57), 170]
