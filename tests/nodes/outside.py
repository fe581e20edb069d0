"""A node as another program of its user sees it."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from noex_mp.client.client import Client, connect_client
from noex_mp.transport.paths import connect_unix, runtime_folder


@dataclass(frozen=True)
class Sent:
    """An operation, as a program names it that does not know its class."""

    name: str
    idempotent: bool = False
    max_deliveries: int | None = None


@asynccontextmanager
async def outside(name: str) -> AsyncGenerator[Client]:
    """Connect as another program of this user would."""
    sock: socket.socket = connect_unix(runtime_folder(), f"{name}.sock")
    client = connect_client(asyncio.get_running_loop(), sock, "")
    yield client
    client.close()
