"""Event loops: uvloop where it is installed, else asyncio's own."""

from __future__ import annotations

import asyncio
import os

__all__ = ["new_event_loop"]


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
