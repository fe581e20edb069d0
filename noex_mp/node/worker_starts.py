"""Starts worker processes, from the zygote that has the code which their servers need."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

from noex_mp.client.api import servers_of_wire
from noex_mp.errors import PreloadError
from noex_mp.node.children import Child
from noex_mp.node.config import RootConfig
from noex_mp.node.strays import Strays
from noex_mp.node.workers import Worker, Workers
from noex_mp.node.zygotes import Preload, Zygotes
from noex_mp.transport import cut_over

__all__ = ["WorkerStarts"]


class WorkerStarts:
    """Starts workers, and sees to it that nothing of theirs is left.

    Attributes:
        zygotes: Where they come from.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        config: RootConfig,
        workers: Workers,
        *,
        node: str,
        lifeline: int,
    ) -> None:
        """Make what starts workers; nothing starts yet.

        Args:
            loop: The root's.
            config: What the node is made of.
            workers: The node's workers.
            node: The node's id.
            lifeline: The read end of the node's lifeline.
        """
        self._config = config
        self._workers = workers
        self._loop = loop
        self._strays = Strays(loop, node, self._keepers)
        self.zygotes = Zygotes(
            loop,
            workers,
            Preload(config.preload, config.with_main, config.allow_native_threads),
            lifeline,
            label=config.name or node,
            marks=self._strays.marks,
            on_death=self._strays.expect,
        )

    async def ready(self) -> None:
        """Wait until the current zygote can start workers.

        Raises:
            PreloadError: The application could not be preloaded.
        """
        zygote = await self.zygotes.current()
        cut_over.measure_once()
        await zygote.ready()

    async def start(self, child: Child) -> Worker:
        """Start a worker process for a server, with the code of now."""
        group = child.placement
        label = child.title if group is None else group.name
        for warning in self.zygotes.warnings(child.spec["server"].partition(":")[0]):
            self._config.sink(label, "stderr", f"noex-mp: {warning}\n".encode())
        start = partial(
            self._workers.start,
            label=label,
            shared=group is not None,
            process=child.process,
            # A restart always has room: what the last worker had, and what is kept back.
            needs_room=child.report is None,
        )
        while True:
            number = self.zygotes.generation.number
            zygote = await self.zygotes.current()
            try:
                worker = await start(zygote)
            except PreloadError:
                # Each attempt has a zygote of its own: this one would refuse them all, at once.
                await zygote.failed()
                raise
            except ConnectionResetError:
                # The zygote died under the request; its successor gets it.
                await asyncio.sleep(0)
                worker = await start(await self.zygotes.current())
            worker.generation = number
            if self.zygotes.is_current(worker):
                return worker
            # The code was changed under the request.
            worker.retire()

    async def prepare_code(self, entry: dict[str, Any]) -> None:
        """Let a zygote have the script, and code that was reloaded, before what needs them.

        Args:
            entry: What is to start, as `entry_to_wire` makes it.

        Raises:
            PreloadError: The new one could not preload the application; the old one goes on.
            NodeDownError: The node stops.
        """
        servers = [wire for wire in servers_of_wire(entry) if wire["by_name"]]
        preload = self.zygotes.generation.preload
        needs_main = not preload.with_main and any(
            wire["server"].startswith("__main__:") for wire in servers
        )
        if servers and (needs_main or self.zygotes.is_out_of_date):
            with_main = needs_main or preload.with_main
            await self.zygotes.renew(preload._replace(with_main=with_main))

    def worker_died(self, worker: Worker) -> None:
        """Look for what a dead worker has left, and end the zygote it was the last of."""
        if worker.zygote is None:
            self._strays.expect()
        self._loop.call_soon(self.zygotes.retire)

    async def no_strays_left(self) -> None:
        """Wait until nothing runs any more that came from a zygote and is no worker."""
        await self._strays.none_left()

    def _keepers(self) -> set[int]:
        return self.zygotes.os_pids | {worker.os_pid for worker in self._workers.all()}
