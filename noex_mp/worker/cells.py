"""The started cells of a worker: for each link and server, what of its messages has begun.

They lie in the node's black box, which outlives this process (`core.black_box` has the layout).
The root reads them after a death, so everybody knows which messages had begun.
"""

from __future__ import annotations

from typing import Final

from noex_mp.core.black_box import BEGUN, CELL_WORDS, LINK_ID, OWN, SID
from noex_mp.worker.begun import BegunRecord

__all__ = ["NOBODY", "Cells"]

# The id of a link whose client is gone, and the sid that the cell of all of them stands under.
NOBODY: Final = 0
SHARED: Final = 1


class Cells:
    """Gives out cells, and keeps those of servers that have ended."""

    def __init__(self, record: BegunRecord) -> None:
        self._record = record
        self._words = record.cells
        self._next = 0
        self._free: list[int] = []
        # Those of servers that have ended, by sid, until the root knows what they say.
        self._kept: dict[int, list[int]] = {}
        # The one to which all clients write that are gone.
        self._nobodys = 0

    def new(self, sid: int, link_id: int) -> int:
        """Return a cell for the messages of a link to a server."""
        if self._free:
            cell = self._free.pop()
        else:
            cell = self._next + BEGUN
            self._next += CELL_WORDS
        self._record.empty(cell)
        self._words[cell - BEGUN + SID] = sid
        # Last: from here on it counts.
        self._words[cell - BEGUN + LINK_ID] = link_id
        return cell

    def own(self, sid: int) -> int:
        """Return the own cell of a server that is watched."""
        return self.new(sid, OWN)

    def nobodys(self) -> int:
        """Return the cell for those that nobody asks about."""
        if not self._nobodys:
            self._nobodys = self.new(SHARED, NOBODY)
        return self._nobodys

    def begun(self, cell: int) -> int:
        """Return the number of the last message that has begun."""
        return self._words[cell]

    def keep(self, sid: int, cell: int) -> None:
        """Keep a cell of a server that has ended."""
        self._kept.setdefault(sid, []).append(cell)

    def kept_of(self, link_id: int) -> dict[int, int]:
        """Return what servers that have ended had begun of a link's, by sid."""
        return {
            sid: self.begun(cell)
            for sid, cells in self._kept.items()
            for cell in cells
            if self._words[cell - BEGUN + LINK_ID] == link_id
        }

    def forget(self, sid: int) -> None:
        """Free what was kept of a server: the root knows it."""
        for cell in self._kept.pop(sid, ()):
            self.free(cell)

    def free(self, cell: int) -> None:
        """Take a cell back."""
        self._words[cell - BEGUN + LINK_ID] = 0
        self._free.append(cell)
