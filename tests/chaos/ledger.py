"""What became of each message of a chaos run, in a file that all its processes have mapped.

A server that is killed takes along what it knows; what it has stored in a mapped page stays. So
each message has a number, and three bytes here: what it is and what its sender saw of it, which
the sender writes, and how often a handler began it, which the handler's first line writes. No two
processes write the same byte at the same time, since a message is in one place at a time.

Between the moment in which the runtime notes that a message begins, and the handler's first line,
lies less than a microsecond; a kill in there leaves a message that has begun without a trace here.
So the senders also keep the number that the runtime has given to each message, and what it said at
each death: up to which number messages had begun. A cast whose very number that is, and which left
no trace, was killed in that microsecond, and no fault.
"""

from __future__ import annotations

import mmap
import struct
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Final

__all__ = ["Audit", "Kind", "Ledger", "Outcome", "audit"]

#: The os pid of a server and how often it has started.
_PLACE: Final = struct.Struct("=ii")

#: The number of the way that a message took, and its own on it.
_SENT: Final = struct.Struct("=II")


class Kind(IntEnum):
    """What a message is."""

    NONE = 0
    CALL = 1
    IDEMPOTENT = 2
    CAST = 3


class Outcome(IntEnum):
    """What the sender of a message saw of it."""

    NONE = 0
    GOOD = 1
    """A call: the right reply. A cast: taken."""
    WRONG = 2
    """A reply that belongs to another call."""
    EXITED = 3
    TIMED_OUT = 4
    REFUSED = 5
    """There was no room for it."""
    OTHER = 6
    """An error that nobody should get here."""


class Ledger:
    """The file, mapped."""

    def __init__(self, path: str, servers: int, messages: int) -> None:
        self.path = path
        self.servers = servers
        self.messages = messages
        self._kinds = servers * _PLACE.size
        self._outcomes = self._kinds + messages
        self._begun = self._outcomes + messages
        self._places = self._begun + messages
        size = self._places + messages * _SENT.size
        with Path(path).open("r+b") as file:
            file.truncate(size)
            self._map = mmap.mmap(file.fileno(), size)

    def close(self) -> None:
        """Unmap the file."""
        self._map.close()

    # --- the sender's ------------------------------------------------------------------

    def sent(self, number: int, kind: Kind) -> None:
        """Note what a message is, before it is sent."""
        self._map[self._kinds + number] = kind

    def numbered(self, number: int, way: int, seq: int) -> None:
        """Note which way a message took, and which number it got on it."""
        _SENT.pack_into(self._map, self._places + number * _SENT.size, way, seq)

    def came(self, number: int, outcome: Outcome) -> None:
        """Note what became of a message."""
        self._map[self._outcomes + number] = outcome

    # --- the server's ------------------------------------------------------------------

    def started(self, index: int, os_pid: int) -> None:
        """Note the process of a server that starts."""
        place = index * _PLACE.size
        _, starts = _PLACE.unpack_from(self._map, place)
        _PLACE.pack_into(self._map, place, os_pid, starts + 1)

    def begin(self, number: int) -> None:
        """Note that a handler begins a message."""
        self._map[self._begun + number] += 1

    # --- whoever looks -----------------------------------------------------------------

    def process_of(self, index: int) -> tuple[int, int]:
        """Return the os pid of a server, and how often it has started."""
        os_pid, starts = _PLACE.unpack_from(self._map, index * _PLACE.size)
        return os_pid, starts

    def table(self) -> dict[tuple[Kind, Outcome, int], int]:
        """Return how many messages there are of each kind, outcome, and number of begins."""
        kinds, outcomes, begun = (
            self._map[start : start + self.messages]
            for start in (self._kinds, self._outcomes, self._begun)
        )
        return {
            (Kind(kind), Outcome(outcome), begins): count
            for (kind, outcome, begins), count in Counter(zip(kinds, outcomes, begun)).items()  # noqa: B905
            if kind or outcome or begins
        }

    def casts_without_a_trace(self) -> Iterator[tuple[int, int, int]]:
        """Yield the number of each cast that was taken and not begun, and what was `numbered`."""
        for number in range(self.messages):
            if (
                self._map[self._kinds + number] == Kind.CAST
                and self._map[self._outcomes + number] == Outcome.GOOD
                and not self._map[self._begun + number]
            ):
                yield number, *_SENT.unpack_from(self._map, self._places + number * _SENT.size)


@dataclass(frozen=True)
class Audit:
    """What the ledger says of a run.

    Attributes:
        calls: How many calls were sent.
        replied: How many of them got their reply.
        errors: How many got which error.
        casts: How many casts were sent.
        handled: How many casts a handler began.
        lost: How many casts the runtime says were lost.
        unseen: How many casts were killed at their begin, before their handler's first line.
        faults: What must not be, in words; empty if all is well.
    """

    calls: int
    replied: int
    errors: dict[str, int]
    casts: int
    handled: int
    lost: int
    unseen: int
    faults: list[str]


def audit(table: dict[tuple[Kind, Outcome, int], int], *, lost: int, unseen: int) -> Audit:
    """Judge what became of the messages.

    Args:
        table: See `Ledger.table`.
        lost: How many casts the runtime says were lost.
        unseen: How many casts were killed at their begin.
    """

    def total(kinds: set[Kind], *outcomes: Outcome, begun: bool = False) -> int:
        return sum(
            count
            for (kind, outcome, begins), count in table.items()
            if kind in kinds and (not outcomes or outcome in outcomes) and (begins or not begun)
        )

    calls = {Kind.CALL, Kind.IDEMPOTENT}
    taken = total({Kind.CAST}, Outcome.GOOD)
    handled = total({Kind.CAST}, begun=True)
    errors = {
        outcome.name.lower(): count
        for outcome in Outcome
        if outcome is not Outcome.GOOD and (count := total(calls, outcome))
    }
    faults = [
        f"{count:,} messages: {kind.name}, {outcome.name}, begun {begins} times"
        for (kind, outcome, begins), count in sorted(table.items())
        if not _may_be(kind, outcome, begins)
    ]
    if taken != handled + lost + unseen:
        faults.append(
            f"casts: {taken:,} taken, {handled:,} handled, {lost:,} counted lost, "
            f"{unseen} killed at their begin"
        )
    return Audit(
        total(calls), total(calls, Outcome.GOOD), errors, taken, handled, lost, unseen, faults
    )


def _may_be(kind: Kind, outcome: Outcome, begins: int) -> bool:
    match kind, outcome:
        case _, Outcome.NONE | Outcome.WRONG | Outcome.OTHER:
            return False
        case _, Outcome.REFUSED:
            return begins == 0
        case Kind.IDEMPOTENT, Outcome.EXITED:
            # It is to be run again.
            return False
        case Kind.IDEMPOTENT, Outcome.GOOD:
            return begins >= 1
        case Kind.CALL, Outcome.GOOD:
            return begins == 1
        case Kind.CAST, Outcome.TIMED_OUT:
            # It was not sent.
            return begins == 0
        case Kind.CAST, Outcome.EXITED:
            return False
        case _:
            return kind is Kind.IDEMPOTENT or begins <= 1
