"""Where a program stands: its folder, its environment, and where it finds modules.

The processes of a node have these from the program as it was when the node started. That of an
executor stays for the next one, which is to find what is so by then.
"""

from __future__ import annotations

import contextlib
import os
import sys
from dataclasses import dataclass

__all__ = ["Change", "Surroundings", "adopt"]

Change = tuple[str | None, dict[str, str | None], list[str]]
"""What is another by now: the folder; variables, None for one that is gone; what `sys.path` has."""


@dataclass(frozen=True)
class Surroundings:
    """Those of this process at one time.

    Attributes:
        folder: Its working directory; None if that is gone.
        environ: Its environment.
        path: Where it finds modules.
    """

    folder: str | None
    environ: dict[str, str]
    path: list[str]

    @classmethod
    def now(cls) -> Surroundings:
        """Return what they are."""
        folder = None
        with contextlib.suppress(OSError):
            folder = os.getcwd()
        return cls(folder, dict(os.environ), list(sys.path))

    def change_to(self, other: Surroundings) -> Change | None:
        """Return what has changed from these to others; None if nothing has.

        >>> then = Surroundings("/srv", {"A": "1", "B": "2"}, ["/srv"])
        >>> then.change_to(Surroundings("/tmp", {"A": "3"}, ["/lib", "/srv"]))
        ('/tmp', {'A': '3', 'B': None}, ['/lib'])
        """
        if self == other:
            return None
        names = self.environ.keys() | other.environ.keys()
        variables = {
            name: other.environ.get(name)
            for name in sorted(names)
            if self.environ.get(name) != other.environ.get(name)
        }
        folder = None if other.folder == self.folder else other.folder
        return folder, variables, [each for each in other.path if each not in self.path]


def adopt(folder: str | None, variables: dict[str, str | None], path: list[str]) -> None:
    """Let these hold in this process."""
    if folder is not None:
        # It may have gone meanwhile: whoever needs it hears of it.
        with contextlib.suppress(OSError):
            os.chdir(folder)
    for name, value in variables.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
    sys.path[:0] = [each for each in path if each not in sys.path]
