"""The layout of the black box: what of a worker outlives it.

One memory file per node, a slot per worker. The worker maps only its own slot; the root reads
it once the worker is dead.

```text
slot:       [cells] [outbox] [inbox] [names] [memory] [steps] [arguments] [stop requests]
            [crash text]
cell:       link id | sid | begun | operation | since | size | ran | received
outbox:     link id | end | replies     two of them, and packed frames up to `end`; 0: none
inbox:      link id | end | messages    as they came, up to `end`
names:      texts of UTF-8, each with a zero behind it
memory:     rss | when
steps:      sid | seq | count           how far a handler is that says so
arguments:  sid | seq | text            of the message that began last; with `debug=True`
requests:   asked | heard | link id, seq, rung | ...
```

Every word is an unsigned integer of eight bytes, but for `since` and `when`, which are floats of
eight: times of the monotonic clock.

* A **cell** says, for one link and server, which message began last. While that is worked on,
  `since` is not 0: it is when it began, by the monotonic clock. `operation` is the place of its
  name in the names, counted from 1; `size` how many bytes it had, if a cell knows it;
  `received` the last message that had to wait.
* The **own cell** of a server with a `hang_timeout` stands under the link `OWN`: since when the
  server works on anything at all, also on what no client has sent, and exactly. Its other words
  are what the worker answers when it is asked (`WITNESS_SIGNAL`): `begun` counts the questions
  that it has heard, `ran` those after which it went on in Python, and `size` is 1 if the server
  only awaited something then.
* The **memory** is how much the process had when it last looked, in bytes: it does so soon after it
  has done anything, since a process that is dead has none.
* The **outbox** holds the replies of the batch that is being worked on. They leave together, in
  one send; should the worker die before that, the root passes them on. So a handler that kills
  its process takes no finished reply with it.
* The **inbox** holds messages of a link that came together and are handled where they were read:
  to measure each for its cell would cost more than to keep all. A cell has the size of one that
  came alone, or waited.
* The **stop requests** are written by the root, and read by the worker: which calls are to come to
  their end, and how far that may go (see `core.stop_requests`). They lie in a ring: `asked` says
  how many there have been. `heard` is what the worker answers: how many there were when Python
  code of it last ran at a signal of the root's.
* The **crash text** is what faulthandler writes: after a fatal signal, and at
  `transport.platform.DUMP_SIGNAL`.
"""

from __future__ import annotations

from typing import Final

__all__ = [
    "ARGUMENTS_OFFSET",
    "ARGUMENTS_SIZE",
    "ASKED",
    "BEGUN",
    "CELLS_SIZE",
    "CELL_WORDS",
    "COUNT",
    "END",
    "FIRST_REQUEST",
    "HEARD",
    "INBOX_HEADER",
    "INBOX_OFFSET",
    "INBOX_SIZE",
    "LINK_ID",
    "MEMORY_OFFSET",
    "MEMORY_SIZE",
    "NAMES_OFFSET",
    "NAMES_SIZE",
    "OPERATION",
    "OUTBOX_HEADER",
    "OUTBOX_OFFSET",
    "OUTBOX_SIZE",
    "OWN",
    "RAN",
    "RECEIVED",
    "REQUESTS",
    "REQUESTS_OFFSET",
    "REQUESTS_SIZE",
    "REQUEST_WORDS",
    "RSS",
    "SEQ",
    "SID",
    "SINCE",
    "SIZE",
    "SLOT_SIZE",
    "STEPS_OFFSET",
    "STEPS_SIZE",
    "TEXT_OFFSET",
    "TEXT_SIZE",
    "WHEN",
    "WORD",
]

# Sparse: only touched pages cost memory. 16 MiB hold 262,144 cells: many servers may share a
# worker, and each has a cell for each of its clients. The last part holds any crash text (at most
# 100 threads of 100 frames).
SLOT_SIZE: Final = 17 * 1024 * 1024
CELLS_SIZE: Final = 16 * 1024 * 1024
OUTBOX_OFFSET: Final = CELLS_SIZE
OUTBOX_SIZE: Final = 128 * 1024
INBOX_OFFSET: Final = OUTBOX_OFFSET + OUTBOX_SIZE
INBOX_SIZE: Final = 68 * 1024
NAMES_OFFSET: Final = INBOX_OFFSET + INBOX_SIZE
NAMES_SIZE: Final = 60 * 1024 - 48
MEMORY_OFFSET: Final = NAMES_OFFSET + NAMES_SIZE
MEMORY_SIZE: Final = 16
STEPS_OFFSET: Final = MEMORY_OFFSET + MEMORY_SIZE
STEPS_SIZE: Final = 32
ARGUMENTS_OFFSET: Final = STEPS_OFFSET + STEPS_SIZE
ARGUMENTS_SIZE: Final = 4 * 1024
REQUESTS_OFFSET: Final = ARGUMENTS_OFFSET + ARGUMENTS_SIZE
REQUESTS_SIZE: Final = 4 * 1024
TEXT_OFFSET: Final = REQUESTS_OFFSET + REQUESTS_SIZE
# As much of it is read.
TEXT_SIZE: Final = 64 * 1024

WORD: Final = 8

# The words of a cell.
CELL_WORDS: Final = 8
LINK_ID: Final = 0
SID: Final = 1
BEGUN: Final = 2
OPERATION: Final = 3
SINCE: Final = 4
SIZE: Final = 5
RAN: Final = 6
RECEIVED: Final = 7

# The link id of a server's own cell; no link has it.
OWN: Final = 2**64 - 1

# The words of the outbox and of the inbox (LINK_ID as above), and their size in bytes. The end
# counts them in.
END: Final = 1
INBOX_HEADER: Final = 2 * WORD
OUTBOX_HEADER: Final = 2 * WORD

# The words of the memory.
RSS: Final = 0
WHEN: Final = 1

# The words in front of the arguments, and those of the steps (SID as above).
SEQ: Final = 0
COUNT: Final = 2

# The words of the stop requests: two in front, and three for each. There is room for more than one
# lane has tasks at a time.
ASKED: Final = 0
HEARD: Final = 1
FIRST_REQUEST: Final = 2
REQUEST_WORDS: Final = 3
REQUESTS: Final = (REQUESTS_SIZE // WORD - FIRST_REQUEST) // REQUEST_WORDS
