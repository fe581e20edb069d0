"""Keeps an exit report small, whatever a server has raised, printed or was called.

Reports are kept, and travel to everybody who had called the server. One that holds a megabyte of a
server's output, or of its arguments, would cost more than the death that it tells of.

Promise: pure functions, no I/O.
"""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any, Final

from noex_mp.core.reasons import Begun, ExitReason, ExitReport, Linked, Unknown

__all__ = ["LAST_LINES", "bounded", "last_lines", "shortened_to"]

# In bytes of UTF-8. Together they stay below the 16 KiB that a report may have.
_TITLE: Final = 300
_REASON: Final = 1200  # each text of a reason, and it has two at most
_TRACEBACK: Final = 5000
_STACK: Final = 3000
_ERRORS: Final = 3000
_ARGUMENTS: Final = 500
_SHARED: Final = 500

# One line of a traceback, or of what a server printed, in characters.
_LINE: Final = 300

# The runtime names only the first of a chain of links; somebody else may say anything.
_LINKS: Final = 2

# How many lines of a server's standard error a report has.
LAST_LINES: Final = 20

_LEFT_OUT: Final = "\n  ...\n"


def bounded(report: ExitReport) -> ExitReport:
    """Return a report with every text of it cut to its limit."""
    return replace(
        report,
        server=shortened_to(_TITLE, report.server),
        reason=_bounded_reason(report.reason),
        traceback=_cut_in_the_middle(report.traceback, _TRACEBACK),
        stack=_cut_in_the_middle(report.stack, _STACK),
        message=_bounded_message(report.message),
        stderr=last_lines(report.stderr),
        next=shortened_to(_TITLE, report.next),
        shared=shortened_to(_SHARED, report.shared),
    )


def _bounded_reason(reason: ExitReason, depth: int = 0) -> ExitReason:
    if isinstance(reason, Linked):
        if depth > _LINKS:
            return Unknown("links to links to links ...")
        server = shortened_to(_TITLE, reason.server)
        return Linked(server, _bounded_reason(reason.reason, depth + 1))
    texts: dict[str, Any] = {
        field.name: shortened_to(_REASON, value)
        for field in fields(reason)
        if isinstance(value := getattr(reason, field.name), str) and len(value) * 4 > _REASON
    }
    return replace(reason, **texts) if texts else reason


def _bounded_message(begun: Begun | None) -> Begun | None:
    if begun is None:
        return None
    return replace(
        begun,
        operation=shortened_to(_TITLE, begun.operation),
        arguments=shortened_to(_ARGUMENTS, begun.arguments),
    )


def last_lines(lines: tuple[str, ...]) -> tuple[str, ...]:
    """Return the last lines of an output: so many, and so long, as a report may have."""
    kept: list[str] = []
    room = _ERRORS
    for line in reversed(lines[-LAST_LINES:]):
        short = line[:_LINE]
        room -= len(short.encode(errors="replace")) + 1
        if room < 0:
            break
        kept.append(short)
    return tuple(reversed(kept))


def shortened_to(limit: int, text: str) -> str:
    """Return a text cut to so many bytes, with an ellipsis where something is missing."""
    data = text.encode(errors="surrogatepass")
    if len(data) <= limit:
        return text
    return data[: limit - 4].decode(errors="ignore") + " ..."


def _cut_in_the_middle(text: str, limit: int) -> str:
    """Return a text with short lines, of which the middle ones are left out if it is long."""
    if len(text) * 4 <= limit:
        return text
    lines = (line if len(line) <= _LINE else f"{line[:_LINE]} ..." for line in text.splitlines())
    data = "\n".join(lines).encode(errors="surrogatepass")
    if len(data) <= limit:
        return data.decode(errors="surrogatepass")
    last = limit * 2 // 3
    first = limit - last - len(_LEFT_OUT)
    head, tail = data[:first].decode(errors="ignore"), data[-last:].decode(errors="ignore")
    return head.rpartition("\n")[0] + _LEFT_OUT + (tail.partition("\n")[2] or tail)
