"""Classes by name: `module:qualname` <-> class.

The script that the user started is `__main__` in the root process, and is imported under
another name in every worker process. On the wire it is always `__main__`, so a class of the
script is the same class to both, and `except` and `isinstance` hold.
"""

from __future__ import annotations

import functools
import importlib
import sys
from typing import Any, Final

from noex_mp.errors import NotImportableError

MAIN: Final = "__main__"
MAIN_IN_WORKERS: Final = "__noex_main__"


def path_of(cls: type[Any]) -> str:
    """Return the class's name on the wire.

    >>> import fractions
    >>> path_of(fractions.Fraction)
    'fractions:Fraction'
    """
    module = MAIN if cls.__module__ == MAIN_IN_WORKERS else cls.__module__
    return f"{module}:{cls.__qualname__}"


def local_module(name: str) -> str:
    """Return the name that a module has in this process."""
    if name in (MAIN, MAIN_IN_WORKERS):
        return MAIN_IN_WORKERS if MAIN_IN_WORKERS in sys.modules else MAIN
    return name


def find_class(path: str) -> type[Any]:
    """Return the class with this name; import its module if need be.

    Raises:
        NotImportableError: There is no such module, or no such class in it.
    """
    name, qualname = _split(path)
    name = local_module(name)
    try:
        found: object = sys.modules.get(name) or importlib.import_module(name)
        for attribute in qualname:
            found = getattr(found, attribute)
    except (Exception, SystemExit) as error:  # an import runs any code
        raise NotImportableError(path) from error
    if not isinstance(found, type):
        raise NotImportableError(path)
    return found


@functools.lru_cache(maxsize=1024)
def _split(path: str) -> tuple[str, list[str]]:
    name, _, qualname = path.partition(":")
    return name, qualname.split(".")


def can_be_found(cls: type[Any]) -> bool:
    """Tell whether another process finds this very class under its name."""
    try:
        return find_class(path_of(cls)) is cls
    except NotImportableError:
        return False
