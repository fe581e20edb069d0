"""What a client hears of changes in registries: that there were some, under a key it watches."""

from __future__ import annotations

import asyncio
import itertools
import os
from collections.abc import Callable
from typing import Any

from noex_mp.errors import NodeDownError
from noex_mp.wire.envelopes import UNWATCH_KEY, WATCH_KEY

__all__ = ["KeyWatch", "KeyWatches"]


class KeyWatches:
    """The watched keys of one client."""

    def __init__(self, loop: asyncio.AbstractEventLoop, post: Callable[[list[Any]], None]) -> None:
        self._loop = loop
        self._post = post
        # Not from one: what another process has counted is to mean nothing here.
        self._numbers = itertools.count(int.from_bytes(os.urandom(6), "little"))
        self._known: dict[int, KeyWatch] = {}

    def add(self, registry: str, key: str) -> KeyWatch:
        """Watch a key of a registry from now on."""
        number = next(self._numbers)
        # First: a key that cannot be sent is none to remember.
        self._post([WATCH_KEY, number, registry, key])
        watch = self._known[number] = KeyWatch(self._loop, lambda: self._remove(number))
        return watch

    def _remove(self, number: int) -> None:
        if self._known.pop(number, None) is not None:
            self._post([UNWATCH_KEY, number])

    def heard(self, numbers: list[int]) -> None:
        """Take the root's news."""
        for number in numbers:
            if number in self._known:
                self._known[number].wake()

    def node_down(self) -> None:
        """Note that nothing more comes: the root is gone."""
        watches = list(self._known.values())
        self._known.clear()
        for watch in watches:
            watch.is_lost = True
            watch.wake()


class KeyWatch:
    """One watched key.

    Attributes:
        is_lost: The root is gone.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, remove: Callable[[], None]) -> None:
        self._loop = loop
        self._remove = remove
        # Not an `asyncio.Event`: a thread without an event loop may be what waits.
        self._waiters: list[asyncio.Future[None]] = []
        self._has_news = False
        self.is_lost = False

    def wake(self) -> None:
        """Let whoever waits look again."""
        self._has_news = True
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    async def change(self) -> None:
        """Wait until something may have changed since the last time.

        The first time it is that the key is watched, from now on.

        Raises:
            NodeDownError: The node has stopped.
        """
        if not self._has_news:
            waiter = self._loop.create_future()
            self._waiters.append(waiter)
            await waiter
        self._has_news = False
        if self.is_lost:
            # For whoever waits besides, too.
            self._has_news = True
            raise NodeDownError("the node has stopped")

    def close(self) -> None:
        """Watch no more."""
        self._remove()
