"""A searchable index of the Python standard library, built by a tree of OS processes.

```text
noex-mp run examples.codeindex:tree
noex-mp call index search '"asyncio.Queue"'
```

`servers` is what to read first.
"""

from __future__ import annotations

import os
from pathlib import Path

from examples.codeindex.library import Library, standard_library, work_folder
from examples.codeindex.servers import CodeIndex, Crawler, Parser
from noex_mp import Supervisor, child

__all__ = ["CodeIndex", "Crawler", "Library", "Parser", "tree"]


def tree(
    library: Library | None = None, work: Path | None = None, parsers: int | None = None
) -> Supervisor:
    """Return the supervision tree: the index, the parsers, the crawler.

    Args:
        library: What to index; the standard library of this Python if it is not given.
        work: Where the journal lives; `$CODEINDEX_WORK` or a temporary folder if not given.
        parsers: How many parsers there are; one per core if not given, and at least two.
    """
    library = library or standard_library()
    journal = (work or work_folder()) / "journal"
    names = [f"parser-{number}" for number in range(1, (parsers or _cores()) + 1)]
    return Supervisor(
        child(CodeIndex, str(journal)).options(id="index", name="index"),
        *(child(Parser, library).options(id=name, name=name) for name in names),
        child(Crawler, library, names).options(id="crawler", name="crawler"),
        # A file that kills its parser is given up at the third time, so leave room for that.
        max_restarts=10,
    )


def _cores() -> int:
    return max(2, os.cpu_count() or 1)
