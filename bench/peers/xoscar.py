"""xoscar: actors in sub-pools, each a process."""

from __future__ import annotations

import asyncio
import importlib
from typing import Any, ClassVar

from bench.peers.echo import Echo
from bench.peers.operations import Peer

__all__ = ["EchoActor", "Xoscar"]

_xo: Any = importlib.import_module("xoscar")

# Made by hand: to a checker, what may not be installed is of any type.
EchoActor: Any = type("EchoActor", (_xo.Actor,), {**vars(Echo), "__module__": __name__})


class Xoscar(Peer):
    """A pool of one process; it starts a dead one again, with its actors."""

    title = "xoscar"
    package = "xoscar"
    settings = "create_actor_pool(n_process=1); TCP on the loopback"
    awaits: ClassVar[bool] = True

    async def open(self) -> None:
        """Start a pool, and an actor in its process."""
        self._pool: Any = await _xo.create_actor_pool("127.0.0.1", n_process=1)
        strategy = _xo.allocate_strategy.ProcessIndex(1)
        self._echo: Any = await _xo.create_actor(
            EchoActor,
            address=self._pool.external_address,
            uid="echo",
            allocate_strategy=strategy,
        )

    async def close(self) -> None:
        """Stop the pool."""
        await self._pool.stop()

    def ping(self, value: int) -> Any:
        """Call."""
        return self._echo.ping(value)

    async def pings(self, width: int) -> None:
        """Gather."""
        await asyncio.gather(*(self._echo.ping(i) for i in range(width)))

    def note(self) -> Any:
        """Tell."""
        return self._echo.note.tell(1)

    def seen(self) -> Any:
        """Call."""
        return self._echo.seen()

    def measure(self, data: bytes) -> Any:
        """Call."""
        return self._echo.measure(data)

    async def another(self) -> None:
        """Append a sub-pool, and create an actor there."""
        address = await self._pool.append_sub_pool()
        echo: Any = await _xo.create_actor(EchoActor, address=address)
        assert await echo.ping(1) == 1

    def os_pid(self) -> Any:
        """Call."""
        return self._echo.os_pid()

    async def next_reply(self) -> None:
        """Call until it is answered."""
        while True:
            try:
                await self._echo.ping(1)
            except Exception:
                # Which one it is depends on how far the restart has come.
                await asyncio.sleep(0.001)
            else:
                return
