"""The object that all peers serve."""

from __future__ import annotations

import os

__all__ = ["Echo"]


class Echo:
    """Answers, in every way there is. Plain Python: each peer makes an actor of it."""

    def __init__(self) -> None:
        self.noted = 0

    def ping(self, value: int) -> int:
        """Return `value`."""
        return value

    def note(self, value: int) -> None:
        """Count `value` more."""
        self.noted += value

    def seen(self) -> int:
        """Return how many were noted."""
        return self.noted

    def measure(self, data: bytes) -> int:
        """Return the length of `data`."""
        return len(data)

    def os_pid(self) -> int:
        """Return the pid of the process that it lives in."""
        return os.getpid()
