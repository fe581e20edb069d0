"""What a worker has to say to people: lines on the standard error that it was started with."""

from __future__ import annotations

import contextlib
import os
import traceback

__all__ = ["Complaints"]


class Complaints:
    """Writes them.

    Not through `sys.stderr`: a file of the user's may have its number by now.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def say(self, text: str) -> None:
        """Tell the log something in a line of its own."""
        self._write(f"noex-mp: {text}\n")

    def of_message(self, what: str, error: BaseException) -> None:
        """Tell it about a message that could not be handled and has no caller to hear of it."""
        self.say(f"{what}: {type(error).__name__}: {error}")

    def of_end(self) -> None:
        """Tell it about the exception that a server's `terminate` has just raised."""
        self._write(traceback.format_exc())

    def _write(self, text: str) -> None:
        with contextlib.suppress(OSError):
            os.write(self._fd, text.encode(errors="replace"))
