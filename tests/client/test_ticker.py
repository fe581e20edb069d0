"""The ticker: it ticks between start and stop, with a timerfd and without."""

from __future__ import annotations

import asyncio

import pytest

from noex_mp.transport import ticker
from noex_mp.transport.ticker import Ticker


@pytest.mark.parametrize("has_timerfd", [True, False])
async def test_it_ticks_from_start_to_stop_and_again(
    has_timerfd: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not has_timerfd:
        monkeypatch.setattr(ticker, "_timerfd", lambda: -1)
    ticks: asyncio.Queue[None] = asyncio.Queue()
    steady = Ticker(asyncio.get_running_loop(), 0.001, lambda: ticks.put_nowait(None))
    for _ in range(2):
        steady.start()
        for _ in range(3):
            await ticks.get()
        steady.stop()
        while not ticks.empty():
            ticks.get_nowait()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(ticks.get(), 0.05)
    steady.close()


async def test_it_can_be_closed_twice_and_before_it_was_started() -> None:
    steady = Ticker(asyncio.get_running_loop(), 0.001, print)
    steady.close()
    steady.close()
