"""A file of records that survives a `kill -9` of its writer.

Each record has its length and checksum in front. A writer that dies in the middle of a record
leaves a torn tail, which the next one cuts off. The operating system keeps what was written even
if the process is killed at once; only a power cut may cost the last records.
"""

from __future__ import annotations

import fcntl
import json
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_HEADER = struct.Struct(">II")  # length and CRC-32 of the JSON text that follows


class Journal:
    """An append-only file of records, each anything that JSON can hold."""

    def __init__(self, path: Path) -> None:
        """Open the journal, or begin one.

        Raises:
            BlockingIOError: Another process writes it.
        """
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._file = path.open("a+b")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._file.close()
            raise

    def replay(self) -> Iterator[Any]:
        """Yield all records, oldest first, and cut off a torn tail. Do this before `append`."""
        self._file.seek(0)
        good = 0
        while (data := self._read()) is not None:
            good += _HEADER.size + len(data)
            yield json.loads(data)
        self._file.truncate(good)

    def append(self, record: Any) -> None:
        """Write a record; it is safe from the death of this process when this returns."""
        data = json.dumps(record, separators=(",", ":")).encode()
        self._file.write(_HEADER.pack(len(data), zlib.crc32(data)) + data)
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _read(self) -> bytes | None:
        header = self._file.read(_HEADER.size)
        if len(header) < _HEADER.size:
            return None
        length, checksum = _HEADER.unpack(header)
        data = self._file.read(length)
        return data if len(data) == length and zlib.crc32(data) == checksum else None
