"""noex-mp itself."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any, ClassVar

from bench.peers.operations import Peer
from bench.servers import Echo
from noex_mp import Ref, ServerExitedError, shutdown, spawn

__all__ = ["Ours"]


class Ours(Peer):
    """A server in a worker process, called from asyncio."""

    title = "noex-mp"
    package = "noex-mp"
    awaits: ClassVar[bool] = True

    async def open(self) -> None:
        """Start a worker with an `Echo` in it."""
        self._echo: Ref[Echo] = await spawn(Echo)

    async def close(self) -> None:
        """Stop the node."""
        await shutdown()

    def ping(self, value: int) -> Awaitable[int]:
        """Call `Echo.ping`."""
        return Echo.ping(self._echo, value)

    async def pings(self, width: int) -> None:
        """Gather the operations' futures."""
        await asyncio.gather(*(Echo.ping(self._echo, i) for i in range(width)))

    def note(self) -> Awaitable[None]:
        """Cast."""
        return Echo.note(self._echo, 1)

    def seen(self) -> Awaitable[int]:
        """Call `Echo.seen`."""
        return Echo.seen(self._echo)

    def measure(self, data: bytes) -> Awaitable[int]:
        """Call `Echo.measure`."""
        return Echo.measure(self._echo, data)

    async def another(self) -> None:
        """Spawn one more."""
        assert await Echo.ping(await spawn(Echo), 1) == 1

    def os_pid(self) -> Awaitable[Any]:
        """Call `Echo.os_pid`."""
        return Echo.os_pid(self._echo)

    async def next_reply(self) -> None:
        """Call: what had not begun goes to the next incarnation by itself."""
        while True:
            try:
                await Echo.ping(self._echo, 1)
            except ServerExitedError:
                continue
            return
