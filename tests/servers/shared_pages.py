"""A module that takes memory when it is loaded: workers share that with their zygote."""

from __future__ import annotations

PAGES = bytearray(b"x" * (128 * 2**20))
