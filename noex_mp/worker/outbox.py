"""The replies of a batch, until they leave: kept where they outlive this process."""

from __future__ import annotations

import mmap

from noex_mp.core.black_box import END, LINK_ID, OUTBOX_HEADER, OUTBOX_OFFSET, OUTBOX_SIZE
from noex_mp.transport.link import Link

__all__ = ["Outbox"]


class Outbox:
    """This worker's part of the black box for replies that have not been sent.

    The hot path writes by itself: a reply behind the others in `area`, and then where the
    last one ends in `words[END]`; in this order, so that the root never reads half a reply.

    Attributes:
        area: Where the replies are, from `OUTBOX_HEADER` on.
        words: The header.
    """

    def __init__(self, fd: int, slot: int) -> None:
        self.area = mmap.mmap(fd, OUTBOX_SIZE, offset=slot + OUTBOX_OFFSET)
        self._view = memoryview(self.area)
        self.words = self._view[:OUTBOX_HEADER].cast("Q")
        self._link: Link | None = None

    def begin(self, link: Link) -> None:
        """Say whose replies follow."""
        if link is not self._link:
            self._link = link
            self.words[LINK_ID] = link.state

    def flush(self, link: Link, end: int) -> None:
        """Send the replies up to `end`."""
        link.send_view(self._view[OUTBOX_HEADER:end])
        self.words[END] = 0
