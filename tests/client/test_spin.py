"""Spinning: how long a loop looks for an answer before it goes to sleep."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from noex_mp import ConfigError, Node
from noex_mp.transport import spin
from noex_mp.transport.spin import MOST, PATIENCE, SPIN, Spinner


class Loop:
    """A loop whose turns the test takes, and its clock."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.ready: list[Callable[[], None]] = []
        self.now = 100.0
        monkeypatch.setattr(spin, "monotonic", lambda: self.now)

    def call_soon(self, callback: Callable[[], None]) -> None:
        self.ready.append(callback)

    def turn(self, seconds: float = SPIN / 10) -> bool:
        """Take one turn; return whether the loop would sleep after it."""
        self.now += seconds
        ready, self.ready = self.ready, []
        for callback in ready:
            callback()
        return not self.ready


@pytest.fixture
def loop(monkeypatch: pytest.MonkeyPatch) -> Loop:
    return Loop(monkeypatch)


def spinner_on(loop: Loop) -> Spinner:
    fake: Any = loop
    return Spinner(fake)


def test_a_loop_looks_for_the_answer_for_a_moment_and_sleeps_then(loop: Loop) -> None:
    spinner = spinner_on(loop)
    spinner.expect()
    turns = 0
    while not loop.turn():
        turns += 1
    assert 9 <= turns <= 11


def test_a_loop_sleeps_as_soon_as_the_answer_is_there(loop: Loop) -> None:
    spinner = spinner_on(loop)
    spinner.expect()
    assert not loop.turn()
    spinner.arrived()
    assert loop.turn()


def test_answers_that_never_come_in_time_are_slept_for_more_and_more(loop: Loop) -> None:
    spinner = spinner_on(loop)
    spun: list[bool] = []
    for _ in range(10_000):
        spinner.expect()
        spun.append(bool(loop.ready))
        while not loop.turn(SPIN):
            pass
    assert all(spun[: PATIENCE + 1])
    assert sum(spun[-5000:]) <= 5000 / MOST + 1


def test_one_answer_in_time_makes_it_try_as_often_as_before(loop: Loop) -> None:
    spinner = spinner_on(loop)
    for _ in range(2 * PATIENCE):
        spinner.expect()
        while not loop.turn(SPIN):
            pass
    while not loop.ready:
        spinner.expect()
    spinner.arrived()
    loop.turn()
    for _ in range(PATIENCE + 1):
        spinner.expect()
        assert loop.ready
        while not loop.turn(SPIN):
            pass


def test_there_is_no_other_latency() -> None:
    latency: Any = "low"
    with pytest.raises(ConfigError, match="expected latency to be \"spin\" or None, got 'low'"):
        Node(latency=latency)
