"""How a node is: its tree, its applications, and what is not up yet.

A child that crashes and is started again makes no node unready: that is what supervisors are for.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Final

from noex_mp.core.health import Health, NodeStatus
from noex_mp.node.branches import Branch
from noex_mp.node.members import Member, State

__all__ = ["health_of"]

_STATUSES: Final[dict[State, str]] = {
    "starting": "starting",
    "restarting": "starting",
    "running": "running",
    "stopping": "stopping",
    "stopped": "stopped",
    "gone": "stopped",
}

# So many of those that are still starting are named.
MOST_NAMED: Final = 10


def health_of(top: Branch | None, spawned: Branch, *, has_tree: bool, stopping: bool) -> Health:
    """Return how a node is.

    Args:
        top: The tree's supervisor; None before its start.
        spawned: The node's own.
        has_tree: Whether there is a tree to be started.
        stopping: Whether the node stops.
    """
    status: NodeStatus = "running"
    if stopping:
        status = "stopping"
    elif has_tree and (top is None or top.state != "running"):
        status = "starting"
    members = [*([top] if top is not None else []), *spawned.members.values()]
    applications = {
        each.title: _STATUSES[each.state] for each in _supervisors(members) if each.is_application
    }
    against = [] if status == "running" else [f"the node is {status}"]
    against += [f"application {name} is {s}" for name, s in applications.items() if s != "running"]
    if status == "starting" and top is not None:
        against += [f"{name} is starting" for name in islice(_starting(top), MOST_NAMED)]
    return Health(not against, status, applications, tuple(against))


def _supervisors(members: list[Member]) -> Iterator[Branch]:
    for each in members:
        if isinstance(each, Branch):
            yield each
            yield from _supervisors(list(each.members.values()))


def _starting(branch: Branch) -> Iterator[str]:
    """Yield the servers whose turn it is."""
    for each in branch.members.values():
        if isinstance(each, Branch):
            yield from _starting(each)
        elif each.incarnation and each.state in ("starting", "restarting"):
            yield each.title
