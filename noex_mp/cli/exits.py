"""`noex-mp exits [NAME]`: why servers have ended, for people or as JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from datetime import datetime
from typing import Final

from noex_mp.cli import statuses
from noex_mp.cli.client import RunningNode, ask_all, run_with_nodes
from noex_mp.cli.results import show
from noex_mp.cli.words import amount
from noex_mp.core.reasons import ExitReport
from noex_mp.core.report_plain import from_plain

__all__ = ["exits"]


def exits(server: str | None, *, node: str | None, as_json: bool) -> int:
    """Print exit reports of one node, or of all; return the exit status.

    Args:
        server: A name, path, id or os pid, for all that is known of its last ends; None gives a
            line for each end.
        node: The node's name; None means all that run.
        as_json: For programs: one object for each report, each on a line.
    """
    return run_with_nodes(node, lambda nodes: _show(nodes, server, as_json=as_json))


async def _show(nodes: list[RunningNode], server: str | None, *, as_json: bool) -> int:
    answers, status = await ask_all(nodes, lambda node: node.exits(server))
    found = False
    sections: list[str] = []
    for node, answer in answers:
        if as_json:
            sections += [json.dumps({"node": node.name, **report}) for report in answer]
        elif answer or server is None:
            found = True
            reports = [from_plain(report) for report in answer]
            sections.append(_section(node, reports, in_full=server is not None))
    if server is not None and not found and not as_json and status == statuses.OK:
        print(f"noex-mp: no server {server!r} has ended here\n{_HINT}", file=sys.stderr)
        return statuses.FAILED
    if sections:
        show(("\n" if as_json else "\n\n").join(sections))
    return status


_HINT: Final = "See them all with: noex-mp exits"


def _section(node: RunningNode, reports: Sequence[ExitReport], *, in_full: bool) -> str:
    head = f"{node}, {amount(len(reports), 'exit')}"
    if in_full:
        return "\n\n".join([head, *(report.text for report in reports)])
    return "\n".join([head, *map(_line, reports)])


def _line(report: ExitReport) -> str:
    moment = datetime.fromtimestamp(report.time).astimezone().strftime("%Y-%m-%d %H:%M:%S")
    process = f" (os pid {report.os_pid})" if report.os_pid else ""
    return f"{moment}  {report.server} {report.summary}{process}"
