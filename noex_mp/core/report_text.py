"""An exit report in full, for people: it fits on a screen.

```text
visits killed by SIGKILL; restarting
  when:     2026-11-28 12:07:20, after 1.89 s
  which:    incarnation 1 (0 restarts), os pid 6824
  asked by: nobody
  message:  increment, begun 0.245 ms before
  mailbox:  nothing waited
```

Promise: pure functions, no I/O.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Final

from noex_mp.core.reasons import Begun, ExitReport, Rule

__all__ = ["COLUMNS", "LINES", "text_of"]

LINES: Final = 24
COLUMNS: Final = 100

# Of what a server wrote and where it was, so many lines at least are shown if there are as many.
_LEAST: Final = 4

_RULES: Final[dict[Rule, str]] = {
    "": "nobody",
    "stop": "somebody who stopped it",
    "group": "its supervisor, to start its group again",
    "supervisor": "its supervisor, which ended",
    "node": "its node, which stopped",
    "hurry": "whoever stopped it, out of patience",
    "init_timeout": "the time limit of its init",
    "shutdown_timeout": "the time limit of its stop",
    "hang_timeout": "the time limit of its handlers",
    "task_stop": "whoever wanted to stop the task that it ran",
    "memory_limit": "the memory limit of its process",
    "placement": "its placement group, whose process had to end",
    "exit_signal": "an exit signal, from a link or from somebody",
    "reload": "a reload, to give it other code",
    "protocol": "its root, with which it could not talk any more",
}


def text_of(report: ExitReport) -> str:
    """Return a report as lines of text, without an end on the last."""
    head = [f"{report.server} {report.summary}", *_facts(report)]
    # Of a traceback and of an output the end matters most; of a stack, which faulthandler prints
    # the other way round, the beginning.
    blocks = [
        ("printed", list(report.stderr), 1.0),
        ("traceback", report.traceback.splitlines(), 0.8),
        ("stack", report.stack.splitlines(), 0.2),
    ]
    shown = [block for block in blocks if block[1]]
    room = LINES - len(head) - len(shown)
    lines = list(head)
    for place, (title, block, end) in enumerate(shown):
        # What comes later keeps its room.
        later = sum(min(_LEAST, len(other)) for _, other, _ in shown[place + 1 :])
        cut = _cut(block, room - later, end)
        room -= len(cut)
        lines += [f"  {title}:", *(f"    {line}" for line in cut)]
    return "\n".join(_narrow(line) for line in lines)


def _facts(report: ExitReport) -> Iterator[str]:
    when = datetime.fromtimestamp(report.time).astimezone().strftime("%Y-%m-%d %H:%M:%S")
    yield _fact("when", f"{when}, after {_duration(report.uptime)}")
    times = f"{report.restarts} restart{'' if report.restarts == 1 else 's'}"
    process = f", os pid {report.os_pid}" if report.os_pid else ""
    yield _fact("which", f"incarnation {report.incarnation} ({times}){process}")
    yield _fact("asked by", _RULES.get(report.rule, report.rule))
    yield _fact("message", _message(report.message))
    waiting = f"{report.mailbox} waited" if report.mailbox else "nothing waited"
    lost = f", {report.casts_lost} casts lost" if report.casts_lost else ""
    yield _fact("mailbox", f"{waiting}{lost}")
    memory = _memory(report)
    if memory:
        yield _fact("memory", memory)


def _fact(name: str, value: str) -> str:
    return f"  {name + ':':<9} {value}"


def _message(begun: Begun | None) -> str:
    if begun is None:
        return "none had begun"
    size = "" if begun.size is None else f", {_bytes(begun.size)}"
    attempt = f", attempt {begun.attempts}" if begun.attempts > 1 else ""
    step = "" if begun.steps is None else f", in step {begun.steps}"
    called = f"{begun.operation}({begun.arguments})" if begun.arguments else begun.operation
    return f"{called}{size}, begun {_duration(begun.age)} before{step}{attempt}"


def _memory(report: ExitReport) -> str:
    parts: list[str] = []
    if report.rss is not None:
        when = f"{_duration(report.rss_age)} before" if report.rss_age else "in the end"
        parts.append(f"{_bytes(report.rss)} {when}")
    if report.peak_rss is not None:
        parts.append(f"{_bytes(report.peak_rss)} at most")
    if report.oom_kills:
        parts.append(f"OOM kills since its start: {report.oom_kills}")
    return ", ".join(parts)


def _cut(lines: Sequence[str], room: int, end: float) -> Sequence[str]:
    """Return the lines, or as many of the first and the last as there is room for.

    Args:
        end: Which part of the room is for the last ones, from 0 to 1.
    """
    if len(lines) <= room:
        return lines
    last = round((room - 1) * end)
    first = max(0, room - 1 - last)
    left_out = f"... ({len(lines) - first - last} lines)"
    return [*lines[:first], left_out, *lines[len(lines) - last :]]


def _narrow(line: str) -> str:
    clean = line.replace("\t", "    ").rstrip()
    clean = "".join(char if char.isprintable() else "?" for char in clean)
    return clean if len(clean) <= COLUMNS else f"{clean[: COLUMNS - 4]} ..."


def _duration(seconds: float) -> str:
    if seconds < 1:
        return f"{seconds * 1000:.3g} ms"
    if seconds < 120:
        return f"{seconds:.3g} s"
    hours, rest = divmod(int(seconds), 3600)
    return f"{hours} h {rest // 60} min" if hours else f"{rest // 60} min"


def _bytes(count: int) -> str:
    if count < 1024:
        return f"{count} bytes"
    if count < 1024**2:
        return f"{count / 1024:.1f} KiB"
    return f"{count / 1024**2:.1f} MiB" if count < 1024**3 else f"{count / 1024**3:.2f} GiB"
