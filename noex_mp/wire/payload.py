"""Values in an envelope of their own: bytes that the root passes on and never opens.

The arguments of a server's constructor and the exception that ended one may be of the user's
classes, which the root has no reason to import. They cross the control plane as a payload: a
small stream of frames, as `codec` writes them, big buffers included.
"""

from __future__ import annotations

from typing import Any

from noex_mp.errors import RemoteProtocolError
from noex_mp.wire.codec import Encoder
from noex_mp.wire.stream import FrameReader

__all__ = ["pack_error", "pack_payload", "unpack_error", "unpack_payload"]


def pack_payload(encoder: Encoder, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bytes:
    """Return the arguments of a call as bytes; none if there are no arguments.

    Raises:
        UnencodableError: An argument cannot be sent; the error names its path.
    """
    if not args and not kwargs:
        return b""
    try:
        return b"".join(encoder.pack_big([0, kwargs, *args]))
    except Exception as error:
        raise encoder.explain(args, kwargs, error) from None


def unpack_payload(data: bytes, peer: str) -> tuple[list[Any], dict[str, Any]]:
    """Return the arguments and keyword arguments that `pack_payload` packed.

    Raises:
        RemoteProtocolError: They cannot be decoded here.
    """
    if not data:
        return [], {}
    frame = _unpack(data, peer)
    return frame[2:], frame[1]


def pack_error(encoder: Encoder, error: BaseException | None) -> bytes:
    """Return an exception as bytes, with its causes and tracebacks; empty for None."""
    return b"" if error is None else b"".join(encoder.pack_big([0, error]))


def unpack_error(data: bytes) -> BaseException | None:
    """Return the exception that `pack_error` packed."""
    if not data:
        return None
    try:
        error = _unpack(data, "a server")[1]
    except RemoteProtocolError as problem:
        return problem
    return error if isinstance(error, BaseException) else None


def _unpack(data: bytes, peer: str) -> list[Any]:
    reader = FrameReader(peer=peer)
    position = 0
    frames: list[list[Any]] = []
    while position < len(data):
        # A wanted buffer is filled outside the msgpack stream, as a link does it.
        if reader.wanted is not None:
            size = len(reader.wanted)
            reader.wanted[:] = data[position : position + size]
            reader.advance(size)
            position += size
        else:
            reader.feed(data[position : position + 65536])
            position += 65536
            frames += reader.frames()
    if reader.failures:
        raise RemoteProtocolError(peer, f"a value that cannot be decoded: {reader.failures[0]}")
    return frames[0]
