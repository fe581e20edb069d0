"""Event loops: uvloop where it is installed, else asyncio's own."""

from __future__ import annotations

import asyncio
import ctypes
import mmap
import os
import sys

__all__ = ["give_back_buffer", "new_event_loop"]


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


def give_back_buffer(loop: asyncio.AbstractEventLoop) -> None:
    """Give the memory of a buffer back that the loop has and does not use yet.

    A loop of uvloop's holds 250 KiB for what its own streams receive, zeroed and so paid for:
    a sixteenth of a worker's private memory, and links do without it. Its pages still read as
    zeros afterwards, and come back when somebody writes to them.
    """
    if sys.platform != "linux" or type(loop).__basicsize__ < 16 * mmap.PAGESIZE:
        return
    first = -(-id(loop) // mmap.PAGESIZE) * mmap.PAGESIZE
    last = (id(loop) + type(loop).__basicsize__) // mmap.PAGESIZE * mmap.PAGESIZE
    empty = bytes(mmap.PAGESIZE)
    # Page by page, since to copy all of it would cost more than a worker has time for.
    pages = [
        page
        for page in range(first, last, mmap.PAGESIZE)
        if ctypes.string_at(page, mmap.PAGESIZE) == empty
    ]
    size = len(pages) * mmap.PAGESIZE
    if pages and pages[-1] - pages[0] + mmap.PAGESIZE == size:
        madvise = ctypes.CDLL(None).madvise
        madvise(ctypes.c_void_p(pages[0]), ctypes.c_size_t(size), mmap.MADV_DONTNEED)
