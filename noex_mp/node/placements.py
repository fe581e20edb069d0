"""Placement groups: which servers share a worker, and how long that worker lives.

The first member to start makes the worker. It lives until the last member has gone for good, or
until it dies: then all members are started again in one new worker.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from noex_mp.errors import BadChildSpecError
from noex_mp.node.children import Child
from noex_mp.node.workers import Worker

__all__ = ["Placement", "Placements"]


class Placement:
    """One group.

    Attributes:
        name: What its members call it.
        process: What its process is to be like; the first member to say something says it.
        members: Those that are not gone for good.
        worker: The process they live in, once there is one.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.process: dict[str, Any] | None = None
        self.members: set[Child] = set()
        self.worker: Worker | None = None
        self.coming: asyncio.Task[Worker] | None = None


class Placements:
    """The placement groups of a node."""

    def __init__(self, start_worker: Callable[[Child], Awaitable[Worker]]) -> None:
        self._start_worker = start_worker
        self._groups: dict[str, Placement] = {}

    def join(self, child: Child, name: str) -> None:
        """Make a server a member of a group.

        Raises:
            BadChildSpecError: The group's process is not what the server asks for.
        """
        group = self._groups.setdefault(name, Placement(name))
        asked, there = child.process or {}, group.process or {}
        different = [option for option in asked if asked[option] != there.get(option)]
        if different and group.members:
            raise BadChildSpecError(_conflict(child.title, name, " and ".join(different)))
        group.process = group.process or child.process
        group.members.add(child)
        child.placement = group
        child.process = group.process

    def leave(self, child: Child) -> None:
        """Take a server out of its group; the last one takes the worker with it."""
        group, child.placement = child.placement, None
        if group is None:
            return
        group.members.discard(child)
        if not group.members:
            self._groups.pop(group.name, None)
            if group.worker is not None:
                group.worker.retire()

    async def worker_for(self, child: Child) -> Worker:
        """Return the worker that a server is to live in, and start it if need be.

        Raises:
            OSError: The machine has no process, memory or descriptor left for it.
        """
        group = child.placement
        if group is None:
            return await self._start_worker(child)
        if group.worker is not None and group.worker.takes_servers:
            return group.worker
        if group.coming is None:
            group.coming = asyncio.get_running_loop().create_task(
                self._start(group, child), name=f"worker of placement {group.name}"
            )
        # Whoever stops waiting for it leaves it to the others.
        return await asyncio.shield(group.coming)

    async def _start(self, group: Placement, child: Child) -> Worker:
        try:
            worker = group.worker = await self._start_worker(child)
        finally:
            group.coming = None
        if not group.members:
            worker.retire()
        return worker


def _conflict(title: str, placement: str, options: str) -> str:
    return (
        f"{title} asks for another {options} than placement {placement!r} has, with which it is "
        f"to share a process\n"
        f"Leave {options} out, or give it a placement of its own."
    )
