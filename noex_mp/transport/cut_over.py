"""Measures from which size on values leave their message on this machine; see `wire.cut_over`."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Iterator
from time import perf_counter
from typing import Final

from noex_mp.wire.codec import Encoder
from noex_mp.wire.cut_over import SIZES, Try, choose, here
from noex_mp.wire.envelopes import BUFFERS, CALL
from noex_mp.wire.stream import FrameReader
from noex_mp.wire.values import BUFFER, extension

__all__ = ["TRIES", "measure_once", "tries"]

TRIES: Final = 3
"""The quickest of so many counts: what else the machine does only adds to them."""

_is_measured = False


def measure_once() -> None:
    """Measure it, unless that was done: some milliseconds, while the first zygote starts."""
    global _is_measured
    if not _is_measured:
        _is_measured = True
        # Without a descriptor to spare, it stays what it was.
        with contextlib.suppress(OSError):
            here.bytes_from = choose(tries())


def tries() -> Iterator[Try]:
    """Yield what messages take, for each size."""
    ends = socket.socketpair()
    with ends[0], ends[1]:
        for end in ends:
            end.setblocking(False)
        buffer = bytearray(SIZES[-1])
        for size in SIZES:
            value = bytes(size)
            took = [
                (_trip(*ends, buffer, _within, value), _trip(*ends, buffer, _beside, value))
                for _ in range(TRIES)
            ]
            yield size, min(each[0] for each in took), min(each[1] for each in took)


def _within(value: bytes) -> list[bytes]:
    return [Encoder().pack([CALL, value])]


def _beside(value: bytes) -> list[bytes]:
    pack = Encoder().pack
    # As an array: to receive bytes loads ctypes, which most programs do without.
    header = pack([BUFFERS, [[True, len(value)]]])
    return [header, value, pack([CALL, extension(BUFFER, bytes(4))])]


def _trip(
    ours: socket.socket,
    theirs: socket.socket,
    buffer: bytearray,
    pack: Callable[[bytes], list[bytes]],
    value: bytes,
) -> float:
    """Return how long a message takes from one end to the other, in seconds."""
    reader = FrameReader(peer="itself")
    start = perf_counter()
    chunks = [memoryview(chunk) for chunk in pack(value)]
    while True:
        _send(ours, chunks)
        with contextlib.suppress(BlockingIOError):
            while True:
                if reader.wanted is not None:
                    reader.advance(theirs.recv_into(reader.wanted))
                else:
                    reader.feed(memoryview(buffer)[: theirs.recv_into(buffer)])
                if next(iter(reader.frames()), None) is not None:
                    return perf_counter() - start


def _send(ours: socket.socket, chunks: list[memoryview]) -> None:
    with contextlib.suppress(BlockingIOError):
        while chunks:
            sent = ours.sendmsg(chunks)
            while chunks and sent >= len(chunks[0]):
                sent -= len(chunks.pop(0))
            if sent:
                chunks[0] = chunks[0][sent:]
