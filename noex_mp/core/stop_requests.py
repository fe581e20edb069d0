"""What the root asks a worker to stop: the calls that it runs, or has yet to begin.

The requests lie in memory that both have mapped (`core.black_box` has the layout), since a worker
that computes reads no message. Whoever runs something that may be stopped looks there.

A request names a call by the link on which it came and its number there, and says how far to go:

1. `TOKEN`: the call's code is told when it asks; a call that has not begun is not begun.
2. `CANCEL`: the task of an `async` function is cancelled.
3. `EXCEPTION`: an exception is raised in the main thread.
4. `KILL`: the process is killed. That is the root's to do.

Promise: no I/O; the memory is given by the worker.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Literal, TypeAlias

from noex_mp.core.black_box import (
    ASKED,
    FIRST_REQUEST,
    HEARD,
    REQUEST_WORDS,
    REQUESTS,
    REQUESTS_SIZE,
)

__all__ = [
    "CANCEL",
    "EXCEPTION",
    "KILL",
    "TOKEN",
    "CallState",
    "StopRequests",
    "install",
    "installed",
    "next_rung",
    "state_of",
]

TOKEN: Final = 1
CANCEL: Final = 2
EXCEPTION: Final = 3
KILL: Final = 4

CallState: TypeAlias = Literal["waiting", "running", "over", "gone"]
"""Where a call is: not begun; running; over, or about to begin; nowhere, for want of a process."""


def state_of(seq: int, begun: int, since: float) -> CallState:
    """Return where a call is.

    Args:
        seq: Its number.
        begun: The number of the last that has begun.
        since: Since when something is worked on; 0 if nothing is.

    >>> state_of(7, begun=6, since=1.5), state_of(7, begun=7, since=1.5), state_of(7, 7, 0.0)
    ('waiting', 'running', 'over')
    """
    if begun < seq:
        return "waiting"
    return "running" if begun == seq and since else "over"


def next_rung(rung: int) -> int:
    """Return how far to go after this; 0 is nowhere yet.

    >>> next_rung(0), next_rung(EXCEPTION), next_rung(KILL)
    (1, 4, 4)
    """
    return min(rung + 1, KILL)


class StopRequests:
    """The requests of one worker.

    Attributes:
        words: The memory in which they lie.
        running: Returns which call runs: on which link it came, and its number there.
    """

    __slots__ = ("running", "words")

    def __init__(self, words: memoryview, running: Callable[[], tuple[int, int] | None]) -> None:
        self.words = words
        self.running = running

    def rung_for(self, call: tuple[int, int]) -> int:
        """Return how far to go with a call; 0 if nobody wants to stop it."""
        return max((rung for asked, rung in self._all() if asked == call), default=0)

    def concern_later(self, call: tuple[int, int]) -> bool:
        """Return whether one concerns a call that comes behind this one on its link."""
        link, seq = call
        return any(asked[0] == link and asked[1] > seq for asked, _ in self._all())

    def note_heard(self) -> None:
        """Let the root know that Python code has run at its signal."""
        self.words[HEARD] += 1

    def _all(self) -> list[tuple[tuple[int, int], int]]:
        words = self.words
        last = FIRST_REQUEST + REQUEST_WORDS * min(words[ASKED], REQUESTS)
        return [
            ((words[at], words[at + 1]), words[at + 2])
            for at in range(FIRST_REQUEST, last, REQUEST_WORDS)
        ]


def _nothing() -> None:
    return None


_installed = StopRequests(memoryview(bytearray(REQUESTS_SIZE)).cast("Q"), _nothing)


def install(requests: StopRequests) -> None:
    """Set those of this process. For the worker, when it starts."""
    global _installed
    _installed = requests


def installed() -> StopRequests:
    """Return those of this process; outside of a worker there are none."""
    return _installed
