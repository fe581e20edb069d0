"""`noex-mp ps`: the servers of the running nodes, as a table or as JSON."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from noex_mp.cli.client import RunningNode, ask_all, run_with_nodes
from noex_mp.cli.results import show
from noex_mp.cli.words import amount, duration, size

__all__ = ["ps", "table"]

_HEADERS: Final = ("NAME", "ID", "SERVER", "STATE", "OS PID", "RESTARTS", "UPTIME", "MEMORY")
_NUMBERS: Final = frozenset(("OS PID", "RESTARTS", "UPTIME", "MEMORY"))


def ps(*, node: str | None, as_json: bool) -> int:
    """Print the servers of one node, or of all; return the exit status.

    Args:
        node: The node's name; None means all that run.
        as_json: For programs: one array, with an object for each node.
    """
    without = "[]" if as_json else ""
    return run_with_nodes(node, lambda nodes: _show(nodes, as_json=as_json), without=without)


async def _show(nodes: list[RunningNode], *, as_json: bool) -> int:
    answers, status = await ask_all(nodes, RunningNode.servers)
    shown: list[str | dict[str, Any]] = []
    for node, answer in answers:
        servers = [_with_memory(server) for server in answer]
        shown.append(_as_object(node, servers) if as_json else _as_section(node, servers))
    if shown or as_json:
        show(json.dumps(shown, indent=2) if as_json else "\n\n".join(map(str, shown)))
    return status


def _as_object(node: RunningNode, servers: list[dict[str, Any]]) -> dict[str, Any]:
    return {"node": node.name, "os_pid": node.os_pid or None, "servers": servers}


def _as_section(node: RunningNode, servers: list[dict[str, Any]]) -> str:
    head = f"{node}, {amount(len(servers), 'server')}"
    return "\n".join([head, *(table([_row(server) for server in servers]) if servers else ())])


def _row(server: dict[str, Any]) -> list[str]:
    return [
        server["name"] or "-",
        server["id"],
        server["server"],
        server["state"],
        str(server["os_pid"] or "-"),
        str(server["restarts"]),
        duration(server["uptime"]),
        "-" if server["memory"] is None else size(server["memory"]),
    ]


def table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines of a table of servers: words to the left, numbers to the right."""
    columns: list[list[str]] = []
    for header, *cells in zip(_HEADERS, *rows, strict=True):
        column = [header, *cells]
        width = max(map(len, column))
        columns.append([c.rjust(width) if header in _NUMBERS else c.ljust(width) for c in column])
    return ["  ".join(line).rstrip() for line in zip(*columns, strict=True)]


# --- memory -------------------------------------------------------------------------------------


def _with_memory(server: dict[str, Any]) -> dict[str, Any]:
    os_pid: int | None = server["os_pid"]
    memory = None if os_pid is None else _private_memory(os_pid)
    return {key: value for key, value in server.items() if key != "sid"} | {"memory": memory}


def _private_memory(os_pid: int) -> int | None:
    """Return what a process has for itself alone, in bytes; None if it is gone by now."""
    if sys.platform != "linux":
        return _private_memory_by_psutil(os_pid)
    with contextlib.suppress(OSError):
        # What psutil reads for `uss`, without its import, which takes longer than all the rest.
        lines = Path(f"/proc/{os_pid}/smaps_rollup").read_text().splitlines()
        return 1024 * sum(int(line.split()[1]) for line in lines if line.startswith("Private_"))
    return None


def _private_memory_by_psutil(os_pid: int) -> int | None:
    import psutil

    with contextlib.suppress(psutil.Error):
        return int(psutil.Process(os_pid).memory_full_info().uss)
    return None
