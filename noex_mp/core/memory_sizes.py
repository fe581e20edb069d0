"""Amounts of memory, as people write them: a number of bytes, or `"512MB"`.

```python
>>> in_bytes("512MB"), in_bytes("1.5 GiB"), in_bytes(2**30)
(512000000, 1610612736, 1073741824)

```

Promise: pure functions, no I/O.
"""

from __future__ import annotations

import re
from typing import Final

__all__ = ["SMALLEST_LIMIT", "in_bytes"]

#: What a process has to be allowed at least, in bytes: an interpreter needs some of it.
SMALLEST_LIMIT: Final = 16 * 2**20

_UNITS: Final = {
    "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12,
    "KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40,
}  # fmt: skip
_AMOUNT: Final = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]+)\s*", re.ASCII)


def in_bytes(amount: object) -> int | None:
    """Return an amount of memory in bytes; None if it is none."""
    if isinstance(amount, int) and not isinstance(amount, bool):
        return amount
    found = _AMOUNT.fullmatch(amount) if isinstance(amount, str) else None
    unit = _UNITS.get(found[2].upper()) if found else None
    return None if found is None or unit is None else int(float(found[1]) * unit)
