"""Circles of calls: servers that wait for each other, and will for ever.

A server that works on a message takes no other. If its handler waits for a call to a server that
waits, over however many others, for the first one, nobody will ever move. To find that, nobody
has to know the whole node:

1. A message comes for a server whose handler waits for calls of its own, and it comes from a
   server. That server may be part of a circle, so a PROBE follows each of these calls. It carries
   the path so far.
2. Whoever gets a PROBE about a call that it works on, or has in its queue, and waits itself, adds
   itself and sends it on. Whoever does not wait lets it drop.
3. A PROBE that comes to a server which is on its path already has gone round a circle, and every
   server on it waits. One of them, the one with the smallest number, fails its own call with
   `CallCycleError`; the PROBE goes on until it comes to that one.

A cast that waits for room in a mailbox is such a call too; but instead of an error it is let off
waiting, and stays in its own process until there is room.

The last call that closes a circle always arrives at a server that waits or soon will, so the
question is asked again for as long as the server waits. A handler that replied late, or a task
that has outlived its handler, is no activation, so it is never on a path. (After Chandy, Misra and
Haas, "Distributed deadlock detection", ACM TOCS 1983.)

Promise: no I/O; a path in, a decision out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

__all__ = ["ASK_AGAIN", "FIRST_LOOK", "Onward", "Victim", "follow"]

# When a server that waits asks for the first time, in seconds; then twice as long after each.
FIRST_LOOK: Final = 0.005
ASK_AGAIN: Final = 1.0

# A server on a path: its number, its name for people, the number of its activation.
Step = Sequence[Any]


@dataclass(frozen=True)
class Onward:
    """Send the probe along the calls that this server waits for.

    Attributes:
        path: What it says now.
    """

    path: list[Step]


@dataclass(frozen=True)
class Victim:
    """There is a circle, and this server is to give up its call in it.

    Attributes:
        next_sid: The server that the call went to.
        names: The circle, for people; the first comes last again.
    """

    next_sid: int
    names: tuple[str, ...]


def follow(path: Sequence[Step], here: Step) -> Onward | Victim:
    """Decide what a server that waits does with a probe.

    Args:
        path: Where it has been.
        here: This server.

    Example:
        ```python
        >>> follow([[1, "A", 7]], [2, "B", 3])
        Onward(path=[[1, 'A', 7], [2, 'B', 3]])
        >>> follow([[1, "A", 7], [2, "B", 3]], [1, "A", 7])
        Victim(next_sid=2, names=('A', 'B', 'A'))

        ```
    """
    mine = next((i for i, step in enumerate(path) if list(step) == list(here)), None)
    if mine is None:
        return Onward([*path, here])
    circle = [*path[mine:]]
    if here[0] != min(step[0] for step in circle):
        # Round once more, to the one that gives up: each keeps its place in the circle.
        return Onward([*circle[1:], circle[0]])
    following = circle[1] if len(circle) > 1 else circle[0]
    return Victim(following[0], (*(step[1] for step in circle), here[1]))
