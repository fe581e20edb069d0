"""What becomes of the shared memory of workers that have died."""

from __future__ import annotations

import asyncio

from noex_mp.transport import fds, shared_file
from noex_mp.transport.shared_file import GRACE, NO_SPAN

__all__ = ["Leases"]


class Leases:
    """The shared memory of a node, as far as the root has to do with it.

    Attributes:
        fds: The file's descriptor, for workers to inherit; none where there is no such thing.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._file = shared_file.enter()
        self.fds = (self._file.fd,) if self._file is not None else ()
        # What has the leases of each worker, by its span.
        self._held: dict[int, int] = {}
        # Those of the dead, and what is going to end them.
        self._of_dead: dict[int, asyncio.TimerHandle] = {}

    def new_span(self) -> int:
        """Return the number of the span of a new worker."""
        return self._file.new_span() if self._file is not None else NO_SPAN

    def hold(self, span: int, fd: int) -> None:
        """Hold the leases of a worker, to end them some time after it."""
        if fd != fds.NO_FD:
            self._held[span] = fds.own(fds.high(fd))

    def worker_died(self, span: int) -> None:
        """End the leases of a worker in a while: what it sent last may not be read yet."""
        if span in self._held or (self._file is not None and self._file.has_memory):
            self._of_dead[span] = self._loop.call_later(GRACE, self._end, span)

    def _end(self, span: int) -> None:
        self._of_dead.pop(span).cancel()
        if span in self._held:
            fds.close(self._held.pop(span))
        if self._file is not None:
            self._file.sweep()

    def close(self) -> None:
        """Give back what nobody in this process has: all others have ended."""
        for span in list(self._of_dead):
            self._end(span)
        fds.close_all(list(self._held.values()))
        if self._file is not None:
            shared_file.leave()
