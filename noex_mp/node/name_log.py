"""The log of names, as the root writes it; `client/local_names.py` reads it.

Who reads it has a descriptor that only reads. (A process of the same user could open the file
anew; a seal against that, F_SEAL_FUTURE_WRITE, would forbid us to give back memory.)
"""

from __future__ import annotations

import mmap
import os
import sys
from collections.abc import Callable, Iterable
from typing import Any, Final

import msgpack

from noex_mp.core.name_log import BASE, END, HEADER_SIZE, KEPT
from noex_mp.core.registrations import SNAPSHOT
from noex_mp.transport import fds
from noex_mp.transport.platform import FALLBACKS

__all__ = ["NameLog"]

# So much history is written before a snapshot in any case, in bytes; beyond it as much as three
# times what lives.
HISTORY: Final = 256 * 1024

_PAGE: Final = mmap.ALLOCATIONGRANULARITY


class NameLog:
    """The log of one node.

    Attributes:
        fd: A descriptor that reads it; the worker processes get copies.
    """

    def __init__(self, records: Callable[[], Iterable[list[Any]]]) -> None:
        """Make an empty log.

        Args:
            records: Returns the records of all that lives, for a snapshot.
        """
        self._records = records
        self._pack: Callable[[Any], bytes] = msgpack.Packer().pack
        self._file = fds.own(fds.high(fds.anonymous_file("noex-mp-names")))
        os.ftruncate(self._file, HEADER_SIZE)
        self.fd = fds.own(fds.high(fds.open_for_reading(self._file)))
        self._header = mmap.mmap(self._file, HEADER_SIZE)
        self._words = memoryview(self._header).cast("Q")
        # How many bytes are not only history.
        self._living = 0
        self._words[KEPT] = self._words[BASE] = self._words[END] = HEADER_SIZE
        self._rewrite()

    def open(self) -> int:
        """Return another descriptor that reads it, for this process."""
        return fds.own(fds.high(os.dup(self.fd)))

    def append(self, record: list[Any]) -> int:
        """Write a record, for all to see; return how many bytes it has.

        Raises:
            OSError: The machine has no memory left for it.
        """
        data = self._pack(record)
        self._write(data)
        return len(data)

    def lives(self, size: int) -> None:
        """Note that so many bytes more, or less, belong to what lives."""
        self._living += size
        if self._words[END] - self._words[BASE] > HISTORY + 3 * self._living:
            self._rewrite()

    def _write(self, data: bytes) -> None:
        end = self._words[END]
        written = 0
        while written < len(data):
            written += os.pwrite(self._file, data[written:], end + written)
        # Last: what lies before it is whole.
        self._words[END] = end + len(data)

    def _rewrite(self) -> None:
        kept, base, start = self._words[KEPT], self._words[BASE], self._words[END]
        data = b"".join(map(self._pack, self._records()))
        self._living = len(data)
        self._write(self._pack([SNAPSHOT, len(data)]) + data)
        # After the end: from a base there is something to read.
        self._words[BASE] = start
        # And after that: what a base has led to is still there.
        self._words[KEPT] = base
        self._give_back(kept, base)

    def _give_back(self, start: int, end: int) -> None:
        # The pages at both ends: what is history in the second comes with the next snapshot.
        start, end = start // _PAGE * _PAGE, end // _PAGE * _PAGE
        if sys.platform == "linux" and not FALLBACKS and start < end:
            with mmap.mmap(self._file, end - start, offset=start) as history:
                history.madvise(mmap.MADV_REMOVE)

    def close(self) -> None:
        """Close the file; who reads it keeps it."""
        self._words.release()
        self._header.close()
        fds.close_all([self.fd, self._file])
