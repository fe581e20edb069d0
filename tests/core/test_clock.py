from __future__ import annotations

import doctest

import pytest

from noex_mp.core import clock as module
from noex_mp.core.clock import Clock, ManualClock, SystemClock


def test_a_manual_clock_stands_still_until_it_is_moved() -> None:
    clock = ManualClock(10.0)
    assert (clock.now(), clock.now()) == (10.0, 10.0)
    clock.advance(0.5)
    clock.advance(0.0)
    assert clock.now() == 10.5


def test_a_manual_clock_never_goes_back() -> None:
    clock = ManualClock()
    with pytest.raises(ValueError, match="got -1; a clock never goes back"):
        clock.advance(-1)
    assert clock.now() == 0.0


def test_the_system_clock_never_goes_back() -> None:
    clock: Clock = SystemClock()
    times = [clock.now() for _ in range(100)]
    assert times == sorted(times)


def test_the_examples_in_the_docstrings_are_true() -> None:
    result = doctest.testmod(module)
    assert result.attempted
    assert not result.failed
