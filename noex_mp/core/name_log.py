"""Where things stand in the log of names: a file in memory that the root writes and all read.

```text
page 0     words of eight bytes: KEPT, BASE, END
KEPT ...   records, see `registrations`: whoever has read so far reads on here
BASE ...   a SNAPSHOT, and the records since: whoever has read less, or nothing, begins here
END        where the next record will begin
```

The file only grows, and an offset means the same for ever. When most of it is history, the root
writes all living claims behind it once more, as a snapshot, moves END, BASE and KEPT, in this
order, and gives back the memory before KEPT. That is where BASE was until then: whoever has read
up to there has time, until the next snapshot, to read on instead of beginning anew.
"""

from __future__ import annotations

from typing import Final

__all__ = ["BASE", "END", "HEADER_SIZE", "KEPT"]

KEPT: Final = 0
BASE: Final = 1
END: Final = 2

# A whole page, where pages are largest.
HEADER_SIZE: Final = 65536
