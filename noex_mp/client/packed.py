"""What a packed message says of itself, and the same message to be sent once more.

Promise: pure functions, no I/O.
"""

from __future__ import annotations

from typing import Any, Final

from msgpack import Packer, Unpacker

from noex_mp.wire.codec import pack_plain

__all__ = ["operation_in", "renewed", "size_of"]

# As much of a message as its operation may end in.
_HEAD: Final = 256


def operation_in(data: Any) -> str:
    """Return the operation in a packed message: that of a cast is not kept."""
    unpacker = Unpacker()
    unpacker.feed(bytes((data if data.__class__ is bytes else data[-1])[:_HEAD]))
    unpacker.read_array_header()
    for _ in range(3):
        unpacker.skip()
    name: str = unpacker.unpack()
    return name


def renewed(data: Any, sid: int, seq: int, due: float) -> bytes | list[Any]:
    """Return a packed call with another address and time limit.

    Args:
        data: The call, or its chunks, of which it is the last.
        sid: The server that it is for.
        seq: Its number there.
        due: When it is out of time, by the monotonic clock.

    Example:
        ```python
        >>> import msgpack
        >>> msgpack.unpackb(renewed(msgpack.packb([1, 300, 7, "add", 0.5, "tea"]), 4, 2, 9.5))
        [1, 4, 2, 'add', 9.5, 'tea']

        ```
    """
    if data.__class__ is not bytes:
        return [*data[:-1], renewed(data[-1], sid, seq, due)]
    unpacker = Unpacker(max_buffer_size=0)
    unpacker.feed(data)
    length = unpacker.read_array_header()
    kind = unpacker.unpack()
    unpacker.skip()
    unpacker.skip()
    name = unpacker.unpack()
    unpacker.skip()
    head = (pack_plain(value) for value in (kind, sid, seq, name, due))
    return b"".join((Packer().pack_array_header(length), *head, data[unpacker.tell() :]))


def size_of(data: Any) -> int:
    """Return how many bytes a packed message has, or all of its chunks."""
    return len(data) if data.__class__ is bytes else sum(len(chunk) for chunk in data)
