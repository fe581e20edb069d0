"""Tells when files change, by a look at them twice a second."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable
from typing import Final

__all__ = ["Watch"]

# In seconds. Whoever saves several files at once has done so by the second look.
INTERVAL: Final = 0.5
SETTLED: Final = 0.1

_Stamp = tuple[int, int, int]


class Watch:
    """Looks at files, from the moment that it hears of each."""

    def __init__(self, files: Iterable[str]) -> None:
        self._stamps: dict[str, _Stamp | None] = {}
        # What nobody has been told of yet.
        self._found: set[str] = set()
        self.follow(files)

    def follow(self, files: Iterable[str]) -> None:
        """Look at these as well."""
        for file in files:
            self._stamps.setdefault(file, _stamp(file))

    async def change(self) -> list[str]:
        """Wait until files have changed, and no more do; return which.

        Should it be cancelled, whoever waits next is told.
        """
        while True:
            more = self._changed()
            if self._found and not more:
                changed, self._found = self._found, set()
                return sorted(changed)
            self._found |= more
            await asyncio.sleep(SETTLED if self._found else INTERVAL)

    def _changed(self) -> set[str]:
        changed: set[str] = set()
        for file, before in self._stamps.items():
            now = _stamp(file)
            # One that is gone is being written anew, or is missed when it is imported.
            if now is not None and now != before:
                self._stamps[file] = now
                changed.add(file)
        return changed


def _stamp(file: str) -> _Stamp | None:
    try:
        status = os.stat(file)
    except OSError:
        return None
    # Many editors put a new file in the place of the old one.
    return status.st_mtime_ns, status.st_size, status.st_ino
