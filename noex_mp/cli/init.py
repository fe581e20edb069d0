"""`noex-mp init DIR`: writes a small project that runs, is tested, and can be deployed.

Its files stand in the folder `starter`, with an ending of their own so that nothing takes them for
code of ours; `NAME` in them, and in their names, is the project's.
"""

from __future__ import annotations

import keyword
import re
import sys
from collections.abc import Iterator
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Final

from noex_mp.cli import statuses
from noex_mp.cli.results import show
from noex_mp.errors import ConfigError

__all__ = ["init", "package_name"]

_ENDING: Final = ".in"

# What a project cannot be called, since its modules would hide others: those that we need too.
_NEEDED: Final = ("cloudpickle", "msgpack", "psutil", "typing_extensions", "uvloop", "pytest")
_TAKEN: Final = frozenset((*sys.stdlib_module_names, *_NEEDED, "noex_mp", "tests"))


def init(folder: str) -> int:
    """Write the starter project; return the exit status.

    Args:
        folder: Where. It may exist if it is empty; its name becomes the project's.

    Raises:
        ConfigError: Something is there, it cannot be written, or no module can be called so.
    """
    target = Path(folder)
    name = package_name(target.resolve().name)
    try:
        if target.exists() and (not target.is_dir() or any(target.iterdir())):
            raise ConfigError(f"expected a new or an empty folder, got {folder}, which is not")
        for path, text in _project(name):
            file = target / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
    except OSError as error:
        raise ConfigError(f"{folder} cannot be written: {error}") from None
    show(f"{folder} is there. Next:\n  cd {folder}\n  make test\n  make run")
    return statuses.OK


def package_name(folder: str) -> str:
    """Return the name of the package of a project in a folder called so.

    Raises:
        ConfigError: It can be none.
    """
    name = re.sub(r"[^a-z0-9]+", "_", folder.lower()).strip("_")
    if name.isidentifier() and not keyword.iskeyword(name) and name not in _TAKEN:
        return name
    raise ConfigError(
        f"expected the folder's name to be one for a module too, got {folder!r}\n"
        f"For example: noex-mp init shop"
    )


def _project(name: str) -> Iterator[tuple[str, str]]:
    """Yield the files, each with its path in the project."""
    for path, text in _templates(files("noex_mp.cli") / "starter"):
        yield (
            path.replace("dot-", ".").replace("NAME", name).removesuffix(_ENDING),
            text.replace("VARIABLE_", f"{name.upper()}_").replace("NAME", name),
        )


def _templates(folder: Traversable, above: str = "") -> Iterator[tuple[str, str]]:
    for each in sorted(folder.iterdir(), key=lambda found: found.name):
        if each.is_dir():
            yield from _templates(each, f"{above}{each.name}/")
        elif each.name.endswith(_ENDING):
            yield f"{above}{each.name}", each.read_text()
