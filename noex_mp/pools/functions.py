"""Functions on the wire: by name where other processes find them, with their code elsewhere."""

from __future__ import annotations

import functools
import importlib
import sys
from collections.abc import Callable
from types import BuiltinFunctionType, FunctionType
from typing import Any, Final
from weakref import ref

from noex_mp.errors import NotImportableError, UnencodableError
from noex_mp.wire import by_value
from noex_mp.wire.classes import goes_by_name, local_module, path_of

__all__ = [
    "FunctionCode",
    "is_coroutine_function",
    "load_function",
    "name_of_code",
    "pack_function",
]

FunctionCode = str | bytes
"""A function as it travels: `module:qualname`, or a pickle."""

# A bit of a code object's co_flags.
_COROUTINE: Final = 0x80

_NAMED: Final = (FunctionType, BuiltinFunctionType, type)


def pack_function(function: Callable[..., Any]) -> FunctionCode:
    """Return what a lane finds the function by.

    Raises:
        UnencodableError: It cannot be sent: something in it belongs to this process.
        TypeError: That cannot be called.

    >>> from math import sqrt
    >>> pack_function(sqrt)
    'math:sqrt'
    """
    if function.__class__ in _NAMED and (name := _name_of(function)) is not None:
        return name
    if not callable(function):
        raise TypeError(f"a pool runs functions, got {function!r:.60}")
    try:
        return by_value.dump(function, sys.maxsize)[0]
    except Exception as error:  # anything may be in there
        what = getattr(function, "__qualname__", None) or repr(function)
        raise UnencodableError("function", f"{what:.60}", str(error)) from error


# To look a name up costs more than the rest of a call. A function goes when its program lets it go.
_names: Final[dict[ref[Any], str]] = {}


def _name_of(function: Any) -> str | None:
    name = _names.get(ref(function))
    if name is None and not _is_of_a_value(function) and goes_by_name(function):
        name = _names[ref(function, _names.pop)] = path_of(function)
    return name


def _is_of_a_value(function: Any) -> bool:
    # A method of a builtin value has a name, and belongs to that value.
    owner = getattr(function, "__self__", None)
    return owner is not None and owner is not sys.modules.get(function.__module__ or "")


def name_of_code(code: FunctionCode) -> str:
    """Return what people call a function that was packed.

    >>> name_of_code("math:sqrt")
    'sqrt'
    """
    return code.partition(":")[2] if isinstance(code, str) else "a function without a name"


def load_function(code: FunctionCode) -> Callable[..., Any]:
    """Return the function that `pack_function` has packed.

    Raises:
        NotImportableError: This process does not find it.
    """
    if isinstance(code, bytes):
        loaded: Callable[..., Any] = by_value.load(code)
        return loaded
    module, _, qualname = code.partition(":")
    name = local_module(module)
    try:
        found: Any = sys.modules.get(name) or importlib.import_module(name)
        return functools.reduce(getattr, qualname.split("."), found)  # type: ignore[no-any-return]
    except (Exception, SystemExit) as error:  # an import runs any code
        raise NotImportableError(code) from error


def is_coroutine_function(function: Callable[..., Any]) -> bool:
    """Return whether a function is `async`."""
    # That of `inspect` costs 10 ms to import, in each process.
    code = getattr(function, "__code__", None)
    return code is not None and bool(code.co_flags & _COROUTINE)
