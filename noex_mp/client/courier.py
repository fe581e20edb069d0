"""The server that sends a dead letter again for a program outside of the node, as the command line.

Such a program is not trusted: it can send plain values only, and the message may hold anything. So
the node starts a courier, a process of its own, which sends it as any other process of the node
would. The program calls the courier, and gets the reply from it.
"""

from __future__ import annotations

from typing import Any, Final

from noex_mp.client import current
from noex_mp.client.dead_letters import retry_on
from noex_mp.client.timers import send_after
from noex_mp.core.gen_server import GenServer
from noex_mp.core.operations import call
from noex_mp.core.outcomes import Stop

__all__ = ["Courier"]

# A courier that nobody has called after so many seconds ends.
PATIENCE: Final = 5.0


# Whatever comes of it, the program that asks is to hear it, and the courier does not crash.
class Courier(GenServer[Any, Any, str], expected=(Exception,)):
    """Sends one message again, once, and ends.

    Args:
        letter: The number of the dead letter.
        patience: How long it waits to be called, in seconds.
    """

    def __init__(self, letter: int, patience: float = PATIENCE) -> None:
        self._letter = letter
        self._patience = patience

    def init(self) -> None:
        """Wait to be called, but not for ever."""
        send_after(self.ref, "nobody has called", self._patience)

    @call
    async def deliver(self, timeout: float | None) -> object:
        """Send the message and return the reply; wait so many seconds for it."""
        try:
            return await retry_on(current.client(), self._letter, timeout)
        finally:
            send_after(self.ref, "done", 0)

    def handle_info(self, message: str) -> Stop:
        """End, one way or the other: it comes when no call is under way."""
        return Stop()
