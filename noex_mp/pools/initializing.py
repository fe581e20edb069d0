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


def _authkey() -> _Authkey | None:
    """Return what the proxies of a `multiprocessing.Manager` prove with that they may connect.

    None if this program has none of them: it has not imported what makes them.
    """
    if "multiprocessing.managers" not in sys.modules:
        return None
    from multiprocessing.process import current_process

    return _Authkey(bytes(current_process().authkey))


class _Authkey:
    """Is set where it arrives: before the arguments behind it, which may be proxies."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def __reduce__(self) -> tuple[Callable[[bytes], None], tuple[bytes]]:
        return _set_authkey, (self._key,)


def _set_authkey(key: bytes) -> None:
    from multiprocessing.process import current_process

    current_process().authkey = key


def _prepare(key: None, initializer: FunctionCode | None, *initargs: Any) -> Any:
    # It may be `async`.
    return None if initializer is None else load_function(initializer)(*initargs)
