"""What a node tells of its servers: those that run, and how others have ended."""

from __future__ import annotations

from typing import Any

from noex_mp.client.client import Client
from noex_mp.core.reasons import ExitReport
from noex_mp.core.report_plain import from_plain

__all__ = ["exits_on", "ps_on"]


async def ps_on(client: Client) -> list[dict[str, Any]]:
    """Return the servers of a client's node, each as plain values."""
    servers: list[dict[str, Any]] = await client.request("ps")
    return servers


async def exits_on(client: Client, server: str | None) -> list[ExitReport]:
    """Return the last exit reports, all of them or those of one server, the newest last."""
    plain: list[dict[str, Any]] = await client.request("exits", server)
    return [from_plain(report) for report in plain]
