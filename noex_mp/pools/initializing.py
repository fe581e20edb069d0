"""What a process of a pool does before its first task."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from noex_mp.pools.functions import FunctionCode, load_function, pack_function
from noex_mp.transport.surroundings import Change, adopt

__all__ = ["initializing"]


def initializing(
    initializer: Callable[..., object] | None,
    initargs: tuple[Any, ...],
    change: Change | None = None,
) -> tuple[FunctionCode | None, tuple[Any, ...]]:
    """Return the initializer for a lane, and its arguments.

    Args:
        initializer: The user's, if there is one.
        initargs: What it is called with.
        change: What has changed around the program since the node of the lane has started.

    Raises:
        UnencodableError: The initializer cannot be sent.
    """
    code = None if initializer is None else pack_function(initializer)
    first = [*_authkey(), *([] if change is None else [_FirstThis(adopt, *change)])]
    return (pack_function(_prepare), (first, code, *initargs)) if first else (code, initargs)


def _authkey() -> list[_FirstThis]:
    """Return what sets the key with which proxies of a `multiprocessing.Manager` may connect.

    Nothing if this program has none of them: it has not imported what makes them.
    """
    if "multiprocessing.managers" not in sys.modules:
        return []
    from multiprocessing.process import current_process

    return [_FirstThis(_set_authkey, bytes(current_process().authkey))]


class _FirstThis:
    """Is done where it arrives: before the arguments behind it are there, which may need it."""

    def __init__(self, function: Callable[..., None], *args: Any) -> None:
        self._reduced = function, args

    def __reduce__(self) -> tuple[Callable[..., None], tuple[Any, ...]]:
        return self._reduced


def _set_authkey(key: bytes) -> None:
    from multiprocessing.process import current_process

    current_process().authkey = key


def _prepare(first: object, initializer: FunctionCode | None, *initargs: Any) -> Any:
    # It may be `async`.
    return None if initializer is None else load_function(initializer)(*initargs)
