"""Refs by name: what is sent before it is known who has the name.

The first message to a name asks the root who has it. It is packed at once, as every message is,
and waits in a `Route` to nobody in particular, with what follows it. The answer gives them their
address, and the route of that server takes them over, in their order (`Route.adopt`). From then
on a `Ref` by name costs what any other costs. When the server is gone for good, the next message
asks again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

__all__ = ["NOBODY_YET", "addressed"]

# The sid of messages that have no address yet: one byte, at a place that is easily found.
NOBODY_YET: Final = 0

# How long the length of an array is, in bytes, by its first one; that of a short one is one byte.
_LENGTHS: Final = {0xDC: 3, 0xDD: 5}


def addressed(
    data: Any,
    number: int,
    sid: int,
    seq: int,
    pack: Callable[[int], bytes],
    old_sid: int = NOBODY_YET,
) -> bytes | list[Any]:
    """Return a packed message with another address, mostly one in place of `NOBODY_YET`.

    Args:
        data: The message, or its chunks, of which it is the last.
        number: What it was packed with as its number.
        sid: The server that it is for.
        seq: Its number there.
        pack: Packs a number.
        old_sid: The server that it was packed for.

    Example:
        ```python
        >>> import msgpack
        >>> msgpack.unpackb(addressed(msgpack.packb([1, 0, 7, "add"]), 7, 300, 2, msgpack.packb))
        [1, 300, 2, 'add']

        ```
    """
    if data.__class__ is not bytes:
        return [*data[:-1], addressed(data[-1], number, sid, seq, pack, old_sid)]
    # Behind the length and the kind.
    start = _LENGTHS.get(data[0], 1) + 1
    end = start + len(pack(old_sid)) + len(pack(number))
    return data[:start] + pack(sid) + pack(seq) + data[end:]
