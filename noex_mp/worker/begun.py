"""What this worker is working on, and its memory, where it outlives it: for the last report.

A message that begins costs its number and little more (see `receiver`): the name of its
operation is written once, and then only where it stands. `core.black_box` has the layout.
"""

from __future__ import annotations

import mmap
import os
from time import monotonic
from typing import Any, Final

from noex_mp.core.black_box import (
    ARGUMENTS_OFFSET,
    ARGUMENTS_SIZE,
    BEGUN,
    CELLS_SIZE,
    COUNT,
    MEMORY_OFFSET,
    MEMORY_SIZE,
    NAMES_OFFSET,
    NAMES_SIZE,
    OPERATION,
    RAN,
    RECEIVED,
    RSS,
    SEQ,
    SID,
    SINCE,
    SIZE,
    STEPS_OFFSET,
    STEPS_SIZE,
    WHEN,
    WORD,
)
from noex_mp.transport.platform import rss_of
from noex_mp.wire.envelopes import CALL, CALL_KW, CAST_KW
from noex_mp.wire.values import shortened

__all__ = ["AT_OPERATION", "AT_RAN", "AT_RECEIVED", "AT_SINCE", "AT_SIZE", "BegunRecord"]

# Where the words of a cell stand, from its started cell on.
AT_OPERATION: Final = OPERATION - BEGUN
AT_SINCE: Final = SINCE - BEGUN
AT_SIZE: Final = SIZE - BEGUN
AT_RAN: Final = RAN - BEGUN
AT_RECEIVED: Final = RECEIVED - BEGUN

# What there is no room for has this name.
_UNNAMED: Final = "?"

_ARGUMENTS_HEADER: Final = 2 * WORD
_SHOWN: Final = 500  # characters


class BegunRecord:
    """A worker's part of the black box that tells of messages.

    Attributes:
        cells: Its cells, as integers of eight bytes.
        times: Since when a message is worked on, by the place of its cell.
        numbers: Under which number each operation is known.
        with_arguments: Whether to write down what messages hold; slow.
    """

    def __init__(self, area: memoryview, *, with_arguments: bool) -> None:
        self.with_arguments = with_arguments
        self.cells = area[:CELLS_SIZE].cast("Q")
        # Shifted, so that nobody has to add: this is done for each message.
        self.times = area[AT_SINCE * WORD : CELLS_SIZE].cast("d")
        memory = area[MEMORY_OFFSET : MEMORY_OFFSET + MEMORY_SIZE]
        self._memory, self._looked = memory.cast("Q"), memory.cast("d")
        self._names = area[NAMES_OFFSET : NAMES_OFFSET + NAMES_SIZE]
        self._arguments = area[ARGUMENTS_OFFSET : ARGUMENTS_OFFSET + ARGUMENTS_SIZE]
        self._words = self._arguments[:_ARGUMENTS_HEADER].cast("Q")
        self._steps = area[STEPS_OFFSET : STEPS_OFFSET + STEPS_SIZE].cast("Q")
        self._end = 0
        self._text = ""
        self.numbers: dict[str, int] = {}
        self.number(_UNNAMED)

    def abandon(self) -> None:
        """Leave the cells to the process that this one was forked from, which works on."""
        nobodys = memoryview(mmap.mmap(-1, CELLS_SIZE))
        self.cells = nobodys.cast("Q")
        self.times = nobodys[AT_SINCE * WORD :].cast("d")

    def note_memory(self) -> None:
        """Write down how much memory the process has."""
        self._memory[RSS] = rss_of(os.getpid()) or 0
        self._looked[WHEN] = monotonic()

    def steps(self, sid: int, seq: int) -> memoryview:
        """Return the word in which a handler says how many steps of a message it has begun."""
        self._steps[SEQ] = 0
        self._steps[COUNT] = 0
        self._steps[SID] = sid
        self._steps[SEQ] = seq
        return self._steps[COUNT:]

    def number(self, name: str) -> int:
        """Return the number of an operation, or of a callback."""
        known = self.numbers.get(name)
        if known is not None:
            return known
        text = name.encode(errors="replace") + b"\0"
        end = self._end + len(text)
        if end > NAMES_SIZE:
            self.numbers[name] = self.numbers[_UNNAMED]
        else:
            self._names[self._end : end] = text
            self.numbers[name] = self._end + 1
            self._end = end
        return self.numbers[name]

    def empty(self, cell: int) -> None:
        """Let a cell say that nothing has begun."""
        for at in (0, AT_OPERATION, AT_SINCE, AT_SIZE, AT_RAN, AT_RECEIVED):
            self.cells[cell + at] = 0

    def describe(self, sid: int, cell: int, operation: str) -> list[Any]:
        """Return what is known of the message that has begun last: for the report of an end.

        It is its number, its operation, its size or 0, its age in seconds, its arguments.
        """
        seq = self.cells[cell]
        known = self._words[SID] == sid and self._words[SEQ] == seq
        age = monotonic() - self.times[cell]
        size = self.cells[cell + AT_SIZE]
        return [seq, operation, size, age, self._text if known else ""]

    def note_arguments(self, sid: int, frame: list[Any]) -> None:
        """Write down what a message holds."""
        self._text = arguments_in_words(frame)
        data = self._text.encode(errors="replace")
        room = ARGUMENTS_SIZE - _ARGUMENTS_HEADER
        self._words[SEQ] = 0
        self._arguments[_ARGUMENTS_HEADER:] = data[:room].ljust(room, b"\0")
        self._words[SID] = sid
        self._words[SEQ] = frame[2]


def arguments_in_words(frame: list[Any]) -> str:
    """Return the arguments of a message as they would stand in a call, cut."""
    first = 5 if frame[0] in (CALL, CALL_KW) else 4
    kwargs: dict[str, Any] = {}
    if frame[0] >= CAST_KW:
        kwargs = frame[first]
        first += 1
    shown = [shortened(value) for value in frame[first:]]
    shown += [f"{name}={shortened(value)}" for name, value in kwargs.items()]
    text = ", ".join(shown)
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 4]} ..."
