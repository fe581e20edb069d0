"""Patterns of names, as `match` of a registry takes them.

`*` stands for any run of characters but `/`, `**` for any run at all, `?` for one character;
everything else means itself. The whole name has to fit.

```python
>>> fits = compile_glob("rooms/*")
>>> bool(fits("rooms/lobby")), bool(fits("rooms/lobby/1")), bool(fits("rooms/"))
(True, False, True)

```

Promise: no I/O here.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from typing import Final

__all__ = ["compile_glob"]

_WILD: Final = re.compile(r"\*\*|\*|\?")
_MEANINGS: Final = {"**": ".*", "*": "[^/]*", "?": "."}


@lru_cache(maxsize=256)
def compile_glob(glob: str) -> Callable[[str], object]:
    """Return a function that returns something true for the names that fit a pattern."""
    parts: list[str] = []
    end = 0
    for wild in _WILD.finditer(glob):
        parts += re.escape(glob[end : wild.start()]), _MEANINGS[wild.group()]
        end = wild.end()
    # A bound method of C's: a hundred thousand names may be looked at.
    return re.compile("".join(parts) + re.escape(glob[end:]), re.DOTALL).fullmatch
