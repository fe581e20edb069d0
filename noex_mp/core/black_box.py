"""The layout of the black box: what of a worker outlives it.

One memory file per node, a slot per worker. The worker maps only its own slot; the root reads
it once the worker is dead.

```text
slot:    [cells] [outbox] [crash text]
cell:    link id | sid | begun       three unsigned integers of eight bytes each
outbox:  link id | end | replies     two of them, and packed frames up to `end`; 0: none
```

* A **cell** says, for one link and server, which message began last.
* The **outbox** holds the replies of the batch that is being worked on. They leave together, in
  one send; should the worker die before that, the root passes them on. So a handler that kills
  its process takes no finished reply with it.
* The **crash text** is what faulthandler writes: after a fatal signal, and at
  `transport.platform.DUMP_SIGNAL`.
"""

from __future__ import annotations

from typing import Final

__all__ = [
    "BEGUN",
    "CELLS_SIZE",
    "CELL_WORDS",
    "END",
    "LINK_ID",
    "OUTBOX_HEADER",
    "OUTBOX_OFFSET",
    "OUTBOX_SIZE",
    "SID",
    "SLOT_SIZE",
    "TEXT_OFFSET",
    "WORD",
]

# Sparse: only touched pages cost memory. 6 MiB hold 262,144 cells: many servers may share a worker,
# and each has a cell for each of its clients. The last part holds any crash text (at most 100
# threads of 100 frames).
SLOT_SIZE: Final = 7 * 1024 * 1024
CELLS_SIZE: Final = 6 * 1024 * 1024
OUTBOX_OFFSET: Final = CELLS_SIZE
OUTBOX_SIZE: Final = 128 * 1024
TEXT_OFFSET: Final = OUTBOX_OFFSET + OUTBOX_SIZE

WORD: Final = 8

# The words of a cell.
CELL_WORDS: Final = 3
LINK_ID: Final = 0
SID: Final = 1
BEGUN: Final = 2

# The words of the outbox (LINK_ID as above), and their size in bytes. The end counts them in.
END: Final = 1
OUTBOX_HEADER: Final = 2 * WORD
