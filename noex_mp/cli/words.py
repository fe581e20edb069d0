"""Numbers as people read them, on one short line. No I/O.

```python
>>> duration(192.4), size(12_900_000)
('3 m 12 s', '12.9 MB')

```
"""

from __future__ import annotations

from collections.abc import Iterable

__all__ = ["amount", "duration", "listed", "size"]

_UNITS = ((86400, "d"), (3600, "h"), (60, "m"), (1, "s"))


def duration(seconds: float) -> str:
    """Return a time span of any length, in its two largest units.

    Args:
        seconds: The span.
    """
    if seconds < 1:
        return f"{round(seconds * 1000)} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    rest = int(seconds)
    first = next(i for i, (length, _) in enumerate(_UNITS) if rest >= length)
    parts: list[str] = []
    for length, unit in _UNITS[first : first + 2]:
        parts.append(f"{rest // length} {unit}")
        rest %= length
    return " ".join(parts)


def size(count: int) -> str:
    """Return an amount of memory in megabytes.

    Args:
        count: The amount, in bytes.
    """
    return f"{count / 1e6:.1f} MB"


def amount(count: int, thing: str) -> str:
    """Return how many there are of something: `1 server`, `2 servers`."""
    return f"{count} {thing}" if count == 1 else f"{count} {thing}s"


def listed(names: Iterable[str]) -> str:
    """Return names for the end of a sentence."""
    return ", ".join(names) or "none"
