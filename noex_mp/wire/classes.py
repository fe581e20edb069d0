"""Classes and functions by name: `module:qualname` <-> class.

The script that the user started is `__main__` in the root process, and is imported under
another name in every worker process. On the wire it is always `__main__`, so a class of the
script is the same class to both, and `except` and `isinstance` hold.

Not everything has a name that other processes can look up: a notebook has no file, and a class
inside a function is no attribute of its module. `goes_by_name` tells; the rest goes by value
(see `by_value`).
"""

from __future__ import annotations

import functools
import importlib
import importlib.machinery
import sys
from collections.abc import Callable
from types import FunctionType, ModuleType
from typing import Any, Final, NamedTuple

from noex_mp.errors import NotImportableError

MAIN: Final = "__main__"
MAIN_IN_WORKERS: Final = "__noex_main__"

# How this process imports the user's script when somebody first asks for it, if it can.
_import_main: Callable[[], object] | None = None

# The module of the user's program, and how others import it.
_last_main: tuple[ModuleType, MainProgram] | None = None

# Verdicts, each for as long as the module is the same object.
_importable: dict[str, tuple[ModuleType, bool]] = {}


class MainProgram(NamedTuple):
    """How the user's program can be imported once more.

    Attributes:
        name: The name of its module (`python -m name`), or None.
        path: Else the path of its file.
    """

    name: str | None
    path: str | None


def path_of(cls: type[Any]) -> str:
    """Return the class's name on the wire.

    >>> import fractions
    >>> path_of(fractions.Fraction)
    'fractions:Fraction'
    """
    module = MAIN if cls.__module__ == MAIN_IN_WORKERS else cls.__module__
    return f"{module}:{cls.__qualname__}"


def readable(text: str) -> str:
    """Return text that names classes with the script's as Python itself names it: `__main__`."""
    return text.replace(f"{MAIN_IN_WORKERS}.", f"{MAIN}.")


def main_program() -> MainProgram | None:
    """Return how workers can import the user's program again, or None if they cannot.

    A folder or an archive with a `__main__.py` is run for what it does, and mostly has no main
    guard. An interactive session, a notebook and standard input have no file at all.
    """
    global _last_main
    main = sys.modules[MAIN]
    if hasattr(sys, "ps1") or sys.flags.interactive or sys.flags.inspect:
        return None
    spec: importlib.machinery.ModuleSpec | None = getattr(main, "__spec__", None)
    if spec is not None:
        package_is_run = spec.name.rpartition(".")[2] == MAIN
        return None if package_is_run else MainProgram(spec.name, None)
    loader: object = getattr(main, "__loader__", None)
    path: str | None = getattr(main, "__file__", None)
    # Standard input calls itself "<stdin>", and has a class for a loader.
    has_code = hasattr(loader, "get_code") and not isinstance(loader, type)
    if path is None and _last_main is not None and _last_main[0] is main:
        # Python takes it off when the script has ended, while threads and exit hooks go on.
        return _last_main[1]
    if path is None or not has_code:
        return None
    found = MainProgram(None, path)
    _last_main = main, found
    return found


def import_main_on_demand(import_main: Callable[[], object]) -> None:
    """Set what imports the user's script under its other name, once somebody asks for it."""
    global _import_main
    _import_main = import_main


def local_module(name: str) -> str:
    """Return the name that a module has in this process.

    Raises:
        NotImportableError: It is the user's script, which raises something when it is imported.
    """
    if name in (MAIN, MAIN_IN_WORKERS):
        if MAIN_IN_WORKERS not in sys.modules and _import_main is not None:
            try:
                _import_main()
            except (Exception, SystemExit) as error:  # an import runs any code
                problem = f"{type(error).__name__}: {error}"
                raise NotImportableError(MAIN, problem=problem) from error
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


def goes_by_name(value: type[Any] | FunctionType) -> bool:
    """Tell whether the node's other processes find this very class or function by its name."""
    # Asked for each dataclass that is sent. Some code takes the module away: then it has no name.
    module = sys.modules.get(value.__module__ or "")
    if module is None:
        return False
    qualname = value.__qualname__
    return (
        getattr(module, qualname, None) is value
        or ("." in qualname and "<" not in qualname and _nested(module, qualname) is value)
    ) and others_import(module)


def _nested(module: ModuleType, qualname: str) -> object:
    try:
        return functools.reduce(getattr, qualname.split("."), module)
    except AttributeError:
        return None


def others_import(module: ModuleType) -> bool:
    """Tell whether an import in the node's other processes leads to this module of ours."""
    name = module.__name__
    known = _importable.get(name)
    if known is None or known[0] is not module:
        known = _importable[name] = (module, _is_known_elsewhere(name))
    return known[1]


def _is_known_elsewhere(name: str) -> bool:
    if name == MAIN:
        return main_program() is not None
    return name == MAIN_IN_WORKERS or _is_importable(name)


def _is_importable(name: str) -> bool:
    """Tell whether an import of this name leads to the module that we have.

    Not always: pytest imports test files that are on no path, and two files of the same name
    may have taken turns. What has no file of its own (built in, or made by another module) gets
    the benefit of the doubt.
    """
    module = sys.modules.get(name)
    parent = name.rpartition(".")[0]
    if module is None or (parent and not _is_importable(parent)):
        return False
    file: str | None = getattr(module, "__file__", None)
    is_package = hasattr(module, "__path__")
    if file is None and not is_package:
        return True
    path = getattr(sys.modules.get(parent), "__path__", None) if parent else None
    if parent and path is None:
        # Either pytest has put an empty module in place of a folder, or C code made both.
        return file is None or not file.endswith(".py")
    return any(_leads_to(finder, name, path, file) for finder in sys.meta_path)


def _leads_to(finder: Any, name: str, path: Any, file: str | None) -> bool:
    try:
        spec = finder.find_spec(name, path)
    except Exception:  # somebody else's finder
        return False
    if spec is None:
        return False
    return file is None or spec.origin is None or _is_same_file(spec.origin, file)


def _is_same_file(one: str, other: str) -> bool:
    if one == other:
        return True
    from pathlib import Path

    return Path(one).resolve().with_suffix("") == Path(other).resolve().with_suffix("")
