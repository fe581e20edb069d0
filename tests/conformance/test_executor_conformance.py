"""CPython's own tests of its process pool, against ours, and the page that says which do not apply.

`make conformance` runs all of them; this, some of one start method.
"""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from tests.conformance.__main__ import NO_SUITE
from tests.conformance.suite import NOT_HERE, PAGE, SKIPPED, listed
from tests.processes.harness import REPOSITORY

PARTS = [
    "AsCompleted",
    "ExecutorDeadlock",
    "*Initializer",
]


@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.parametrize("part", PARTS)
def test_what_their_executor_has_to_do_ours_does(part: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.conformance", "--fast", f"ProcessPoolSpawn{part}Test.*"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode == NO_SUITE:
        pytest.skip(done.stdout.strip())
    assert done.returncode == 0, done.stdout + done.stderr


ROWS = listed(NOT_HERE) | listed(SKIPPED)


def test_each_row_gives_a_reason_and_names_tests_that_are_there() -> None:
    assert len(listed(NOT_HERE)) > 5
    for test, reason in ROWS.items():
        assert re.fullmatch(r"(Later: )?\w.{20,}\.", reason), test
        for path, name in re.findall(r"`([\w/]+\.py)::(\w+)`", reason):
            assert f"def {name}(" in (REPOSITORY / "tests" / path).read_text(), test


def test_no_row_stands_twice() -> None:
    assert len(re.findall(r"^\| `\w+\.\w+` \|", PAGE.read_text(), re.MULTILINE)) == len(ROWS)
