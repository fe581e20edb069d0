"""What signals mean to a running node."""

from __future__ import annotations

import asyncio
from signal import SIGHUP, SIGINT, SIGTERM, Signals

from noex_mp.cli.signals import StopRequests


class Stops:
    """What has been asked for, and when it was for the first time."""

    def __init__(self) -> None:
        self.log: list[tuple[str, Signals]] = []
        self.stopping = asyncio.Event()
        loop = asyncio.get_running_loop()
        self.requests = StopRequests(loop, self._in_order, self._at_once, self._again)

    def _in_order(self, number: Signals) -> None:
        self.log.append(("in order", number))
        self.stopping.set()

    def _at_once(self, number: Signals) -> None:
        self.log.append(("at once", number))

    def _again(self, number: Signals) -> None:
        self.log.append(("again", number))


async def test_the_first_stops_in_order_and_ctrl_c_after_it_at_once() -> None:
    stops = Stops()
    stops.requests.receive(SIGINT)
    await stops.stopping.wait()
    for number in (SIGTERM, SIGHUP, SIGINT):
        stops.requests.receive(number)
    further = [("again", SIGTERM), ("again", SIGHUP), ("at once", SIGINT)]
    assert stops.log == [("in order", SIGINT), *further]


async def test_a_signal_that_comes_by_two_ways_counts_once() -> None:
    stops = Stops()
    stops.requests.receive(SIGTERM)
    stops.requests.receive(SIGTERM)
    assert stops.log == []  # nothing shows that somebody could answer
    await stops.stopping.wait()
    assert stops.log == [("in order", SIGTERM)]


async def test_another_signal_is_no_echo() -> None:
    stops = Stops()
    stops.requests.receive(SIGTERM)
    stops.requests.receive(SIGINT)
    assert stops.log == [("in order", SIGTERM), ("at once", SIGINT)]
