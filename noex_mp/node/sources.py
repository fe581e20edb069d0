"""What the source files of the program were when the workers' code was loaded.

A server runs the code that its zygote has imported. When a file has changed since, that is no
longer what stands in the file, and somebody who has just saved it wants to know. When the program
itself has loaded a module again (`importlib.reload`), its servers are to have the new code too:
that takes a new zygote.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Final, NamedTuple

__all__ = ["Sources", "own_files"]

# All files are looked at this often at most, in seconds, however fast servers start.
INTERVAL: Final = 0.25

# Not by sysconfig, whose import takes longer than all of this.
_LIBRARY: Final = os.path.dirname(os.__file__)
_INSTALLED: Final = ("site-packages", "dist-packages")


class _Source(NamedTuple):
    """A file as it was."""

    module: str
    modified: int
    size: int
    digest: bytes


class Sources:
    """The program's own modules, as of the moment this is made.

    The standard library and what is installed are left out.
    """

    def __init__(self, preload: Sequence[str]) -> None:
        modules = dict(_own_modules())
        self._specs: dict[str, tuple[ModuleType, object]] = {
            name: (module, _spec_of(module)) for name, module in modules.items()
        }
        files = {name: str(module.__file__) for name, module in modules.items()}
        files |= {name: file for name in preload if name not in files and (file := _file_of(name))}
        self._files: dict[str, _Source] = {}
        for name, file in files.items():
            with suppress(OSError):
                self._files[file] = _look_at(name, file)
        self._next_look = 0.0

    def changed(self, module: str) -> Iterator[str]:
        """Yield a sentence for each file that has changed, once.

        Args:
            module: The server's own, which is looked at each time.
        """
        now = time.monotonic()
        look_at_all = now >= self._next_look
        if look_at_all:
            self._next_look = now + INTERVAL
        for file, before in list(self._files.items()):
            if (look_at_all or before.module == module) and _has_changed(file, before):
                del self._files[file]
                yield (
                    f"{file} has changed since this program loaded it; servers still start with "
                    f"the old code. {_remedy(before.module)}"
                )

    def reloaded(self) -> bool:
        """Tell whether the program itself has loaded a module again."""
        return any(
            sys.modules.get(name) is module and _spec_of(module) is not spec
            for name, (module, spec) in self._specs.items()
        )


def own_files(preload: Sequence[str] = ()) -> list[str]:
    """Return the files of the program's own modules that are loaded here, and of others by name."""
    loaded = [str(module.__file__) for _, module in _own_modules()]
    return [*loaded, *filter(None, map(_file_of, preload))]


def _spec_of(module: ModuleType) -> object:
    # The debugger (pdb) gives the script a module without one.
    return getattr(module, "__spec__", None)


def _remedy(module: str) -> str:
    if module == "__main__":
        return "Start the program again for the new one."
    return f"Start the program again for the new one, or importlib.reload({module}) and spawn."


def _own_modules() -> Iterator[tuple[str, ModuleType]]:
    for name, module in list(sys.modules.items()):
        file: object = getattr(module, "__file__", None)
        if isinstance(file, str) and _is_own(name, file):
            yield name, module


def _is_own(name: str, file: str) -> bool:
    if not file.endswith(".py") or name.partition(".")[0] == "noex_mp":
        return False
    return not file.startswith(_LIBRARY) and not any(part in file for part in _INSTALLED)


def _file_of(name: str) -> str | None:
    try:
        spec = importlib.util.find_spec(name)
    except Exception:  # an import of its parents, which the preload will tell of
        return None
    file = spec.origin if spec is not None else None
    return file if file is not None and _is_own(name, file) else None


def _look_at(module: str, file: str) -> _Source:
    status = os.stat(file)
    return _Source(module, status.st_mtime_ns, status.st_size, _digest(file))


def _digest(file: str) -> bytes:
    return hashlib.blake2b(Path(file).read_bytes(), digest_size=16).digest()


def _has_changed(file: str, before: _Source) -> bool:
    try:
        status = os.stat(file)
        if (status.st_mtime_ns, status.st_size) == (before.modified, before.size):
            return False
        # Saved again, or checked out again, with the same content.
        return status.st_size != before.size or _digest(file) != before.digest
    except OSError:
        # Gone, or being written just now: an editor puts the new one in its place in a moment.
        return False
