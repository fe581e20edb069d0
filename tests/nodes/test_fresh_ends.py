"""How long an end is kept for those who have asked before it, and are read after it."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any, Self, cast

import pytest

from noex_mp.node.fresh_ends import End, FreshEnds
from noex_mp.transport.loops import new_event_loop

END = End(cast("Any", SimpleNamespace(sid=1, name="visits")), None)


@pytest.fixture(params=[new_event_loop, asyncio.new_event_loop])
def loop(request: pytest.FixtureRequest) -> Iterator[asyncio.AbstractEventLoop]:
    loop = cast("Callable[[], asyncio.AbstractEventLoop]", request.param)()
    yield loop
    loop.close()


class Sockets:
    """Two sockets of a loop; what comes by the second looks for the end."""

    def __init__(self, loop: asyncio.AbstractEventLoop, ends: FreshEnds) -> None:
        self.found: End | None = None
        self._loop, self._ends = loop, ends
        self._pairs = [socket.socketpair(), socket.socketpair()]

    def __enter__(self) -> Self:
        for (near, _), read in zip(self._pairs, (self._end, self._ask), strict=True):
            self._loop.add_reader(near, read)
        return self

    def __exit__(self, *_: object) -> None:
        for near, far in self._pairs:
            self._loop.remove_reader(near)
            near.close()
            far.close()

    def send(self, *which: int) -> None:
        for number in which:
            self._pairs[number][1].send(b"x")

    def _end(self) -> None:
        self._pairs[0][0].recv(1)
        with self._ends.reading():
            self._ends.add(END)

    def _ask(self) -> None:
        self._pairs[1][0].recv(1)
        self.found = self._ends.of("visits")
        self._loop.stop()


def test_who_is_read_after_an_end_that_came_together_with_it_finds_it(
    loop: asyncio.AbstractEventLoop,
) -> None:
    with Sockets(loop, FreshEnds(loop)) as sockets:
        sockets.send(0, 1)
        loop.run_forever()
        assert sockets.found is END


def test_who_comes_after_an_end_in_a_task_does_not_find_it(
    loop: asyncio.AbstractEventLoop,
) -> None:
    ends = FreshEnds(loop)
    with Sockets(loop, ends) as sockets:

        async def end() -> None:
            ends.add(END)
            sockets.send(1)

        task = loop.create_task(end())
        loop.run_forever()
        assert task.done()
        assert sockets.found is None
