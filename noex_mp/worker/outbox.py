"""The replies of a batch, until they leave: kept where they outlive this process."""

from __future__ import annotations

from noex_mp.core.black_box import END, LINK_ID, OUTBOX_HEADER, OUTBOX_SIZE
from noex_mp.transport.link import Link

__all__ = ["Outbox"]


class Outbox:
    """This worker's part of the black box for replies that have not been sent.

    It serves one link at a time: whoever begins a batch has flushed it at its end.

    Attributes:
        end: Where the last reply ends, 0 while there is none.
    """

    def __init__(self, area: memoryview) -> None:
        self.end = 0
        self._view = area
        self._words = self._view[:OUTBOX_HEADER].cast("Q")

    def add(self, link: Link, data: bytes) -> None:
        """Put a packed reply behind the others."""
        if OUTBOX_HEADER + len(data) > OUTBOX_SIZE:
            self.flush(link)
            link.send(data)
            return
        if self.end + len(data) > OUTBOX_SIZE:
            self.flush(link)
        start = self.end or OUTBOX_HEADER
        end = start + len(data)
        self._view[start:end] = data
        self._words[LINK_ID] = link.state
        # Last: the root must never read half a reply.
        self._words[END] = self.end = end

    def abandon(self) -> None:
        """Leave the black box to the process that this one was forked from."""
        self._view = memoryview(bytearray(OUTBOX_SIZE))
        self._words = self._view[:OUTBOX_HEADER].cast("Q")
        self.end = 0

    def flush(self, link: Link) -> None:
        """Send the replies."""
        if not self.end:
            return
        link.send_view(self._view[OUTBOX_HEADER : self.end])
        self._words[END] = self.end = 0
