"""What a process of an executor does before its first task."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from noex_mp.pools.functions import FunctionCode, load_function, pack_function

__all__ = ["initializing"]


def initializing(
    initializer: Callable[..., object] | None, initargs: tuple[Any, ...]
) -> tuple[FunctionCode | None, tuple[Any, ...]]:
    """Return the initializer for a lane, and its arguments.

    Raises:
        UnencodableError: The initializer cannot be sent.
    """
    code = None if initializer is None else pack_function(initializer)
    key = _authkey()
    return (code, initargs) if key is None else (pack_function(_prepare), (key, code, *initargs))


def _authkey() -> bytes | None:
    """Return what the proxies of a `multiprocessing.Manager` prove with that they may connect.

    None if this program has none of them: it has not imported what makes them.
    """
    process = sys.modules.get("multiprocessing.process")
    return None if process is None else bytes(process.current_process().authkey)


def _prepare(key: bytes, initializer: FunctionCode | None, *initargs: Any) -> Any:
    from multiprocessing.process import current_process

    current_process().authkey = key
    # It may be `async`.
    return None if initializer is None else load_function(initializer)(*initargs)
