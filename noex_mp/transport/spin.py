"""Waiting for an answer without going to sleep: `Node(latency="spin")`.

To wake a process on another core takes 25 to 50 µs on a virtual machine, whatever its code does,
and a call needs two of these. So whoever has just sent something lets its loop look for the answer
for a moment, instead of letting it sleep: the loop runs on, with everything else that it has to do,
and only does not block.

It is adaptive: where the answers do not come in that moment, it tries less and less often, and
where they come again, as often as before. A loop that waits for nothing does not spin.
"""

from __future__ import annotations

import asyncio
from time import monotonic
from typing import Any, Final

from noex_mp.transport.link import Link

__all__ = ["Spinner", "SpinningLink"]

# How long to look for an answer, in seconds: four times what a wake-up takes.
SPIN: Final = 100e-6

# So many misses in a row are chance; after more, every second answer is slept for, then three of
# four ...
PATIENCE: Final = 3
# ... up to so many.
MOST: Final = 256


class Spinner:
    """Keeps one loop from going to sleep for a moment."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._until = 0.0
        self._waits = False
        self._turning = False
        self._misses = 0
        self._pause = 0

    def expect(self) -> None:
        """Something was sent to which there will be an answer."""
        self._waits = True
        if self._turning:
            self._until = monotonic() + SPIN
        elif self._pause:
            self._pause -= 1
        else:
            self._until = monotonic() + SPIN
            self._turning = True
            self._loop.call_soon(self._turn)

    def arrived(self) -> None:
        """Something has come."""
        self._waits = False

    def link(self, *positional: Any, **options: Any) -> Link:
        """Return a link of this loop."""
        return SpinningLink(*positional, spinner=self, **options)

    def _turn(self) -> None:
        if not self._waits:
            self._turning = False
            self._misses = 0
        elif monotonic() < self._until:
            self._loop.call_soon(self._turn)
        else:
            self._turning = False
            self._misses += 1
            if self._misses > PATIENCE:
                self._pause = min(MOST, 1 << (self._misses - PATIENCE))


class SpinningLink(Link):
    """A link that keeps its loop awake while an answer may be near."""

    __slots__ = ("_spinner",)

    def __init__(
        self, loop: asyncio.AbstractEventLoop, *positional: Any, spinner: Spinner, **options: Any
    ) -> None:
        self._spinner = spinner
        super().__init__(loop, *positional, **options)

    def send(self, data: bytes) -> None:
        """Send one message at once, and look out for what comes of it."""
        super().send(data)
        self._spinner.expect()

    def read(self) -> bool:
        """Read once and hand on what came."""
        self._spinner.arrived()
        return super().read()
