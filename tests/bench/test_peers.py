"""The comparison with other libraries: one that fails or hangs costs a row, and says why."""

from __future__ import annotations

import asyncio
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
