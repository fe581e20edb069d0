"""What a node inside somebody's program has to say, through Python's own `logging`.

```text
ERROR:noex_mp:visits crashed with ValueError: no such page; restarting (os pid 4711)
Traceback (most recent call last):
  ...
```

A record that tells of an end has the whole `ExitReport`, as its `report`.

A program that has not set up logging sees it on standard error, as all warnings.

The root's event loop keeps servers alive, and a logging handler may block: on its lock, a pipe,
the network. So the records go to a thread, which does the waiting, as for what workers print.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
import traceback
from typing import Any, Final

from noex_mp.client.events import Event, EventKind
from noex_mp.core.reasons import ExitReport
from noex_mp.node.events import lost_in_words
from noex_mp.node.output import PATIENCE, start_thread

__all__ = ["EventLog"]

# So many records may wait for a handler that blocks; those beyond it are only counted.
ROOM: Final = 1000

_logger: Final = logging.getLogger("noex_mp")

# The kinds of what somebody should hear of.
_LOGGED: Final[frozenset[EventKind]] = frozenset(
    ("crashed", "gave_up", "messages_lost", "dead_letter")
)

#: The level, what `Logger.log` takes besides, and the report of the end of which it tells.
_Record = tuple[int, str, tuple[Any, ...], ExitReport | None]


class EventLog:
    """A listener that logs what somebody should hear of; it never waits."""

    def __init__(self) -> None:
        self._waiting: queue.SimpleQueue[_Record | None] = queue.SimpleQueue()
        self._dropped = 0
        self._thread: threading.Thread | None = None

    @staticmethod
    def wants(kind: EventKind) -> bool:
        """Return whether any event of that kind is logged."""
        return kind in _LOGGED

    def __call__(self, event: Event) -> None:
        """Log an event, if it is one that matters."""
        record = self._record_of(event)
        if record is None:
            return
        if self._waiting.qsize() >= ROOM:
            self._dropped += 1
            return
        self._note_what_was_dropped()
        self._put(record)

    def _record_of(self, event: Event) -> _Record | None:
        report = event.report
        if event.kind == "messages_lost":
            return logging.WARNING, "%s %s", (event.server, lost_in_words(event.count)), report
        if event.letter is not None:
            return (
                logging.ERROR,
                "dead letter %d: %s",
                (event.letter.id, event.letter.summary),
                report,
            )
        if report is None or event.kind not in ("crashed", "gave_up"):
            return None
        if event.kind == "gave_up":
            # That a spawned server does not come back has been said with its crash.
            return (logging.ERROR, "%s", (event.detail,), report) if event.detail else None
        what = (event.server, report.summary, report.os_pid)
        if not report.trace:
            return logging.ERROR, "%s %s (os pid %d)", what, report
        return logging.ERROR, "%s %s (os pid %d)\n%s", (*what, report.trace.rstrip()), report

    def _note_what_was_dropped(self) -> None:
        if self._dropped:
            what = "%d messages of noex-mp were dropped: a logging handler had blocked"
            self._put((logging.WARNING, what, (self._dropped,), None))
            self._dropped = 0

    def _put(self, record: _Record) -> None:
        self._waiting.put(record)
        if self._thread is None:
            # None starts while the interpreter ends, or where the system has no more of them: then
            # the records wait for the end of the node.
            with contextlib.suppress(RuntimeError):
                self._thread = start_thread(self._run, "noex-mp log")

    def _run(self) -> None:
        while (record := self._waiting.get()) is not None:
            _log(*record)

    def close(self) -> None:
        """Wait until all is logged, for a while."""
        self._note_what_was_dropped()
        self._waiting.put(None)
        if self._thread is None:
            self._run()
        else:
            self._thread.join(PATIENCE)


def _log(level: int, text: str, values: tuple[Any, ...], report: ExitReport | None) -> None:
    try:
        _logger.log(level, text, *values, extra={"report": report})
    except Exception:
        # Logging answers for most of what handlers raise, in this way, but not for all of it.
        traceback.print_exc()
