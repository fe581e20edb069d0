"""The messages of a batch, while they are handled: kept where they outlive this process."""

from __future__ import annotations

from typing import Any

from noex_mp.core.black_box import END, INBOX_HEADER, INBOX_SIZE, LINK_ID
from noex_mp.transport.link import Link
from noex_mp.wire.stream import size_in

__all__ = ["Inbox"]


class Inbox:
    """This worker's part of the black box for what has just arrived.

    Whoever wants to know the size of one, after a death, looks it up here. It serves one link at a
    time.
    """

    def __init__(self, area: memoryview) -> None:
        self._view = area
        self._words = area[:INBOX_HEADER].cast("Q")
        self._held = b""

    def hold(self, link: Link, frame: list[Any]) -> int:
        """Keep a message that has just come out, and what has arrived on its link behind it.

        Return its size if it is not here, and if that is known; otherwise 0.
        """
        reader = link.reader
        size = reader.size_of(frame)
        rest = reader.fed - link.unpacker.tell()
        data = reader.data
        kept = size + rest
        if not rest or (size and kept > len(data)):
            return size
        # Those that follow are not measured.
        reader.next_at = None
        if data is not self._held and kept <= min(len(data), INBOX_SIZE - INBOX_HEADER):
            self._words[LINK_ID] = 0
            self._view[INBOX_HEADER : INBOX_HEADER + kept] = memoryview(data)[-kept:]
            self._words[END] = INBOX_HEADER + kept
            # Last: from here on it counts.
            self._words[LINK_ID] = link.state
            self._held = data
        return 0

    def size_of(self, link: Link, sid: int, seq: int) -> int | None:
        """Return the size of a message of a link, or None if it is not here."""
        if self._words[LINK_ID] != link.state:
            return None
        return size_in(bytes(self._view[INBOX_HEADER : self._words[END]]), sid, seq)

    def abandon(self) -> None:
        """Leave the black box to the process that this one was forked from."""
        self._view = memoryview(bytearray(INBOX_SIZE))
        self._words = self._view[:INBOX_HEADER].cast("Q")
