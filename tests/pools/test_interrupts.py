"""What the root answers to who wants to stop a call, whenever that begins."""

from __future__ import annotations

import asyncio
import os
import struct
from collections.abc import Iterator
from time import monotonic
from types import SimpleNamespace
from typing import Any

import pytest

from noex_mp.core.black_box import REQUESTS_OFFSET, REQUESTS_SIZE
from noex_mp.core.stop_requests import TOKEN, StopRequests
from noex_mp.node import interrupts
from noex_mp.node.black_box import BlackBox, Slot, add_request
from noex_mp.node.interrupts import Interrupts

SID, LINK, SEQ = 3, 5, 7


class Worker:
    """What the root sees of a worker, and what that does where a call begins."""

    can_be_signalled = True

    def __init__(self, slot: Slot) -> None:
        self.slot = slot
        self.was_found: bool | None = None
        self._write(begun=0, since=0.0)

    def _write(self, *, begun: int, since: float) -> None:
        fd, start = self.slot
        os.pwrite(fd, struct.pack("@4Qd3Q", LINK, SID, begun, 0, since, 0, 0, 0), start)

    def begin(self) -> None:
        """Begin the call: as the receiver, and then the guard, do it."""
        self._write(begun=SEQ, since=monotonic())
        fd, start = self.slot
        words = memoryview(os.pread(fd, REQUESTS_SIZE, start + REQUESTS_OFFSET)).cast("Q")
        requests = StopRequests(words, lambda: (LINK, SEQ))
        self.was_found = requests.rung_for((LINK, SEQ)) > 0


@pytest.fixture
def worker() -> Iterator[Worker]:
    box = BlackBox()
    yield Worker(box.take())
    box.close()


async def ask(worker: Worker) -> str:
    directory: Any = {SID: SimpleNamespace(worker=worker)}
    root = Interrupts(asyncio.get_running_loop(), directory)
    state, _ = root.methods["interrupt"](SID, LINK, SEQ, TOKEN, 0.0, "a task")
    return str(state)


async def test_a_call_that_begins_just_before_it_is_asked_for_does_not_wait(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    def begin_and_add(*request: Any) -> None:
        worker.begin()
        add_request(*request)

    monkeypatch.setattr(interrupts, "add_request", begin_and_add)
    assert await ask(worker) == "running"
    assert worker.was_found is False


async def test_one_that_is_said_to_wait_finds_the_request_when_it_begins(worker: Worker) -> None:
    assert await ask(worker) == "waiting"
    worker.begin()
    assert worker.was_found is True
