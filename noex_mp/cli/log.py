"""What a node has to say: one line for each thing that happens to a server.

```text
10:04:05.123 info    visits is ready (os pid 4711)
10:04:08.001 error   visits killed by SIGKILL; restarting (os pid 4711, up 2.9 s)
10:04:08.006 warning visits restarted as incarnation 2 after 5 ms (os pid 4719)
```

`record_of` puts an event into words, the two formats put a record into bytes; both are pure. The
log also passes on what the servers print, with their names.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Final, Literal, Protocol

from noex_mp.cli.streams import Stream
from noex_mp.cli.words import amount, duration
from noex_mp.client.events import Event, EventKind
from noex_mp.core.reasons import ExitReport, Replaced, is_abnormal, render
from noex_mp.node.events import lost_in_words

__all__ = ["FORMATS", "LEVELS", "JsonFormat", "Level", "Log", "Record", "TextFormat", "record_of"]

Level = Literal["debug", "info", "warning", "error"]
LEVELS: Final[tuple[Level, ...]] = ("debug", "info", "warning", "error")

# What is only told to whoever looks for mistakes, and may happen a hundred thousand times.
_DETAILS: Final[frozenset[EventKind]] = frozenset(("name_claimed", "name_freed"))

_RESET: Final = "\033[0m"
_DIM: Final = "\033[2m"
_COLOURS: Final = {"warning": "\033[33m", "error": "\033[31m"}


@dataclass(frozen=True, kw_only=True)
class Record:
    """One line of the log.

    Attributes:
        time: When, in seconds since the epoch.
        level: How much it matters.
        event: What happened, in one word for programs.
        server: The server that it happened to, or None: the node.
        what: What happened, for people; follows the server's name.
        os_pid: The process, or 0.
        facts: What else there is to know, for programs.
        traceback: Where it happened; may be empty.
    """

    time: float
    level: Level
    event: str
    what: str
    server: str | None = None
    os_pid: int = 0
    facts: Mapping[str, Any] = field(default_factory=dict[str, Any])
    traceback: str = ""


# --- words --------------------------------------------------------------------------------------


def record_of(event: Event, down_since: float | None = None) -> Record:
    """Put an event into words.

    Args:
        event: What happened to a server.
        down_since: When its last incarnation ended, in seconds since the epoch.
    """
    level, what, facts = _words(event, down_since)
    return Record(
        time=event.time,
        level=level,
        event=event.kind,
        server=event.server,
        what=what,
        os_pid=event.os_pid or (event.report.os_pid if event.report else 0),
        facts={"incarnation": event.incarnation, **facts},
        traceback=event.report.trace if event.report and event.kind == "crashed" else "",
    )


def _words(event: Event, down_since: float | None) -> tuple[Level, str, dict[str, Any]]:
    match event.kind:
        case "ready":
            # Of a restart, more is said in a moment.
            return "info" if event.incarnation == 1 else "debug", "is ready", {}
        case "restarting":
            what = f"is to start as incarnation {event.incarnation}"
            facts = {"attempt": event.attempt, "delay": event.delay}
            if event.delay:
                return "info", f"{what} in {duration(event.delay)}", facts
            return "debug", what, facts
        case "restarted":
            what = f"restarted as incarnation {event.incarnation}"
            if down_since is None:
                return "warning", what, {}
            after = max(0, round((event.time - down_since) * 1000))
            return "warning", f"{what} after {after} ms", {"after_ms": after}
        case "crashed" | "exited" if event.report is not None:
            return _exit_in_words(event.kind, event.report)
        case "messages_lost":
            return "warning", lost_in_words(event.count), {"count": event.count}
        case "dead_letter" if event.letter is not None:
            letter = event.letter
            times = amount(letter.deliveries, "time")
            what = f"ended {times} in the middle of {letter.operation}: now dead letter {letter.id}"
            return "error", what, {"letter": letter.id, "operation": letter.operation}
        case "mailbox_full" if event.count:
            messages = amount(event.count, "message")
            what = f"has a full mailbox: {messages} refused or dropped"
            return "warning", what, {"count": event.count}
        case "mailbox_full":
            return "debug", "has a full mailbox: messages wait at their senders", {}
        case "memory_pressure":
            used = f"{event.count / 2**20:.0f} MiB"
            return "warning", f"uses {used} of its {event.detail}", {"used": event.count}
        case "waiting":
            what = "waits for its restart: the system has no file descriptor, process or memory"
            return "warning", what, {}
        case kind:
            return "debug", kind.replace("_", " "), {}


def _exit_in_words(kind: str, report: ExitReport) -> tuple[Level, str, dict[str, Any]]:
    facts = {
        "reason": render(report.reason),
        "next": report.next,
        "uptime": round(report.uptime, 3),
        "requested": report.requested,
        "rule": report.rule or None,
        "operation": report.message.operation if report.message else None,
    }
    if kind == "crashed":
        return "error", report.summary, facts
    if not report.requested:
        return "info", report.summary, facts
    if is_abnormal(report.reason):
        return "warning", render(report.reason), facts
    if isinstance(report.reason, Replaced):
        return "info", report.summary, facts
    return "info", "stopped", facts


# --- formats ------------------------------------------------------------------------------------


class Format(Protocol):
    """How records and output become bytes."""

    def line(self, record: Record, node: str, stream: Stream) -> bytes:
        """Return the line (or lines) of a record."""
        ...

    def output(self, server: str, name: str, text: bytes, node: str, stream: Stream) -> bytes:
        """Return a line that a server printed; `text` comes without its end."""
        ...


class TextFormat:
    """For people."""

    def line(self, record: Record, node: str, stream: Stream) -> bytes:
        """Return the line of a record, and its traceback indented below."""
        moment = datetime.fromtimestamp(record.time).astimezone()
        # Who watches knows the day; who reads a file later does not.
        form = "%H:%M:%S" if stream.is_terminal else "%Y-%m-%d %H:%M:%S"
        stamp = f"{moment.strftime(form)}.{moment.microsecond // 1000:03d}"
        level = f"{record.level:<7}"
        if stream.in_colour:
            stamp = f"{_DIM}{stamp}{_RESET}"
            if record.level in _COLOURS:
                level = f"{_COLOURS[record.level]}{level}{_RESET}"
        what = f"{record.server} {record.what}" if record.server else record.what
        first, *more = f"{stamp} {level} {what}{_process_in_words(record)}".splitlines()
        lines = [first, *(f"    {line}" for line in (*more, *record.traceback.splitlines()))]
        return _encoded("\n".join(lines) + "\n")

    def output(self, server: str, name: str, text: bytes, node: str, stream: Stream) -> bytes:
        """Return the line behind the server's name."""
        prefix = f"{server} |"
        if stream.in_colour:
            prefix = f"{_DIM}{prefix}{_RESET}"
        return b"%s %s\n" % (_encoded(prefix), text)


def _process_in_words(record: Record) -> str:
    if not record.os_pid:
        return ""
    uptime = record.facts.get("uptime")
    up = "" if uptime is None else f", up {duration(uptime)}"
    return f" (os pid {record.os_pid}{up})"


class JsonFormat:
    """For programs: one object on each line."""

    def line(self, record: Record, node: str, stream: Stream) -> bytes:
        """Return the object of a record."""
        known = {
            "level": record.level,
            "event": record.event,
            "server": record.server,
            "message": f"{record.server} {record.what}" if record.server else record.what,
            "os_pid": record.os_pid or None,
            **record.facts,
            "traceback": record.traceback or None,
        }
        return _object(record.time, node, known)

    def output(self, server: str, name: str, text: bytes, node: str, stream: Stream) -> bytes:
        """Return the object of a printed line."""
        known = {
            "event": "output",
            "server": server,
            "stream": name,
            "text": text.decode(errors="replace"),
        }
        return _object(time.time(), node, known)


def _object(moment: float, node: str, facts: Mapping[str, Any]) -> bytes:
    stamp = datetime.fromtimestamp(moment, UTC).isoformat(timespec="milliseconds")
    known = {key: value for key, value in facts.items() if value is not None}
    line = json.dumps({"time": stamp, "node": node, **known}, ensure_ascii=False, default=repr)
    return _encoded(f"{line}\n")


def _encoded(text: str) -> bytes:
    return text.encode(errors="backslashreplace")


FORMATS: Final[Mapping[str, Format]] = {"text": TextFormat(), "json": JsonFormat()}


# --- the log ------------------------------------------------------------------------------------


class Log:
    """Writes records to standard error, and what servers print to where they printed it.

    Attributes:
        node: The node's name.
    """

    def __init__(
        self, node: str, streams: Mapping[str, Stream], log_format: Format, level: Level
    ) -> None:
        self.node = node
        self._streams = streams
        self._format = log_format
        self._level = LEVELS.index(level)
        self._down_since: dict[int, float] = {}
        self._replaced: set[int] = set()

    @property
    def on_terminal(self) -> bool:
        """Whether somebody watches."""
        return self._streams["stderr"].is_terminal

    def wants(self, kind: EventKind) -> bool:
        """Return whether an event of that kind may be worth a line at this level."""
        return self._level == 0 or kind not in _DETAILS

    def on_event(self, event: Event) -> None:
        """Write what happened to a server."""
        down_since = None
        if isinstance(event.reason, Replaced) and event.kind == "exited":
            self._replaced.add(event.sid)
        elif event.kind == "restarted" and event.sid in self._replaced:
            # Nothing has gone wrong.
            self._replaced.remove(event.sid)
            self._write(replace(record_of(event), level="info"))
            return
        if event.report is not None and event.report.next == "restarting":
            self._down_since[event.sid] = event.time
        elif event.kind == "restarted":
            down_since = self._down_since.pop(event.sid, None)
        # That the tree gave up is the node's to say.
        if event.kind != "gave_up":
            self._write(record_of(event, down_since))

    def on_output(self, server: str, name: str, line: bytes) -> None:
        """Pass on a line that a server printed."""
        stream = self._streams[name]
        data = self._format.output(server, name, line.rstrip(b"\r\n"), self.node, stream)
        stream.write(data, droppable=True)

    def say(
        self, level: Level, event: str, what: str, *, traceback: str = "", **facts: Any
    ) -> None:
        """Write something of the node's own.

        Args:
            event: What it is, in one word for programs.
            what: The same for people.
            traceback: Where it happened.
            facts: What else there is to know, for programs.
        """
        self._write(
            Record(
                time=time.time(),
                level=level,
                event=event,
                what=what,
                facts=facts,
                traceback=traceback,
            )
        )

    def say_at_terminal(self, event: str, what: str) -> None:
        """Write something to whoever has just pressed Ctrl-C, whatever the log's level is."""
        # Over the ^C that the terminal has written.
        self._streams["stderr"].write(b"\r")
        self._write(Record(time=time.time(), level="info", event=event, what=what), always=True)

    def _write(self, record: Record, *, always: bool = False) -> None:
        if always or LEVELS.index(record.level) >= self._level:
            stream = self._streams["stderr"]
            stream.write(self._format.line(record, self.node, stream))

    def close(self) -> None:
        """Wait for the last lines to be written, for a while."""
        for stream in set(self._streams.values()):
            stream.close()
