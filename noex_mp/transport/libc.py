"""The C library, for what Python has no name for."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import ctypes

__all__ = ["libc"]


@functools.cache
def libc() -> ctypes.CDLL:
    """Return the C library that this process is linked with.

    It is loaded once, and ctypes with it: that takes some ms, which a program that starts no node
    need not spend, and a worker finds it done by the zygote.
    """
    import ctypes

    return ctypes.CDLL(None)
