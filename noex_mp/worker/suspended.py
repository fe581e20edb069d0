"""Coroutines that were begun outside of the task that goes on with them."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Generator
from functools import partial
from typing import Any, NamedTuple

__all__ = ["GoOn", "Suspended"]


class Suspended(NamedTuple):
    """What an `async` operation gives instead of a result when it comes to wait."""

    coroutine: Coroutine[Any, Any, Any]
    waits_for: Any


class GoOn:
    """Awaits the rest of a coroutine that has been begun and waits for something.

    Attributes:
        cancelled: Whether its task was cancelled before it could take over.
    """

    def __init__(self, coroutine: Coroutine[Any, Any, Any], waits_for: Any) -> None:
        self._coroutine = coroutine
        self._waits_for = waits_for
        self.cancelled = False

    def __await__(self) -> Generator[Any, Any, Any]:
        while True:
            try:
                if self.cancelled:
                    self.cancelled = False
                    # As a task does it: what it waits for is cancelled, and then it is.
                    if self._waits_for is None or not self._waits_for.cancel():
                        raise asyncio.CancelledError
                sent = yield self._waits_for
            except BaseException as error:
                step = partial(self._coroutine.throw, error)
            else:
                step = partial(self._coroutine.send, sent)
            try:
                self._waits_for = step()
            except StopIteration as end:
                return end.value
