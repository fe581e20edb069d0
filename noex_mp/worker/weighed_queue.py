"""The queue of a server that drops its oldest messages: it knows how much waits there.

Other servers leave their bounds to the senders, and their queues count nothing (see the client's
`window`). What such a server drops depends on what all senders have sent together. So each tells
behind a heavy message what it weighs; what the others count is known.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, SupportsIndex

from typing_extensions import override

from noex_mp.client.window import weight_of_small

if TYPE_CHECKING:
    from noex_mp.worker.queued import Target

__all__ = ["WeighedQueue"]


class WeighedQueue(deque["tuple[Target | None, Any]"]):
    """What waits for a server, and its weight.

    Args:
        max_messages: How many messages the mailbox holds.
        max_bytes: How many bytes.
    """

    __slots__ = ("_heavy_bytes", "_max_bytes", "_max_messages", "_small", "_weights")

    def __init__(self, max_messages: int, max_bytes: int) -> None:
        super().__init__()
        self._max_messages = max_messages
        self._max_bytes = max_bytes
        self._small = weight_of_small(max_messages, max_bytes)
        # Those of the heavy ones, by the identity of the message.
        self._weights: dict[int, int] = {}
        self._heavy_bytes = 0

    @override
    def popleft(self) -> tuple[Target | None, Any]:
        entry = super().popleft()
        self._forget(entry[1])
        return entry

    # No slices, as in `deque` itself.
    @override
    def __delitem__(self, place: SupportsIndex, /) -> None:  # type: ignore[override]
        self._forget(self[place][1])
        super().__delitem__(place)

    @override
    def clear(self) -> None:
        super().clear()
        self._weights.clear()
        self._heavy_bytes = 0

    def weigh(self, target: Target, size: int) -> None:
        """Note what the last message of a sender weighs, in bytes, if it still waits."""
        for sender, frame in reversed(self):
            if sender is target:
                self._forget(frame)
                # First, so that nonsense fails here, and its link ends.
                self._heavy_bytes += size
                self._weights[id(frame)] = size
                return

    def _forget(self, frame: Any) -> None:
        self._heavy_bytes -= self._weights.pop(id(frame), 0)

    def drop_excess(self) -> Iterator[tuple[Target, Any]]:
        """Drop the oldest messages, one by one, until the others fit; yield each."""
        while self.is_over:
            oldest = self._oldest()
            if oldest is None:
                return
            place, target, frame = oldest
            del self[place]
            yield target, frame

    @property
    def is_over(self) -> bool:
        """Whether it holds more than the mailbox may."""
        small = len(self) - len(self._weights)
        size = self._heavy_bytes + small * self._small
        return len(self) > self._max_messages or size > self._max_bytes

    def _oldest(self) -> tuple[int, Target, Any] | None:
        # None if it is the newest too, which stays. Nothing here has begun: such a server takes
        # every message from its queue.
        messages = (
            (place, target, item) for place, (target, item) in enumerate(self) if target is not None
        )
        oldest = next(messages, None)
        return oldest if next(messages, None) is not None else None
