"""How much one sender may have on its way to one server: a window, in messages and in bytes.

The server's worker gives each sender a share of the mailbox. A sender counts what it sends, and
now and then puts an ASK behind it; when the server has come that far, it answers with a GRANT,
which says how many messages are off the list and how large the share is now. So the worker
counts nothing per message, and a message costs its sender one comparison (see `Route.limit`).

Small messages are only counted, as if each had the size `weighed_from`; larger ones count by their
own size. So the bound in bytes holds whatever is sent, and nobody adds up small numbers.

Promise: no I/O; plain counting.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from noex_mp.core.specs import MAX_BYTES, MAX_MESSAGES

__all__ = ["Ranges", "Window"]

# What a sender may send before the server has told its share.
_FIRST_MESSAGES: Final = 256
_FIRST_BYTES: Final = 4 * 2**20

# A sender asks when this part of its window is used.
_ASK_AFTER: Final = 4

_SMALLEST_WEIGHT: Final = 64


class Window:
    """The window of one sender at one incarnation of a server.

    Attributes:
        weighed_from: Messages of this size, in bytes, and above count by themselves.
    """

    __slots__ = (
        "_acked",
        "_asked",
        "_asks",
        "_bytes",
        "_heavy",
        "_heavy_bytes",
        "_messages",
        "_sent",
        "_unasked_bytes",
        "weighed_from",
    )

    def __init__(self, max_messages: int = MAX_MESSAGES, max_bytes: int = MAX_BYTES) -> None:
        self.weighed_from = max(_SMALLEST_WEIGHT, max_bytes // (2 * max_messages))
        self._messages = min(max_messages, _FIRST_MESSAGES)
        self._bytes = min(max_bytes, _FIRST_BYTES)
        # Counts of messages, from the first one that this incarnation was sent.
        self._sent = 0
        self._acked = 0
        self._asked = 0
        # The heavy ones that are on their way: count and size.
        self._heavy: deque[tuple[int, int]] = deque()
        self._heavy_bytes = 0
        self._unasked_bytes = 0
        # The sender's own number of the last message ahead of each ASK.
        self._asks: deque[tuple[int, int]] = deque()

    @property
    def messages(self) -> int:
        """How many messages may be on their way."""
        return self._messages

    def takes(self, size: int) -> bool:
        """Return whether a message of `size` bytes may be sent now."""
        on_their_way = self._sent - self._acked
        if on_their_way == 0:
            # Also one that is larger than the whole mailbox.
            return True
        return on_their_way < self._messages and max(size, self.weighed_from) <= self._room()

    def _room(self) -> int:
        small = self._sent - self._acked - len(self._heavy)
        return self._bytes - self._heavy_bytes - small * self.weighed_from

    def add(self, size: int) -> None:
        """Count a message that was sent."""
        self._sent += 1
        if size >= self.weighed_from:
            self._heavy.append((self._sent, size))
            self._heavy_bytes += size
            self._unasked_bytes += size

    def add_small(self, count: int) -> None:
        """Count messages below `weighed_from`, sent within `free`."""
        self._sent += count

    def free(self) -> int:
        """Return how many small messages may be sent before the next look."""
        by_count = self._messages - (self._sent - self._acked)
        by_bytes = self._room() // self.weighed_from
        # One less: the message that is behind the next ASK takes a look.
        before_asking = self._asked + max(1, self._messages // _ASK_AFTER) - self._sent - 1
        return max(0, min(by_count, by_bytes, before_asking))

    @property
    def should_ask(self) -> bool:
        """Whether it is time to ask for more."""
        return (
            self._asked == 0
            or self._sent - self._asked >= max(1, self._messages // _ASK_AFTER)
            or self._unasked_bytes >= self._bytes // _ASK_AFTER
        )

    @property
    def has_asked(self) -> bool:
        """Whether an answer is on its way that covers all that was sent."""
        return self._asked == self._sent

    def ask(self, seq: int) -> int:
        """Return what an ASK behind the last message says.

        Args:
            seq: The sender's own number of that message.
        """
        self._asked = self._sent
        self._unasked_bytes = 0
        self._asks.append((self._sent, seq))
        return self._sent

    def grant(self, count: int, messages: int, size: int) -> int:
        """Take the answer to an ASK.

        Args:
            count: What the ASK said: so many messages are off the list.
            messages: The window in messages from now on.
            size: The window in bytes.

        Returns:
            The sender's own number of the last of those messages.
        """
        seq = 0
        while self._asks and self._asks[0][0] <= count:
            seq = self._asks.popleft()[1]
        self._acked = max(self._acked, min(count, self._sent))
        self._messages, self._bytes = messages, size
        while self._heavy and self._heavy[0][0] <= self._acked:
            self._heavy_bytes -= self._heavy.popleft()[1]
        return seq


class Ranges:
    """A growing set of numbers, most of which follow each other.

    Example:
        ```python
        >>> ranges = Ranges()
        >>> for number in (4, 5, 6, 9):
        ...     ranges.add(number)
        >>> ranges.count(4, 9)
        3

        ```
    """

    __slots__ = ("_ranges",)

    def __init__(self) -> None:
        self._ranges: list[list[int]] = []

    def add(self, number: int) -> None:
        """Add a number."""
        if self._ranges and self._ranges[-1][1] == number - 1:
            self._ranges[-1][1] = number
        else:
            self._ranges.append([number, number])

    def count(self, above: int, up_to: int) -> int:
        """Return how many numbers n there are with above < n <= up_to."""
        return sum(
            max(0, min(last, up_to) - max(first, above + 1) + 1) for first, last in self._ranges
        )

    def forget(self, up_to: int) -> None:
        """Drop the ranges that lie below or at a number."""
        self._ranges = [item for item in self._ranges if item[1] > up_to]

    def clear(self) -> None:
        """Drop all."""
        self._ranges.clear()
