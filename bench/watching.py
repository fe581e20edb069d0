"""The server that the benchmark lets watch another. Apart, for what it imports."""

from __future__ import annotations

import gc
from typing import Any

import psutil

from bench.servers import Echo
from noex_mp import Down, From, GenServer, NoReply, Ref, call, monitor

__all__ = ["Watcher"]


class Watcher(GenServer[Any, Any, Down]):
    """Watches another server, many times."""

    def __init__(self) -> None:
        self._watching = 0
        self._told: From[None] | None = None

    @call
    async def watch(self, ref: Ref[Echo], times: int) -> None:
        """Watch it so often; return once the root has heard of that."""
        for _ in range(times):
            monitor(ref)
        self._watching += times
        await self.ref.is_running()

    @call
    def private_memory(self) -> int:
        """Return the bytes that this process has for itself."""
        gc.collect()
        return psutil.Process().memory_full_info().uss

    @call
    def told(self, sender: From[None]) -> NoReply:
        """Return once every monitor has told of its end."""
        self._told = sender
        return NoReply()

    def handle_info(self, message: Down) -> None:
        self._watching -= 1
        if not self._watching and self._told is not None:
            self._told.reply(None)
