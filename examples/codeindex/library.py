"""What there is to index, and where the work is kept."""

from __future__ import annotations

import os
import platform
import sysconfig
import tempfile
from dataclasses import dataclass
from pathlib import Path

# Other people's code, and data.
_SKIPPED = {"site-packages", "dist-packages", "__pycache__"}


@dataclass(frozen=True)
class Library:
    """A folder of Python files.

    Attributes:
        root: The folder.
        limit: How many of its files count, in the order of their paths; None is all of them.
    """

    root: str
    limit: int | None = None

    def files(self) -> dict[str, str]:
        """Return a stamp for each file, by its path below the root.

        A file whose stamp is the same has not changed.
        """
        paths: list[str] = []
        for folder, folders, names in os.walk(self.root):
            folders[:] = [name for name in folders if name not in _SKIPPED]
            paths += [os.path.join(folder, name) for name in names if name.endswith(".py")]
        return {
            os.path.relpath(path, self.root): _stamp(path) for path in sorted(paths)[: self.limit]
        }


def standard_library() -> Library:
    """Return the standard library of this Python, or `$CODEINDEX_ROOT`."""
    limit = os.environ.get("CODEINDEX_LIMIT")
    root = os.environ.get("CODEINDEX_ROOT") or sysconfig.get_path("stdlib")
    return Library(root, int(limit) if limit else None)


def work_folder() -> Path:
    """Return the folder that outlives a run: `$CODEINDEX_WORK`, or one in the temp folder."""
    chosen = os.environ.get("CODEINDEX_WORK")
    if chosen:
        return Path(chosen)
    return Path(tempfile.gettempdir(), f"codeindex-{os.getuid()}-{platform.python_version()}")


def _stamp(path: str) -> str:
    try:
        stat = os.stat(path)
    except FileNotFoundError:
        return "gone"  # since a moment ago; or a link to nowhere
    return f"{stat.st_size}-{stat.st_mtime_ns}"
