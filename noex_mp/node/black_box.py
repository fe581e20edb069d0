"""The root's end of the black box: it hands out slots, and reads them after a death."""

from __future__ import annotations

import mmap
import os
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

__all__ = ["BlackBox", "LastWords"]


class LastWords(NamedTuple):
    """What a dead worker left in its slot.

    Attributes:
        begun: The number of the last message it began, by (link id, sid).
        replies: What was finished and had not been sent, by link id: packed frames.
        text: What faulthandler wrote; empty unless the interpreter crashed.
    """

    begun: dict[tuple[int, int], int]
    replies: dict[int, bytes]
    text: str


class BlackBox:
    """One memory file for all workers of a node.

    Attributes:
        fd: The file; every worker gets a copy and maps its own slot.
    """

    def __init__(self) -> None:
        self.fd = fds.own(fds.high(fds.anonymous_file("noex-mp-black-box")))
        self._slots = 0
        self._free: list[int] = []

    def take(self) -> int:
        """Return the offset of an empty slot, in bytes."""
        if self._free:
            return self._free.pop()
        offset = self._slots * SLOT_SIZE
        self._slots += 1
        os.ftruncate(self.fd, self._slots * SLOT_SIZE)
        return offset

    def read(self, offset: int) -> LastWords:
        """Read the slot of a worker that is dead."""
        return LastWords(self._cells(offset), self._outbox(offset), self._text(offset))

    def _cells(self, offset: int) -> dict[tuple[int, int], int]:
        cell_size = CELL_WORDS * WORD
        found: dict[tuple[int, int], int] = {}
        position = offset
        # A page at a time, until the first cell that is not in use.
        while position < offset + CELLS_SIZE:
            size = min(170 * cell_size, offset + CELLS_SIZE - position)
            page = memoryview(os.pread(self.fd, size, position)).cast("Q")
            for at in range(0, len(page), CELL_WORDS):
                if not page[at + SID]:
                    return found
                found[page[at + LINK_ID], page[at + SID]] = page[at + BEGUN]
            position += size
        return found

    def _outbox(self, offset: int) -> dict[int, bytes]:
        start = offset + OUTBOX_OFFSET
        header = memoryview(os.pread(self.fd, OUTBOX_HEADER, start)).cast("Q")
        if not header[END]:
            return {}
        size = header[END] - OUTBOX_HEADER
        return {header[LINK_ID]: os.pread(self.fd, size, start + OUTBOX_HEADER)}

    def _text(self, offset: int) -> str:
        data = os.pread(self.fd, 64 * 1024, offset + TEXT_OFFSET)
        return data.partition(b"\0")[0].decode(errors="replace")

    def give_back(self, offset: int) -> None:
        """Empty a slot and let the next worker have it."""
        with mmap.mmap(self.fd, SLOT_SIZE, offset=offset) as slot:
            if hasattr(mmap, "MADV_REMOVE"):
                slot.madvise(mmap.MADV_REMOVE)
            else:
                slot[:] = bytes(SLOT_SIZE)
        self._free.append(offset)

    def close(self) -> None:
        """Close the file."""
        fds.close(self.fd)
