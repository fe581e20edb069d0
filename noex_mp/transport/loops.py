"""Event loops: uvloop where it is installed, else asyncio's own."""

from __future__ import annotations

import asyncio
import mmap
import os
import select
import socket
import sys
from typing import Any, Final
from weakref import WeakSet

from noex_mp.transport import fds
from noex_mp.transport.libc import libc

__all__ = ["give_back_buffer", "keep_apart", "new_event_loop", "new_high_event_loop"]

# The numbers below are left to the user's code.
_LOW: Final = 64

_kept_apart: WeakSet[asyncio.AbstractEventLoop] = WeakSet()


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
    loop.call_soon(fds.give_back_numbers, taken)
    return loop


def keep_apart(loop: asyncio.AbstractEventLoop) -> None:
    """Let no fork of this process touch what the loop waits for.

    The kernel keeps that list once for the parent and the child: what the child takes off it,
    be it by closing its copy of the loop, the parent does not hear of any more.
    """
    fds.call_in_forks(_part)
    _kept_apart.add(loop)


def _part() -> None:
    # The numbers stay, and stand for something else: in this process the loop runs on, with
    # nothing to wait for but timers and its own threads.
    for loop in list(_kept_apart):
        if not loop.is_closed():
            _renew(loop)


def _renew(loop: Any) -> None:
    if sys.platform != "linux":
        # A kqueue is not inherited at all.
        return
    selector = getattr(loop, "_selector", None)
    number = getattr(loop, "_get_backend_id", None) or getattr(selector, "fileno", None)
    if number is None:
        # The loop keeps its list by itself.
        return
    with select.epoll() as fresh:
        if selector is not None:
            ours, theirs = socket.socketpair()
            with ours, theirs:
                os.dup2(ours.fileno(), loop._ssock.fileno(), inheritable=False)
                os.dup2(theirs.fileno(), loop._csock.fileno(), inheritable=False)
            loop._ssock.setblocking(False)
            loop._csock.setblocking(False)
            fresh.register(loop._ssock.fileno(), select.EPOLLIN)
        os.dup2(fresh.fileno(), number(), inheritable=False)


def give_back_buffer(holder: object) -> None:
    """Give the memory of a buffer back that an object has in itself and does not use yet.

    A loop of uvloop's holds 250 KiB for what its own streams receive, and an unpacker of msgpack's
    40 KiB for lists that lie in each other, zeroed and so paid for: a twelfth of a worker's private
    memory, and links do without it. Its pages still read as zeros afterwards, and come back when
    somebody writes to them.
    """
    size = type(holder).__basicsize__
    if sys.platform != "linux" or size < 8 * mmap.PAGESIZE:
        return
    import ctypes

    # Without the pages at its ends, which hold the object's other fields, or somebody else's.
    first = -(-id(holder) // mmap.PAGESIZE + -1) * mmap.PAGESIZE
    size = (id(holder) + size) // mmap.PAGESIZE * mmap.PAGESIZE - mmap.PAGESIZE - first
    if _is_zero(first, size):
        libc().madvise(ctypes.c_void_p(first), ctypes.c_size_t(size), mmap.MADV_DONTNEED)


def _is_zero(address: int, size: int) -> bool:
    import ctypes

    # Compared with itself, a byte further on: if the first is zero, all are.
    behind, length = ctypes.c_void_p(address + 1), ctypes.c_size_t(size - 1)
    return ctypes.c_ubyte.from_address(address).value == 0 and not libc().memcmp(
        ctypes.c_void_p(address), behind, length
    )
