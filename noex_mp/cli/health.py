"""`noex-mp health [NODE]`: whether nodes are alive and ready, for people, scripts and probes."""

from __future__ import annotations

import json

from noex_mp.cli import statuses
from noex_mp.cli.client import RunningNode, ask_all, run_with_nodes
from noex_mp.cli.results import show
from noex_mp.core.health import Health

__all__ = ["health"]


def health(*, node: str | None, only_live: bool, as_json: bool) -> int:
    """Print how one node is, or all; return 0 if all that were asked are well, else 1.

    Args:
        node: The node's name; None means all that run.
        only_live: Whether it is enough that a node answers.
        as_json: For programs: one object for each node, each on a line.
    """
    return run_with_nodes(node, lambda nodes: _show(nodes, only_live=only_live, as_json=as_json))


async def _show(nodes: list[RunningNode], *, only_live: bool, as_json: bool) -> int:
    answers, status = await ask_all(nodes, RunningNode.health)
    for node, found in answers:
        if not (only_live or found.ready):
            status = statuses.FAILED
        show(_as_json(node, found) if as_json else _as_line(node, found, only_live=only_live))
    return status


def _as_json(node: RunningNode, found: Health) -> str:
    facts = {"node": node.name, "os_pid": node.os_pid or None, "live": True, **found.as_plain()}
    return json.dumps(facts)


def _as_line(node: RunningNode, found: Health, *, only_live: bool) -> str:
    if only_live:
        return f"{node} is alive"
    return f"{node} is ready" if found.ready else f"{node} is not ready: {_why(found)}"


def _why(found: Health) -> str:
    return ", ".join(found.not_ready)
