"""Strays: what dead workers have started and left behind, and nobody inherited.

What leaves the process group of its worker (a daemon) becomes a child of the zygote when the worker
dies, and the zygote ends it. If the zygote is dead as well, it becomes a child of the machine's
first process, where only a mark tells that it is ours: a variable in the environment with which the
zygote was executed, and which all that comes from a zygote has inherited. To look for that means to
look at every process of the machine, so it is done where a zygote has died, and nowhere else.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from typing import Final

from noex_mp.transport import lifeline
from noex_mp.transport.platform import FALLBACKS

__all__ = ["Strays"]

_VARIABLE: Final = "NOEX_MP_NODE"

# How long a death needs to hand on its children, and a signal to end them, in seconds.
_LOOK_AGAIN: Final = 0.01
# What does not die of SIGKILL within this time hangs in the kernel; waiting would not help.
_PATIENCE: Final = 5.0


class Strays:
    """Ends the strays of one node.

    Attributes:
        marks: The variable that everything below the node's zygotes has to have.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, node: str, keepers: Callable[[], set[int]]
    ) -> None:
        """Make what looks for strays.

        Args:
            loop: The root's.
            node: The node's id.
            keepers: Returns the os pids of the living zygotes and workers, who see themselves to
                what comes from them.
        """
        self.marks = {_VARIABLE: node}
        self._loop = loop
        self._keepers = keepers
        self._search: asyncio.Task[None] | None = None

    def expect(self) -> None:
        """End those that there are in a moment, and those that come of their deaths."""
        if sys.platform == "linux" and not FALLBACKS and (not self._search or self._search.done()):
            self._search = self._loop.create_task(self._end_all(), name="search for strays")

    async def none_left(self) -> None:
        """Wait until there are none, if there can be any."""
        if self._search is not None:
            self.expect()
            await asyncio.wait((self._search,))

    async def _end_all(self) -> None:
        [mark] = ("=".join(item) for item in self.marks.items())
        end = self._loop.time() + _PATIENCE
        found = 1
        while found and self._loop.time() < end:
            await asyncio.sleep(_LOOK_AGAIN)
            found = lifeline.kill_strays(mark, self._keepers())
