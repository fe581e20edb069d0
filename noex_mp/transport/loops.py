"""Event loops: uvloop where it is installed, else asyncio's own."""

from __future__ import annotations

import asyncio
import mmap
import os
import sys
from typing import Final

from noex_mp.transport import fds
from noex_mp.transport.libc import libc

__all__ = ["give_back_buffer", "new_event_loop", "new_high_event_loop"]

# The numbers below are left to the user's code.
_LOW: Final = 64


def new_event_loop() -> asyncio.AbstractEventLoop:
    """Return a new event loop.

    It is uvloop's, or asyncio's where uvloop is missing or `NOEX_MP_LOOP` is `asyncio`.
    """
    if os.environ.get("NOEX_MP_LOOP") != "asyncio":
        try:
            import uvloop
        except ImportError:
            pass
        else:
            return uvloop.new_event_loop()
    return asyncio.new_event_loop()


def new_high_event_loop() -> asyncio.AbstractEventLoop:
    """Return a new event loop for this thread whose descriptors are 64 and above.

    A loop cannot be moved to other numbers, and without its epoll it ends the process. So the low
    numbers are taken while it opens what it needs; some of that it opens when it begins to run.
    """
    taken = fds.take_numbers_below(_LOW)
    loop = new_event_loop()
    loop.call_soon(fds.close_all, taken)
    return loop


def give_back_buffer(loop: asyncio.AbstractEventLoop) -> None:
    """Give the memory of a buffer back that the loop has and does not use yet.

    A loop of uvloop's holds 250 KiB for what its own streams receive, zeroed and so paid for:
    a sixteenth of a worker's private memory, and links do without it. Its pages still read as
    zeros afterwards, and come back when somebody writes to them.
    """
    size = type(loop).__basicsize__
    if sys.platform != "linux" or size < 16 * mmap.PAGESIZE:
        return
    import ctypes

    # Without the pages at its ends, which hold the loop's other fields, or somebody else's.
    first = -(-id(loop) // mmap.PAGESIZE + -1) * mmap.PAGESIZE
    size = (id(loop) + size) // mmap.PAGESIZE * mmap.PAGESIZE - mmap.PAGESIZE - first
    if _is_zero(first, size):
        libc().madvise(ctypes.c_void_p(first), ctypes.c_size_t(size), mmap.MADV_DONTNEED)


def _is_zero(address: int, size: int) -> bool:
    import ctypes

    # Compared with itself, a byte further on: if the first is zero, all are.
    behind, length = ctypes.c_void_p(address + 1), ctypes.c_size_t(size - 1)
    return ctypes.c_ubyte.from_address(address).value == 0 and not libc().memcmp(
        ctypes.c_void_p(address), behind, length
    )
