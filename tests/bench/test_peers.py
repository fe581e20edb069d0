"""The comparison with other libraries: one that fails or hangs costs a row, and says why."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any, ClassVar

import pytest

from bench.peers import __main__ as peers
from bench.peers.operations import OPERATIONS, Peer, drive, run


class Blocking(Peer):
    """Answers at once, and lacks most."""

    title = "Blocking"
    lacks: ClassVar[dict[str, str]] = {o: "not offered" for o in OPERATIONS if o != "calls"}

    def open(self) -> None:
        """Note in which world it runs."""
        with pytest.raises(RuntimeError):
            asyncio.get_running_loop()

    def close(self) -> None:
        """Do nothing."""

    def ping(self, value: int) -> int:
        """Return `value`."""
        return value


class Wrong(Blocking):
    """Answers with something else."""

    def ping(self, value: int) -> int:
        """Return what was not asked for."""
        return -1


def found_by(peer: Peer) -> dict[str, Any]:
    found: dict[str, Any] = {}

    async def main() -> None:
        found.update({operation: numbers async for operation, numbers in run(peer)})

    drive(peer, main())
    return found


def test_a_blocking_peer_runs_without_an_event_loop() -> None:
    found = found_by(Blocking())
    assert found["calls"].keys() == {"p50", "p99"}
    assert found["kill"] == "not offered"


def test_a_wrong_answer_costs_that_operation() -> None:
    assert found_by(Wrong())["calls"].startswith("AssertionError")


def test_a_peer_that_is_not_installed_costs_its_row_and_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(peers.ADAPTERS, "absent", "bench.peers.absent:Absent")
    report = peers._report(  # pyright: ignore[reportPrivateUsage]
        ["executor", "absent"],
        [
            {
                "floor": {"calls": {"p50": 10.0, "p99": 20.0}},
                "executor": {"calls": {"p50": 80.0, "p99": 200.0}, "one_way": "no such thing"},
                "absent": {"calls": "ModuleNotFoundError: absent"},
            }
        ],
    )
    rows = {line.split("|")[1].strip(): line for line in report.splitlines() if "|" in line}
    assert rows["ProcessPoolExecutor"].replace(" ", "") == (
        "|ProcessPoolExecutor|80.0|200|-|-|-|-|-|8.0|"
    )
    assert rows["absent"].count(" - ") == 7
    assert "one_way: no such thing" in report
    assert "- absent: No module named" in report


def test_a_peer_that_hangs_costs_its_time_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "TIME_LIMIT", 0.0)
    found = peers._in_a_process("executor")  # pyright: ignore[reportPrivateUsage]
    assert set(found.values()) == {"took more than 0 s"}
    assert found.keys() == OPERATIONS.keys()


NO_VENV = """#!/bin/sh
case "$2" in *ensurepip*) exit 1 ;; esac
"""


@pytest.mark.skipif(shutil.which("make") is None, reason="there is no make here")
@pytest.mark.parametrize(("target", "variable"), [("bench", "VENV"), ("bench-peers", "PEERS_VENV")])
def test_make_names_the_package_that_is_missing(tmp_path: Path, target: str, variable: str) -> None:
    python = tmp_path / "python3"
    python.write_text(NO_VENV)
    python.chmod(0o755)
    words = ["make", target, f"PYTHON={python}", f"{variable}={tmp_path / 'venv'}"]
    folder = Path(__file__).parents[2]
    # Not the options of the make that may run these tests.
    environment = {"PATH": os.environ["PATH"]}
    done = subprocess.run(
        words, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "has no venv module. On Debian: apt install python3-venv" in done.stderr
