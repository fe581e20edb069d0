"""The root's end of the black box: it hands out slots, and reads them after a death."""

from __future__ import annotations

import mmap
import os
import struct
import sys
import time
from collections.abc import Mapping
from typing import Final, NamedTuple

from noex_mp.core.black_box import (
    ARGUMENTS_OFFSET,
    ARGUMENTS_SIZE,
    ASKED,
    BEGUN,
    CELL_WORDS,
    CELLS_SIZE,
    COUNT,
    END,
    FIRST_REQUEST,
    HEARD,
    INBOX_HEADER,
    INBOX_OFFSET,
    INBOX_SIZE,
    LINK_ID,
    MEMORY_OFFSET,
    MEMORY_SIZE,
    NAMES_OFFSET,
    NAMES_SIZE,
    OPERATION,
    OUTBOX_HEADER,
    OUTBOX_OFFSET,
    OWN,
    RAN,
    RECEIVED,
    REQUEST_WORDS,
    REQUESTS,
    REQUESTS_OFFSET,
    RSS,
    SEQ,
    SID,
    SINCE,
    SIZE,
    SLOT_SIZE,
    STEPS_OFFSET,
    STEPS_SIZE,
    TEXT_OFFSET,
    TEXT_SIZE,
    WHEN,
    WORD,
)
from noex_mp.transport import fds, shared_file
from noex_mp.transport.platform import FALLBACKS
from noex_mp.wire.stream import size_in

__all__ = [
    "BlackBox",
    "LastWords",
    "Message",
    "OwnCell",
    "Slot",
    "StartedCell",
    "add_request",
    "blank_stack",
    "own_cell",
    "place_of_own_cell",
    "signals_heard",
    "stack_in",
    "started_cell",
]


# As much of the cells as is read at a time.
_PAGE: Final = 4096


class Slot(NamedTuple):
    """One worker's part of the black box.

    Attributes:
        fd: The file it lies in; the worker gets a copy.
        offset: Where it begins, in bytes.
    """

    fd: int
    offset: int


class Message(NamedTuple):
    """What a dead worker was working on.

    Attributes:
        link_id: On which link it came.
        seq: Its number there.
        operation: What it asked for.
        size: How many bytes it had, or None.
        age: How long ago it had begun, in seconds.
        arguments: What it was called with, if the node wants to know.
        steps: How many steps of it had begun, if its handler says so.
    """

    link_id: int
    seq: int
    operation: str
    size: int | None
    age: float
    arguments: str
    steps: int | None = None


class OwnCell(NamedTuple):
    """What a living server with a `hang_timeout` is working on.

    Attributes:
        since: Since when, by the monotonic clock; 0 if it waits for messages.
        callback: Its operation or callback, for people.
        heard: How often its worker has heard the question of what it does.
        ran: How often it went on in Python after that.
        is_waiting: When it heard that last, the server only awaited something.
    """

    since: float
    callback: str
    heard: int
    ran: int
    is_waiting: bool


class StartedCell(NamedTuple):
    """What a living server is at with the messages of one link.

    Attributes:
        begun: The number of the last message that has begun.
        since: Since when one is worked on, by the monotonic clock; 0 if none is.
    """

    begun: int
    since: float


class LastWords(NamedTuple):
    """What a dead worker left in its slot.

    Attributes:
        begun: The number of the last message it began, by (link id, sid).
        replies: What was finished and had not been sent, by link id: packed frames.
        text: What faulthandler wrote: when the interpreter crashed, or when we asked.
        messages: What each server was working on, by sid.
        waiting: How many messages waited for each, by sid.
        rss: How much memory it had when it last looked, in bytes; None if it never has.
        rss_age: How long ago that was, in seconds.
    """

    begun: dict[tuple[int, int], int]
    replies: dict[int, bytes]
    text: str
    messages: Mapping[int, Message]
    waiting: Mapping[int, int]
    rss: int | None = None
    rss_age: float = 0.0


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
        cells = _Cells(slot)
        begun, waiting = cells.begun, cells.waiting
        memory = _memory(slot)
        return LastWords(begun, _outbox(*slot), stack_in(slot), cells.messages, waiting, *memory)

    def give_back(self, slot: Slot) -> None:
        """Empty a slot and let the next worker have it."""
        if sys.platform == "linux" and not FALLBACKS:
            try:
                with mmap.mmap(slot.fd, SLOT_SIZE, offset=slot.offset) as area:
                    area.madvise(mmap.MADV_REMOVE)
            except OSError:
                # No address space. This takes none, but what it is made with takes time to import.
                shared_file.punch(slot.fd, slot.offset, SLOT_SIZE)
        else:
            os.ftruncate(slot.fd, 0)
            os.ftruncate(slot.fd, SLOT_SIZE)
        self._free.append(slot)

    def close(self) -> None:
        """Close the files."""
        fds.close_all(self._files)


class _Cells:
    """The cells of one slot.

    Attributes:
        begun: The number of the last message begun, by (link id, sid).
        messages: What each server was working on, by sid.
        waiting: How many messages waited for each server, by sid.
    """

    def __init__(self, slot: Slot) -> None:
        self._slot = slot
        self._now = time.monotonic()
        self.begun: dict[tuple[int, int], int] = {}
        self.messages: dict[int, Message] = {}
        self.waiting: dict[int, int] = {}
        fd, position = slot
        end = position + CELLS_SIZE
        # A page at a time, until the first cell that is not in use.
        while position < end and self._read_page(os.pread(fd, _PAGE, position)):
            position += _PAGE

    def _read_page(self, page: bytes) -> bool:
        words = memoryview(page).cast("Q")
        times = memoryview(page).cast("d")
        for at in range(0, len(words), CELL_WORDS):
            sid = words[at + SID]
            if not sid:
                return False
            if words[at + LINK_ID] == OWN:
                continue
            begun = words[at + BEGUN]
            self.begun[words[at + LINK_ID], sid] = begun
            # Freed cells stand under link 0.
            if words[at + LINK_ID] and words[at + RECEIVED] > begun:
                self.waiting[sid] = self.waiting.get(sid, 0) + words[at + RECEIVED] - begun
            if times[at + SINCE]:
                self._add_message(words[at : at + CELL_WORDS], times[at + SINCE])
        return True

    def _add_message(self, cell: memoryview, since: float) -> None:
        sid, seq = cell[SID], cell[BEGUN]
        age = max(0.0, self._now - since)
        other = self.messages.get(sid)
        if cell[LINK_ID] and (other is None or age < other.age):
            self.messages[sid] = Message(
                link_id=cell[LINK_ID],
                seq=seq,
                operation=_name(self._slot, cell[OPERATION]),
                size=cell[SIZE] or _size(self._slot, cell[LINK_ID], sid, seq),
                age=age,
                arguments=_arguments(self._slot, sid, seq),
                steps=_steps(self._slot, sid, seq),
            )


def place_of_own_cell(slot: Slot, sid: int) -> int | None:
    """Return where the own cell of a server begins in the file; None if it has none."""
    return _place_of_cell(slot, sid, OWN)


def _place_of_cell(slot: Slot, sid: int, link_id: int) -> int | None:
    fd, start = slot
    for position in range(start, start + CELLS_SIZE, _PAGE):
        words = memoryview(os.pread(fd, _PAGE, position)).cast("Q")
        for at in range(0, len(words), CELL_WORDS):
            if not words[at + SID]:
                return None
            if words[at + SID] == sid and words[at + LINK_ID] == link_id:
                return position + at * WORD
    return None


def started_cell(slot: Slot, sid: int, link_id: int) -> StartedCell:
    """Read the started cell of a link and a server; nothing has begun where there is none."""
    place = _place_of_cell(slot, sid, link_id)
    if place is None:
        return StartedCell(0, 0.0)
    cell = memoryview(os.pread(slot.fd, CELL_WORDS * WORD, place))
    words, times = cell.cast("Q"), cell.cast("d")
    return StartedCell(words[BEGUN], times[SINCE])


def add_request(slot: Slot, link_id: int, seq: int, rung: int) -> None:
    """Ask a worker to stop a call; see `core.stop_requests`."""
    start = slot.offset + REQUESTS_OFFSET
    count = memoryview(os.pread(slot.fd, WORD, start + ASKED * WORD)).cast("Q")[0]
    place = FIRST_REQUEST + REQUEST_WORDS * (count % REQUESTS)
    os.pwrite(slot.fd, struct.pack("@3Q", link_id, seq, rung), start + place * WORD)
    # Last: from here on it counts.
    os.pwrite(slot.fd, struct.pack("@Q", count + 1), start + ASKED * WORD)


def signals_heard(slot: Slot) -> int:
    """Return how often Python code of a worker has run at a signal of ours."""
    data = os.pread(slot.fd, WORD, slot.offset + REQUESTS_OFFSET + HEARD * WORD)
    return int(memoryview(data).cast("Q")[0])


def own_cell(slot: Slot, place: int, sid: int) -> OwnCell:
    """Read the own cell of a server; it says nothing if it has become another's."""
    cell = memoryview(os.pread(slot.fd, CELL_WORDS * WORD, place))
    words, times = cell.cast("Q"), cell.cast("d")
    if words[LINK_ID] != OWN or words[SID] != sid:
        return OwnCell(0.0, "", 0, 0, is_waiting=False)
    callback = _name(slot, words[OPERATION]) if words[OPERATION] else ""
    return OwnCell(times[SINCE], callback, words[BEGUN], words[RAN], bool(words[SIZE]))


def _name(slot: Slot, number: int) -> str:
    data = os.pread(slot.fd, NAMES_SIZE - number + 1, slot.offset + NAMES_OFFSET + number - 1)
    return data.partition(b"\0")[0].decode(errors="replace")


def _size(slot: Slot, link_id: int, sid: int, seq: int) -> int | None:
    data = os.pread(slot.fd, INBOX_SIZE, slot.offset + INBOX_OFFSET)
    words = memoryview(data)[:INBOX_HEADER].cast("Q")
    if words[LINK_ID] != link_id:
        return None
    return size_in(data[INBOX_HEADER : words[END]], sid, seq)


def _arguments(slot: Slot, sid: int, seq: int) -> str:
    data = os.pread(slot.fd, ARGUMENTS_SIZE, slot.offset + ARGUMENTS_OFFSET)
    words = memoryview(data)[: 2 * WORD].cast("Q")
    if (words[SID], words[SEQ]) != (sid, seq):
        return ""
    return data[2 * WORD :].partition(b"\0")[0].decode(errors="replace")


def _steps(slot: Slot, sid: int, seq: int) -> int | None:
    words = memoryview(os.pread(slot.fd, STEPS_SIZE, slot.offset + STEPS_OFFSET)).cast("Q")
    return words[COUNT] if (words[SID], words[SEQ]) == (sid, seq) else None


def _memory(slot: Slot) -> tuple[int | None, float]:
    noted = memoryview(os.pread(slot.fd, MEMORY_SIZE, slot.offset + MEMORY_OFFSET))
    rss = noted.cast("Q")[RSS]
    return (rss, max(0.0, time.monotonic() - noted.cast("d")[WHEN])) if rss else (None, 0.0)


def _outbox(fd: int, offset: int) -> dict[int, bytes]:
    start = offset + OUTBOX_OFFSET
    header = memoryview(os.pread(fd, OUTBOX_HEADER, start)).cast("Q")
    if not header[END]:
        return {}
    size = header[END] - OUTBOX_HEADER
    return {header[LINK_ID]: os.pread(fd, size, start + OUTBOX_HEADER)}


def stack_in(slot: Slot) -> str:
    """Return what faulthandler has written so far."""
    data = os.pread(slot.fd, TEXT_SIZE, slot.offset + TEXT_OFFSET)
    return data.partition(b"\0")[0].decode(errors="replace")


def blank_stack(slot: Slot) -> None:
    """Leave nothing of what faulthandler has written. It goes on behind that."""
    fd, start = slot
    written = os.pread(fd, TEXT_SIZE, start + TEXT_OFFSET).partition(b"\0")[0]
    os.pwrite(fd, b"\n" * len(written), start + TEXT_OFFSET)
