"""The root's end of the black box: it hands out slots, and reads them after a death."""

from __future__ import annotations

import mmap
import os
import sys
from typing import NamedTuple

from noex_mp.core.black_box import (
    BEGUN,
    CELL_WORDS,
    CELLS_SIZE,
    END,
    LINK_ID,
    OUTBOX_HEADER,
    OUTBOX_OFFSET,
    SID,
    SLOT_SIZE,
    TEXT_OFFSET,
    WORD,
)
from noex_mp.transport import fds
from noex_mp.transport.platform import FALLBACKS

__all__ = ["BlackBox", "LastWords", "Slot", "stack_in"]


class Slot(NamedTuple):
    """One worker's part of the black box.

    Attributes:
        fd: The file it lies in; the worker gets a copy.
        offset: Where it begins, in bytes.
    """

    fd: int
    offset: int


class LastWords(NamedTuple):
    """What a dead worker left in its slot.

    Attributes:
        begun: The number of the last message it began, by (link id, sid).
        replies: What was finished and had not been sent, by link id: packed frames.
        text: What faulthandler wrote: when the interpreter crashed, or when we asked.
    """

    begun: dict[tuple[int, int], int]
    replies: dict[int, bytes]
    text: str


class BlackBox:
    """One memory file for all workers of a node; every worker maps its own slot.

    Each worker needs an offset of its own in it, for faulthandler. Where a file cannot be opened
    once more to get one, each slot is a file of its own.
    """

    def __init__(self) -> None:
        self._files: list[int] = []
        self._slots = 0
        self._free: list[Slot] = []

    def take(self) -> Slot:
        """Return an empty slot.

        Raises:
            OSError: The machine has no memory or descriptor left for it.
        """
        if self._free:
            return self._free.pop()
        shared = sys.platform == "linux" and not FALLBACKS
        if not self._files or not shared:
            self._files.append(fds.own(fds.high(fds.anonymous_file("noex-mp-black-box"))))
        slot = Slot(self._files[-1], self._slots * SLOT_SIZE if shared else 0)
        os.ftruncate(slot.fd, slot.offset + SLOT_SIZE)
        self._slots += 1
        return slot

    def read(self, slot: Slot) -> LastWords:
        """Read the slot of a worker that is dead."""
        return LastWords(_cells(*slot), _outbox(*slot), stack_in(slot))

    def give_back(self, slot: Slot) -> None:
        """Empty a slot and let the next worker have it."""
        if sys.platform == "linux" and not FALLBACKS:
            with mmap.mmap(slot.fd, SLOT_SIZE, offset=slot.offset) as area:
                area.madvise(mmap.MADV_REMOVE)
        else:
            os.ftruncate(slot.fd, 0)
            os.ftruncate(slot.fd, SLOT_SIZE)
        self._free.append(slot)

    def close(self) -> None:
        """Close the files."""
        fds.close_all(self._files)


def _cells(fd: int, offset: int) -> dict[tuple[int, int], int]:
    cell_size = CELL_WORDS * WORD
    found: dict[tuple[int, int], int] = {}
    position = offset
    # A page at a time, until the first cell that is not in use.
    while position < offset + CELLS_SIZE:
        size = min(170 * cell_size, offset + CELLS_SIZE - position)
        page = memoryview(os.pread(fd, size, position)).cast("Q")
        for at in range(0, len(page), CELL_WORDS):
            if not page[at + SID]:
                return found
            found[page[at + LINK_ID], page[at + SID]] = page[at + BEGUN]
        position += size
    return found


def _outbox(fd: int, offset: int) -> dict[int, bytes]:
    start = offset + OUTBOX_OFFSET
    header = memoryview(os.pread(fd, OUTBOX_HEADER, start)).cast("Q")
    if not header[END]:
        return {}
    size = header[END] - OUTBOX_HEADER
    return {header[LINK_ID]: os.pread(fd, size, start + OUTBOX_HEADER)}


def stack_in(slot: Slot) -> str:
    """Return what faulthandler has written so far."""
    data = os.pread(slot.fd, 64 * 1024, slot.offset + TEXT_OFFSET)
    return data.partition(b"\0")[0].decode(errors="replace")
