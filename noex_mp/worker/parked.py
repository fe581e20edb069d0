"""Messages of whoever does not take the replies to those before.

If a message ended the process, these replies would be lost. So none of that link begins until it
has taken them; others do not wait for it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from noex_mp.worker.queued import Target, is_waiting_call

__all__ = ["Parked"]


class Parked(dict[Target, list[Any]]):
    """What was put aside, by whose it is. A `dict`, since each message looks whether it is in here.

    Args:
        on_drained: Takes messages whose link has taken the replies before them.
    """

    def __init__(self, on_drained: Callable[[Target, list[Any]], None]) -> None:
        super().__init__()
        self._on_drained = on_drained

    def park(self, target: Target, item: Any) -> None:
        """Put a message aside."""
        if target not in self:
            self[target] = []
            self._wait(target)
        self[target].append(item)

    def _wait(self, target: Target) -> None:
        drained = target.link.wait_until_drained(0)
        drained.add_done_callback(lambda _: self._drained(target))

    def _drained(self, target: Target) -> None:
        if target not in self:
            return
        if target.link.backlog:
            self._wait(target)
        else:
            self._on_drained(target, self.pop(target))

    def take_all(self) -> list[tuple[Target, Any]]:
        """Return everything in the order of each link, and keep nothing."""
        found = [(target, item) for target, items in self.items() for item in items]
        self.clear()
        return found

    def cancel(self, target: Target, seq: int) -> None:
        """Drop a call."""
        if target in self:
            parked = self[target]
            parked[:] = [f for f in parked if f[2] != seq or not is_waiting_call(f)]
