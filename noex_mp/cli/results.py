"""What a command prints, as JSON or for people, whatever standard output takes of it."""

from __future__ import annotations

import json
import sys
from typing import Any

from noex_mp.errors import NoexError

__all__ = ["OutputError", "as_json", "show"]


class OutputError(NoexError):
    """Standard output does not take what was to be printed.

    Attributes:
        reason: Why, in the system's words.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason

    def __str__(self) -> str:
        return f"standard output takes no more of the result: {self.reason}"


def as_json(value: Any, *, indent: int | None = None) -> str:
    """Return a plain value as JSON, in characters that standard output has.

    Raises:
        RecursionError: It is nested too deeply.
    """
    text = json.dumps(value, ensure_ascii=False, indent=indent)
    try:
        text.encode(_encoding())
    except UnicodeEncodeError:
        # JSON has a way to write each character in ASCII.
        return json.dumps(value, indent=indent)
    return text


def show(text: str) -> None:
    """Print a result; a character that standard output does not have is written as its number.

    Raises:
        BrokenPipeError: Nobody reads it any more.
        OutputError: It cannot be written.
    """
    encoding = _encoding()
    try:
        print(text.encode(encoding, "backslashreplace").decode(encoding), flush=True)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise OutputError(error.strerror or str(error)) from None


def _encoding() -> str:
    # There is none where the output is closed, or is not a file.
    return getattr(sys.stdout, "encoding", None) or "utf-8"
