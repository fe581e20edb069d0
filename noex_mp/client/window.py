"""How much one sender may have on its way to one server: a window, in messages and in bytes.

The server's worker gives each sender a share of the mailbox; until it has, a new sender goes by how
many senders the root knows of. A sender counts what it sends, and
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

__all__ = ["Ranges", "Window", "share", "weight_of_small"]

# What a sender may send at most before the server has told its share.
_FIRST_MESSAGES: Final = 256
_FIRST_BYTES: Final = 4 * 2**20

# A sender asks when this part of its window is used.
_ASK_AFTER: Final = 4

_SMALLEST_WEIGHT: Final = 64
# With this one the first window has room for its messages, however few a mailbox holds.
_LARGEST_WEIGHT: Final = _FIRST_BYTES // _FIRST_MESSAGES


def share(max_messages: int, max_bytes: int, senders: int) -> tuple[int, int]:
    """Return what one of the senders of a mailbox may have on its way: messages and bytes."""
    return max(1, max_messages // senders), max(1, max_bytes // senders)


def weight_of_small(max_messages: int, max_bytes: int) -> int:
    """Return what a message counts that is smaller, in bytes: a full mailbox of them has room."""
    return min(_LARGEST_WEIGHT, max(_SMALLEST_WEIGHT, max_bytes // (2 * max_messages)))


class Window:
    """The window of one sender at one incarnation of a server.

    Attributes:
        weighed_from: Messages of this size, in bytes, and above count by themselves.

    Args:
        max_messages: How many messages the mailbox holds.
        max_bytes: How many bytes.
        senders: How many senders share it.
    """

    __slots__ = (
        "_acked",
        "_asked",
        "_bytes",
        "_heavy",
        "_heavy_bytes",
        "_messages",
        "_sent",
        "_share",
        "_unasked_bytes",
        "weighed_from",
    )

    def __init__(
        self, max_messages: int = MAX_MESSAGES, max_bytes: int = MAX_BYTES, senders: int = 1
    ) -> None:
        self.weighed_from = weight_of_small(max_messages, max_bytes)
        messages, size = share(max_messages, max_bytes, senders)
        self._messages = min(messages, _FIRST_MESSAGES)
        self._bytes = min(size, _FIRST_BYTES)
        # The share in messages, until the server has told; 0 after that.
        self._share = messages
        # Counts of messages, from the first one that this incarnation was sent.
        self._sent = 0
        self._acked = 0
        self._asked = 0
        # The heavy ones that are on their way: count and size.
        self._heavy: deque[tuple[int, int]] = deque()
        self._heavy_bytes = 0
        self._unasked_bytes = 0

    @property
    def messages(self) -> int:
        """How many messages may be on their way."""
        return self._messages

    @property
    def size(self) -> int:
        """How many bytes they may have together."""
        return self._bytes

    @property
    def on_their_way(self) -> int:
        """How many messages are on their way."""
        return self._sent - self._acked

    @property
    def is_all_there_is(self) -> bool:
        """Whether who finds it used up has a full share of the mailbox there.

        Otherwise it was only what a new sender begins with.
        """
        return self.on_their_way >= self._share

    def takes(self, size: int) -> bool:
        """Return whether a message of `size` bytes may be sent now."""
        on_their_way = self.on_their_way
        if on_their_way == 0:
            # Also one that is larger than the whole mailbox.
            return True
        return on_their_way < self._messages and max(size, self.weighed_from) <= self._room()

    def _room(self) -> int:
        small = self._sent - self._acked - len(self._heavy)
        return self._bytes - self._heavy_bytes - small * self.weighed_from

    def add(self, size: int) -> None:
        """Count a message that was sent, of `size` bytes."""
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

    def ask(self) -> tuple[int, int]:
        """Return what an ASK behind the last message says.

        The count of all messages, and the bytes of the heavy ones since the last ASK.
        """
        unasked, self._unasked_bytes = self._unasked_bytes, 0
        self._asked = self._sent
        return self._sent, unasked

    def grant(self, count: int, messages: int, size: int) -> None:
        """Take the answer to an ASK.

        Args:
            count: What the ASK said: so many messages are off the list.
            messages: The window in messages from now on.
            size: The window in bytes.
        """
        self._acked = max(self._acked, min(count, self._sent))
        self._messages, self._bytes = messages, size
        self._share = 0
        while self._heavy and self._heavy[0][0] <= self._acked:
            self._heavy_bytes -= self._heavy.popleft()[1]


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
