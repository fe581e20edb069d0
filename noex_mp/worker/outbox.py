"""The replies of a batch, until they leave: kept where they outlive this process."""

from __future__ import annotations

import mmap
from typing import Final

from noex_mp.core.black_box import LINK_ID, OUTBOX_HEADER, OUTBOX_OFFSET, OUTBOX_SIZE, USED
from noex_mp.transport.link import Link

__all__ = ["Outbox"]


class Outbox:
    """This worker's part of the black box for replies that have not been sent.

    The hot path writes by itself: `write(data)`, then `words[USED] = used`, in this order, so
    that the root never reads half a reply.

    Attributes:
        room: How many bytes of replies it holds.
        write: Put a packed reply behind the others.
        words: The header.
    """

    room: Final = OUTBOX_SIZE - OUTBOX_HEADER

    def __init__(self, fd: int, slot: int) -> None:
        self._area = mmap.mmap(fd, OUTBOX_SIZE, offset=slot + OUTBOX_OFFSET)
        self._view = memoryview(self._area)
        self.write = self._area.write
        self.words = self._view[:OUTBOX_HEADER].cast("Q")
        self._area.seek(OUTBOX_HEADER)

    def begin(self, link: Link) -> None:
        """Say whose replies follow."""
        self.words[LINK_ID] = link.state

    def flush(self, link: Link, used: int) -> None:
        """Send the replies."""
        link.send_view(self._view[OUTBOX_HEADER : OUTBOX_HEADER + used])
        self.words[USED] = 0
        self._area.seek(OUTBOX_HEADER)
