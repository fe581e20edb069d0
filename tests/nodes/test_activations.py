"""What a handler waits for: the calls that it has made and that have no reply yet."""

from __future__ import annotations

from typing import Any

import pytest

from noex_mp.worker.activation import Activation

ROUTE: Any = "a route"
NOBODY: Any = None


class Asked:
    """Stands for the future of a call; counts how often it is asked whether it is done."""

    times = 0

    def __init__(self, *, done: bool = False) -> None:
        self.is_done = done

    def done(self) -> bool:
        Asked.times += 1
        return self.is_done


@pytest.fixture
def running() -> Activation:
    Asked.times = 0
    return Activation(NOBODY, None, [])


def test_thousands_of_calls_at_once_are_not_looked_through_for_each(running: Activation) -> None:
    futures: list[Any] = [Asked() for _ in range(10_000)]
    for seq, future in enumerate(futures):
        running.remember(future, ROUTE, seq)
    assert running.calls is not None
    assert list(running.calls) == futures
    assert Asked.times < 2 * len(futures)


def test_calls_that_have_their_reply_are_forgotten(running: Activation) -> None:
    waiting: Any = Asked()
    running.remember(waiting, ROUTE, 0)
    most = 0
    for seq in range(1, 10_000):
        future: Any = Asked(done=True)
        running.remember(future, ROUTE, seq)
        assert running.calls is not None
        most = max(most, len(running.calls))
        assert waiting in running.calls
    assert most <= 64
    assert Asked.times < 20_000
