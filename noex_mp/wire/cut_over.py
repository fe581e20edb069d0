"""From which size on a value leaves its message: figures of this machine.

Bytes in a message are copied twice more; beside it they take a frame of their own and another
`recv`; in shared memory, a mapping and some locks. Which of them costs least depends on the
machine, so it is measured: when a node starts, and when a process shares its first value
(`transport.cut_over`). Nothing below `BIG` leaves its message: only from there on is anything
looked at for that. Arrays do at `BIG`: in a message they are copied once more than bytes.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from noex_mp.wire.values import BIG

__all__ = ["SIZES", "Try", "choose", "choose_shared", "here"]

SIZES: Final = (BIG, 2 * BIG, 4 * BIG)
"""The sizes that are tried, in bytes. At the next one, bytes leave in any case."""


class CutOver:
    """What holds in this process.

    Attributes:
        bytes_from: From this size on bytes leave their message, in bytes.
        shared_from: From this size on values are shared that are to be; 0 while nobody knows.
    """

    __slots__ = ("bytes_from", "shared_from")

    def __init__(self) -> None:
        self.bytes_from = BIG
        self.shared_from = 0


here: Final = CutOver()


Try = tuple[int, float, float]
"""A size in bytes; the seconds a message takes with so many in it, and with so many beside it."""


def choose(tries: Iterable[Try]) -> int:
    """Return the first size from which on bytes do better beside their message.

    Args:
        tries: One for each size, ascending.

    >>> choose([(128, 3.0, 4.0), (256, 7.0, 6.0), (512, 15.0, 10.0)])
    256
    >>> choose([(128, 3.0, 4.0), (256, 6.0, 7.0)])
    512
    """
    size = 0
    for size, within, beside in tries:
        if beside <= within:
            return size
    return 2 * size


def choose_shared(tries: Iterable[Try], naming: float) -> int:
    """Return the first size from which on it costs less to name a shared value than to send it.

    Args:
        tries: One for each size, ascending.
        naming: What it takes to read a value that was named, in seconds.

    >>> choose_shared([(128, 3.0, 4.0), (256, 7.0, 6.0)], 5.0)
    256
    """
    size = 0
    for size, within, beside in tries:
        if naming <= min(within, beside):
            return size
    return 2 * size
