"""The time, as something that can be passed in.

Decisions take `now` as an argument; whoever carries them out reads it from a `Clock`. A test
brings a `ManualClock` and needs no sleep.

```python
>>> clock = ManualClock()
>>> clock.advance(2.5)
>>> clock.now()
2.5

```
"""

from __future__ import annotations

import time
from typing import Protocol

__all__ = ["Clock", "ManualClock", "SystemClock"]


class Clock(Protocol):
    """Whoever knows what time it is."""

    def now(self) -> float:
        """Return seconds since some fixed moment; never less than before."""
        ...


class SystemClock:
    """The machine's monotonic clock."""

    def now(self) -> float:
        """Return the machine's monotonic time, in seconds; comparable between its processes."""
        return time.monotonic()


class ManualClock:
    """A clock that stands still until it is told to move, for tests.

    Args:
        start: What it shows at first, in seconds.
    """

    def __init__(self, start: float = 0.0) -> None:
        self._now = start

    def now(self) -> float:
        """Return what the clock shows, in seconds."""
        return self._now

    def advance(self, seconds: float) -> None:
        """Move the clock forward.

        Raises:
            ValueError: `seconds` is negative; a monotonic clock never goes back.
        """
        if seconds < 0:
            raise ValueError(f"expected seconds >= 0, got {seconds:g}; a clock never goes back")
        self._now += seconds
