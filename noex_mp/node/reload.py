"""A reload: new code for the servers of a node while they serve, or the old one again.

1. A new zygote preloads the application as the files have it now. If it cannot, that is all.
2. Server after server is replaced, in start order; whoever shares a worker goes with it.
3. If one fails its start, it starts again from the old zygote, and so do those that were replaced
   already. Should the old zygote have died, there is no way back: those keep the new code, and what
   comes of the one that failed is its supervisor's decision.

What starts by itself meanwhile, after a crash or a `spawn`, has the code that is current then.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import suppress
from typing import Any

from noex_mp.core.reasons import InitFailed, render
from noex_mp.core.reloaded import Reloaded
from noex_mp.errors import NodeDownError, PreloadError, ReloadFailedError
from noex_mp.node.children import Child
from noex_mp.node.replacements import FailedReplacement
from noex_mp.node.starts import StartFailedError
from noex_mp.node.supervisor import Supervision
from noex_mp.node.zygotes import Preload, Zygotes

__all__ = ["Reload"]


class Reload:
    """Reloads a node, as often as somebody asks for it."""

    def __init__(
        self,
        zygotes: Zygotes,
        supervision: Supervision,
        look_ahead: Callable[[dict[str, Any]], Awaitable[Sequence[str]]] | None,
    ) -> None:
        """Make what reloads a node.

        Args:
            look_ahead: Looks at the new code before anything is done, and returns what whoever asks
                is to know of it.
        """
        self._zygotes = zygotes
        self._supervision = supervision
        self._look_ahead = look_ahead
        self._lock = asyncio.Lock()
        self._looking: asyncio.Future[Sequence[str]] | None = None

    async def run(self, limit: float | None) -> Reloaded:
        """Give all servers the code of now; one reload after the other.

        Args:
            limit: How long the import of the new code may take, in seconds; None: as long as it
                takes.

        Raises:
            PreloadError: The new code cannot be preloaded, or not in time; nothing was replaced.
            ConfigError: It is refused for another reason, and nothing was replaced.
            StartFailedError: A server did not start with it (a `ReloadFailedError`).
            NodeDownError: The node was stopped meanwhile.
        """
        self.stop_looking()
        async with self._lock:
            self._refuse_when_stopping()
            notes = await self._import(limit)
            try:
                replaced = await self._replace_all()
            finally:
                self._zygotes.keep_no_more()
            self._refuse_when_stopping()
            return Reloaded(replaced, tuple(self._kept()), tuple(notes))

    async def _import(self, limit: float | None) -> Sequence[str]:
        """Preload the new code; return what whoever asks is to know of it."""
        try:
            async with asyncio.timeout(limit):
                notes = await self._look()
                await self._zygotes.renew_and_keep()
        except TimeoutError:
            self.stop_looking()
            module = await self._zygotes.give_up_renewal()
            self._refuse_when_stopping()
            where = f": it is still at {module}" if module else ""
            raise PreloadError(
                f"the import of the new code did not end within {limit:g} s{where}\n"
                f"Nothing was replaced. To give it more time: reload(timeout=...), or --timeout."
            ) from None
        return notes

    async def _look(self) -> Sequence[str]:
        if self._look_ahead is None:
            return ()
        while True:
            self._refuse_when_stopping()
            self._looking = asyncio.ensure_future(self._look_ahead(self._supervision.tree))
            await asyncio.wait((self._looking,))
            if not self._looking.cancelled():
                return self._looking.result()

    def stop_looking(self) -> None:
        """Look no more at the code of before: it may take for ever, and there is other code now.

        Nor at any, if the node stops.
        """
        if self._looking is not None:
            self._looking.cancel()

    async def restart_tree(self, wire: dict[str, Any], preload: Preload) -> None:
        """Stop all servers, and start a new tree with the code of now; or the old one, if it fails.

        Raises:
            PreloadError, NodeDownError: As `run`.
            StartFailedError: A server of the new tree did not start.
            AlreadyRegisteredError, BadChildSpecError: As `Supervision.start_tree`.
        """
        async with self._lock:
            self._refuse_when_stopping()
            await self._zygotes.renew_and_keep(preload)
            try:
                await self._supervision.change_tree(wire)
            except NodeDownError:
                raise
            except Exception:
                self._zygotes.go_back()
                # What is wrong with the new one matters more than that the old one fails, too.
                with suppress(StartFailedError):
                    await self._supervision.change_tree(None)
                raise
            finally:
                self._zygotes.keep_no_more()

    def _refuse_when_stopping(self) -> None:
        if self._zygotes.is_stopping:
            raise NodeDownError("the node is stopping, and reloads nothing any more")

    async def _replace_all(self) -> int:
        before = list(self._out_of_date())
        tried: set[int] = set()
        while (child := self._next(tried)) is not None:
            failed = await self._supervision.replace(child, go_back=self._zygotes.go_back)
            if failed is not None:
                # What comes from the old zygote now is out of date where it has the new code.
                went_back = not self._zygotes.is_kept
                if went_back:
                    await self._take_back()
                raise StartFailedError(_error_of(failed, went_back), failed.ended.error)
        kept = list(self._out_of_date())
        return sum(not child.is_over and child not in kept for child in before)

    async def _take_back(self) -> None:
        tried: set[int] = set()
        while (child := self._next(tried)) is not None:
            await self._supervision.replace(child, go_back=lambda: None)

    def _next(self, tried: set[int]) -> Child | None:
        """Return the next server to be replaced; note that its worker's turn has come."""
        if self._zygotes.is_stopping:
            return None
        for child in self._out_of_date():
            assert child.worker is not None
            number = child.worker.number
            if number not in tried:
                tried.add(number)
                return child
        return None

    def _out_of_date(self) -> Iterator[Child]:
        for child in self._supervision.servers():
            worker = child.worker
            is_there = worker is not None and not worker.is_gone and not child.is_over
            if worker is not None and is_there and not self._zygotes.is_current(worker):
                yield child

    def _kept(self) -> list[str]:
        return [child.title for child in self._out_of_date()]


def _error_of(failed: FailedReplacement, went_back: bool) -> ReloadFailedError:
    reason = failed.ended.reason
    detail = reason.detail if isinstance(reason, InitFailed) else render(reason)
    return ReloadFailedError(failed.child.title, detail, went_back)
