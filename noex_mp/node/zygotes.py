"""The zygotes of a node: the one that new workers come from, and those of code from before.

A *generation* is the application's code as it was when a zygote preloaded it. Workers of an old one
run on until they end, and their zygote with them. Should the current zygote die, another takes its
place, with the code that the files hold by then.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

from noex_mp.errors import NodeDownError, PreloadError
from noex_mp.node.sources import Sources
from noex_mp.node.workers import Worker, Workers
from noex_mp.node.zygote import Zygote, config_of_this_process, main_of_this_process

__all__ = ["Generation", "Preload", "Zygotes"]


class Preload(NamedTuple):
    """What a zygote imports.

    Attributes:
        modules: Their names.
        with_main: Whether it runs the user's script too.
        allow_native_threads: Native threads that these may leave.
    """

    modules: Sequence[str] = ()
    with_main: bool = False
    allow_native_threads: Sequence[str] = ()


class Generation:
    """The application's code of one moment, and the zygote that has it.

    Attributes:
        number: Counts them; never used again.
        preload: What its zygote imports.
        sources: What the files were when it did.
        task: Starts the zygote; None until somebody needs one, and after its death.
    """

    def __init__(self, number: int, preload: Preload) -> None:
        self.number = number
        self.preload = preload
        self.sources = Sources(())
        self.task: asyncio.Task[Zygote] | None = None

    @property
    def zygote(self) -> Zygote | None:
        """Its zygote, if that has been executed; perhaps it still preloads."""
        task = self.task
        if task is None or not task.done() or task.cancelled() or task.exception():
            return None
        return task.result()


def _is_of_no_use(task: asyncio.Task[Zygote]) -> bool:
    # Of a death we are told a moment after it.
    return task.exception() is not None or task.result().ended


class Zygotes:
    """Starts zygotes, and ends those whose workers are gone.

    Attributes:
        is_stopping: The node stops: no zygote is started ahead of need, and all are ended soon.
        unlinks: The file that a zygote removes when the root is gone, or None.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        workers: Workers,
        preload: Preload,
        lifeline: int,
        *,
        label: str,
        marks: Mapping[str, str],
        on_death: Callable[[], None],
    ) -> None:
        """Make the register of a node's zygotes.

        Args:
            lifeline: The read end of the node's lifeline.
            label: What the node is called in the list of processes.
            marks: Variables that are set in everything that comes from a zygote.
            on_death: Is called when one has died without being asked to.
        """
        self._loop = loop
        self._workers = workers
        self._lifeline = lifeline
        self._label = label
        self._marks = marks
        self._on_death = on_death
        self.is_stopping = False
        self.unlinks: str | None = None
        self._running: list[Zygote] = []
        # With those that are about to end because nobody needs them any more.
        self._known: list[Zygote] = []
        self._generation = Generation(1, preload)
        self._last_number = 1
        # Kept although it may have no workers: somebody may want to go back to it.
        self._kept: Generation | None = None
        self._renewal: asyncio.Task[None] | None = None
        # What a renewal waits for.
        self._coming: Generation | None = None
        self._closing: set[asyncio.Task[None]] = set()

    # --- the current one ---------------------------------------------------------------

    @property
    def generation(self) -> Generation:
        """The code that workers have which start now."""
        return self._generation

    def current(self) -> asyncio.Task[Zygote]:
        """Return the task that starts the current zygote, or has started it."""
        generation = self._generation
        task = generation.task
        if task is None or (task.done() and (task.cancelled() or _is_of_no_use(task))):
            task = generation.task = self._loop.create_task(self._start(generation))
            # It may be started ahead of need; whoever needs it hears how that went.
            task.add_done_callback(lambda task: task.cancelled() or task.exception())
        return task

    async def _start(self, generation: Generation) -> Zygote:
        modules, with_main, threads = generation.preload
        config = config_of_this_process(
            preload=list(modules),
            **main_of_this_process(),
            main_later=not with_main,
            allow_native_threads=list(threads),
            label=self._label,
            environ={**os.environ, **self._marks},
        )
        zygote = await Zygote.start(
            self._loop,
            config,
            self._lifeline,
            on_exit=self._workers.on_exit,
            on_death=lambda: self._has_died(zygote, generation),
        )
        self._running.append(zygote)
        self._known = [each for each in self._known if not each.ended] + [zygote]
        if self.unlinks is not None:
            zygote.unlink_at_end(self.unlinks)
        # Now, while the zygote starts its interpreter: a change after this one is noticed.
        generation.sources = Sources(modules)
        return zygote

    def _has_died(self, zygote: Zygote, generation: Generation) -> None:
        # Its workers go on, and what starts from now on comes from a new one.
        if zygote in self._running:
            self._running.remove(zygote)
        self._workers.on_zygote_death(zygote)
        self._on_death()
        if generation.zygote is zygote:
            generation.task = None
            if generation is self._generation and zygote.was_ready and not self.is_stopping:
                # Ahead of the next restart. One that cannot even preload waits for that.
                self.current()

    @property
    def os_pids(self) -> set[int]:
        """The processes of those that have not ended."""
        return {zygote.os_pid for zygote in self._known if not zygote.ended}

    # --- new code ----------------------------------------------------------------------

    def warnings(self, module: str) -> Iterator[str]:
        """Yield a sentence for each file that has changed since the code of now was loaded."""
        yield from self._generation.sources.changed(module)

    @property
    def is_out_of_date(self) -> bool:
        """Whether the program itself has loaded a module again, which its servers are to have."""
        return self._generation.sources.reloaded()

    async def renew(self, preload: Preload | None = None) -> None:
        """Let the workers that start from now on come from a new zygote, with the code of now.

        Args:
            preload: What it imports; None means the same as before.

        Raises:
            PreloadError: The new one could not preload the application; the old one goes on.
            NodeDownError: The node stops.
        """
        if self._renewal is None:
            self._renewal = self._loop.create_task(self._renew(preload))
            self._renewal.add_done_callback(self._renewed)
        await asyncio.shield(self._renewal)

    async def _renew(self, preload: Preload | None) -> None:
        old = self._generation
        if old.task is not None:
            # One that is just being executed must be known before it is replaced.
            await asyncio.wait((old.task,))
        self._last_number += 1
        self._coming = new = Generation(self._last_number, preload or old.preload)
        new.task = self._loop.create_task(self._start(new))
        try:
            await (await new.task).ready()
        except ConnectionResetError:
            # We have closed it before it was ready.
            if self.is_stopping:
                raise NodeDownError("the node is stopping, and starts nothing any more") from None
            raise PreloadError("the import of the new code was given up") from None
        finally:
            self._coming = None
        self._generation = new

    async def give_up_renewal(self) -> str:
        """End a new zygote that still preloads; the old one goes on.

        Returns:
            The module that it was importing; empty if it had not come to one.
        """
        renewal, coming = self._renewal, self._coming
        if renewal is None:
            return ""
        if coming is not None and coming.task is not None:
            await asyncio.wait((coming.task,))
        zygote = None if coming is None else coming.zygote
        if zygote is not None:
            await zygote.close()
        await asyncio.wait((renewal,))
        return "" if zygote is None else zygote.importing

    async def renew_and_keep(self, preload: Preload | None = None) -> None:
        """Renew, and keep the old zygote, to `go_back` to, until `keep_no_more`.

        Raises:
            PreloadError, NodeDownError: As `renew`.
        """
        while self._renewal is not None:
            # The files may have changed since that one read them.
            await asyncio.wait((self._renewal,))
        self._kept = self._generation
        try:
            await self.renew(preload)
        except BaseException:
            self.keep_no_more()
            raise

    def go_back(self) -> None:
        """Let workers come from the kept zygote again, unless that has died."""
        if self._kept is not None and self._kept.zygote is not None:
            self._generation, self._kept = self._kept, None

    @property
    def is_kept(self) -> bool:
        """Whether an old zygote is kept, that nobody has gone back to."""
        return self._kept is not None

    def keep_no_more(self) -> None:
        """Let the old zygote end with its workers."""
        self._kept = None
        self.retire()

    def _renewed(self, renewal: asyncio.Task[None]) -> None:
        self._renewal = None
        if not renewal.cancelled():
            renewal.exception()
        self.retire()

    def retire(self) -> None:
        """End the zygotes of old code that have no workers any more."""
        if self.is_stopping or self._renewal is not None:
            return
        needed = [self._generation.zygote, self._kept and self._kept.zygote]
        for zygote in list(self._running):
            if zygote not in needed and zygote.was_ready and not self._workers.of(zygote):
                self._running.remove(zygote)
                closing = self._loop.create_task(zygote.close())
                self._closing.add(closing)
                closing.add_done_callback(self._closing.discard)

    def is_current(self, worker: Worker) -> bool:
        """Return whether a worker has the code of now."""
        return worker.generation == self._generation.number

    # --- the end -----------------------------------------------------------------------

    async def close(self) -> None:
        """End all of them."""
        self.is_stopping = True
        if self._generation.task is not None:
            await asyncio.wait((self._generation.task,))
        self._generation.task = None
        await asyncio.gather(*(zygote.close() for zygote in self._running))
        if self._renewal is not None:
            # It has heard of the end of its zygote, or has only just begun.
            await asyncio.wait((self._renewal,))
            await asyncio.gather(*(zygote.close() for zygote in self._running))
        await asyncio.gather(*self._closing, return_exceptions=True)
