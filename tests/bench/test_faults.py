"""The experiments with pools: what they say of a pool that is well known."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.slow
def test_an_experiment_says_what_came_of_it() -> None:
    words = ("--side", "executor", "--only", "two_arguments")
    done = subprocess.run(
        [sys.executable, "-m", "bench.faults", *words],
        capture_output=True, text=True, timeout=15, check=True,
    )  # fmt: skip
    assert "two_arguments" in done.stdout
    assert "then refuses: BrokenProcessPool" in done.stdout
