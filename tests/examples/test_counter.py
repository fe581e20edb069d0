"""The counter example prints what its reader expects."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_the_counter_comes_back_from_the_dead() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "examples.counter"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=15,
        check=False,
    )
    assert done.returncode == 0
    logged = r"Counter killed by SIGKILL; restarting \(os pid \d+\)\n"
    assert re.fullmatch(logged, done.stderr)
    assert done.stdout.splitlines() == [
        "increment by 3: 13",
        "break down: Counter ended in the middle of the call: killed by SIGKILL; restarting",
        "increment: 11",
        "increment after a reset: 1",
    ]
