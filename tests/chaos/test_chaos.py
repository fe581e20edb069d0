"""Twenty seconds of chaos; `make chaos` has more of it."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

# Beside another test on two cores: what is tried is that nothing is lost, not how fast it is.
RUN = ("--seconds", "20", "--servers", "50", "--kills", "330", "--rate", "1000", "--json")


@pytest.mark.slow
@pytest.mark.linux_only("the run looks at /proc")
@pytest.mark.timeout(120)
def test_each_message_has_its_end_and_nothing_is_left_of_what_died() -> None:
    command = [sys.executable, "-m", "tests.chaos", *RUN]
    done = subprocess.run(command, capture_output=True, text=True, timeout=110, check=False)
    assert done.stdout, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    assert found["faults"] == [], done.stderr
    assert done.returncode == 0
    assert found["deaths"] >= 300
    assert found["audit"]["replied"] > 10_000
    assert found["audit"]["handled"] > 5_000
