"""The zygotes of a node: the one that starts its workers, and those of old code.

A zygote has the application as it was when it started. Where newer code is needed, a new
*generation* starts: the workers from then on come from it, and those of the old one run on. A
zygote that dies takes no worker with it; what starts next comes from a new one.
"""

from __future__ import annotations

import asyncio
import os
from functools import partial
from typing import Any

from noex_mp.client.api import servers_of_wire
from noex_mp.node.children import Child
from noex_mp.node.config import RootConfig
from noex_mp.node.sources import Sources
from noex_mp.node.strays import Strays
from noex_mp.node.workers import Worker, Workers
from noex_mp.node.zygote import Zygote, config_of_this_process, main_of_this_process

__all__ = ["Generations"]


class Generations:
    """Starts zygotes, renews them and ends them, and lets them start workers."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        config: RootConfig,
        workers: Workers,
        *,
        node: str,
        lifeline: int,
    ) -> None:
        """Make what starts zygotes; none starts yet.

        Args:
            loop: The root's.
            config: What the node is made of.
            workers: The node's workers.
            node: The node's id.
            lifeline: The read end of the node's lifeline.
        """
        self._loop = loop
        self._config = config
        self._workers = workers
        self._label = config.name or node
        self._lifeline = lifeline
        self._with_main = config.with_main
        self._strays = Strays(loop, node, self._keepers)
        self._sources = Sources(())
        self._living: list[Zygote] = []
        # With those that are about to end because nobody needs them any more.
        self._all: list[Zygote] = []
        self._current: asyncio.Task[Zygote] | None = None
        self._renewal: asyncio.Task[None] | None = None
        self._closing: set[asyncio.Task[None]] = set()
        self._is_stopping = False
        self._door: str | None = None

    @property
    def os_pids(self) -> list[int]:
        """The processes of the zygotes that may have workers, the newest last."""
        return [zygote.os_pid for zygote in self._living]

    def unlink_at_end(self, path: str) -> None:
        """Let every zygote remove a file when the node has gone without doing so."""
        self._door = path

    # --- start -------------------------------------------------------------------------

    async def ready(self) -> None:
        """Wait until the current generation can start workers.

        Raises:
            PreloadError: The application could not be preloaded.
        """
        await (await self._newest()).ready()

    async def start_worker(self, child: Child) -> Worker:
        """Start a worker process for a server, from the current generation."""
        group = child.placement
        label = child.title if group is None else group.name
        self._warn_of_changes(label, child.spec["server"])
        start = partial(
            self._workers.start,
            label=label,
            shared=group is not None,
            process=child.process,
            # A restart always has room: what the last worker had, and what is kept back.
            needs_room=child.report is None,
        )
        try:
            return await start(await self._newest())
        except ConnectionResetError:
            # The zygote died under the request; its successor gets it.
            await asyncio.sleep(0)
            return await start(await self._newest())

    def _warn_of_changes(self, label: str, server: str) -> None:
        for warning in self._sources.changed(server.partition(":")[0]):
            self._config.sink(label, "stderr", f"noex-mp: {warning}\n".encode())

    def _newest(self) -> asyncio.Task[Zygote]:
        task = self._current
        if task is None or (task.done() and (task.cancelled() or task.exception())):
            task = self._current = self._loop.create_task(self._start(with_main=self._with_main))
            # It may be started ahead of need; whoever needs it hears how that went.
            task.add_done_callback(lambda task: task.cancelled() or task.exception())
        return task

    async def _start(self, *, with_main: bool) -> Zygote:
        config = config_of_this_process(
            preload=list(self._config.preload),
            **main_of_this_process(),
            main_later=not with_main,
            allow_native_threads=list(self._config.allow_native_threads),
            label=self._label,
            environ={**os.environ, **self._strays.marks},
        )
        zygote = await Zygote.start(
            self._loop,
            config,
            self._lifeline,
            on_exit=self._workers.on_exit,
            on_death=lambda: self._on_death(zygote),
        )
        self._living.append(zygote)
        self._all = [each for each in self._all if not each.ended] + [zygote]
        if self._door is not None:
            zygote.unlink_at_end(self._door)
        # Now, while the zygote starts its interpreter: a change after this one is noticed.
        self._sources = Sources(self._config.preload)
        return zygote

    # --- death -------------------------------------------------------------------------

    def _on_death(self, zygote: Zygote) -> None:
        # Its workers go on, and what starts from now on comes from a new one.
        if zygote in self._living:
            self._living.remove(zygote)
        self._workers.on_zygote_death(zygote)
        self._strays.expect()
        if self._is_current(zygote):
            self._current = None
            if zygote.was_ready and not self._is_stopping:
                # Ahead of the next restart. One that cannot even preload waits for that.
                self._newest()

    def _is_current(self, zygote: Zygote) -> bool:
        task = self._current
        if task is None or not task.done() or task.cancelled() or task.exception():
            return False
        return task.result() is zygote

    def worker_died(self, worker: Worker) -> None:
        """Look for what a dead worker has left, and end the generation it was the last of."""
        if worker.zygote is None:
            self._strays.expect()
        if len(self._living) > 1:
            self._loop.call_soon(self._retire)

    def _keepers(self) -> set[int]:
        zygotes = {zygote.os_pid for zygote in self._all if not zygote.ended}
        return zygotes | {worker.os_pid for worker in self._workers.all()}

    # --- renewal -----------------------------------------------------------------------

    async def prepare_code(self, entry: dict[str, Any]) -> None:
        """Let a zygote have the script, and code that was reloaded, before what needs them.

        Args:
            entry: What is to start, as `entry_to_wire` makes it.

        Raises:
            PreloadError: The new one could not preload the application; the old one goes on.
        """
        servers = [wire for wire in servers_of_wire(entry) if wire["by_name"]]
        needs_main = not self._with_main and any(
            wire["server"].startswith("__main__:") for wire in servers
        )
        if servers and (needs_main or self._sources.reloaded()):
            await self.renew(with_main=needs_main or self._with_main)

    async def renew(self, *, with_main: bool) -> None:
        """Let the workers that start from now on come from a new zygote, with the code of now.

        Raises:
            PreloadError: The new one could not preload the application; the old one goes on.
        """
        if self._renewal is None:
            self._renewal = self._loop.create_task(self._renew(with_main=with_main))
            self._renewal.add_done_callback(self._renewed)
        await asyncio.shield(self._renewal)

    async def _renew(self, *, with_main: bool) -> None:
        if self._current is not None:
            # One that is just being executed must be known before it is replaced.
            await asyncio.wait((self._current,))
        sources = self._sources
        task = self._loop.create_task(self._start(with_main=with_main))
        try:
            await (await task).ready()
        except BaseException:
            self._sources = sources
            raise
        self._with_main, self._current = with_main, task

    def _renewed(self, renewal: asyncio.Task[None]) -> None:
        self._renewal = None
        if not renewal.cancelled():
            renewal.exception()
        self._retire()

    def _retire(self) -> None:
        """End the zygotes of old code that have no workers any more."""
        if self._is_stopping or self._renewal is not None:
            return
        for zygote in list(self._living):
            if zygote.was_ready and not self._is_current(zygote) and not self._workers.of(zygote):
                self._living.remove(zygote)
                closing = self._loop.create_task(zygote.close())
                self._closing.add(closing)
                closing.add_done_callback(self._closing.discard)

    # --- end ---------------------------------------------------------------------------

    def stopping(self) -> None:
        """Start none ahead of need and end none early from now on: the node stops."""
        self._is_stopping = True

    async def close(self) -> None:
        """End all of them; no worker is left by now."""
        if self._current is not None:
            await asyncio.wait((self._current,))
        self._current = None
        await asyncio.gather(*(zygote.close() for zygote in self._living))
        if self._renewal is not None:
            # It has heard of the end of its zygote, or has only just begun.
            await asyncio.wait((self._renewal,))
            await asyncio.gather(*(zygote.close() for zygote in self._living))
        await asyncio.gather(*self._closing, return_exceptions=True)

    async def no_strays_left(self) -> None:
        """Wait until nothing runs any more that came from a zygote and is no worker."""
        await self._strays.none_left()
