"""What a reload has done, for whoever asked for it."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Reloaded"]


@dataclass(frozen=True)
class Reloaded:
    """What a reload has done.

    Attributes:
        replaced: How many servers have the new code.
        kept: Who runs on with the old code: temporary servers, which never start again, what runs
            the functions of an application, and those that share a process with one.
        notes: What else is to be known, in sentences.
    """

    replaced: int
    kept: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
