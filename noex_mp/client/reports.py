"""What a node tells of itself and its servers, and of a reload of them."""

from __future__ import annotations

from typing import Any, Final

from noex_mp.client.client import Client
from noex_mp.core.health import Health
from noex_mp.core.reasons import ExitReport
from noex_mp.core.reloaded import Reloaded
from noex_mp.core.report_plain import from_plain

__all__ = ["RELOAD_TIMEOUT", "exits_on", "health_on", "ps_on", "reload_on"]

# How long the import of new code may take, in seconds.
RELOAD_TIMEOUT: Final = 60.0


async def ps_on(client: Client) -> list[dict[str, Any]]:
    """Return the servers of a client's node, each as plain values."""
    servers: list[dict[str, Any]] = await client.request("ps")
    return servers


async def health_on(client: Client) -> Health:
    """Return how a client's node is."""
    return Health.from_plain(await client.request("health"))


async def exits_on(client: Client, server: str | None) -> list[ExitReport]:
    """Return the last exit reports, all of them or those of one server, the newest last."""
    plain: list[dict[str, Any]] = await client.request("exits", server)
    return [from_plain(report) for report in plain]


async def reload_on(client: Client, timeout: float | None = RELOAD_TIMEOUT) -> Reloaded:
    """Let a client's node replace its servers; return what came of it."""
    replaced, kept, notes = await client.request("reload", timeout)
    return Reloaded(replaced, tuple(kept), tuple(notes))
