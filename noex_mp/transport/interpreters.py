"""How to execute a fresh interpreter that finds this package.

The package is found through PYTHONPATH, which the new process puts right again.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

__all__ = ["command", "environment"]

_HOME = str(Path(__file__).absolute().parents[2])


def command(module: str, *args: str) -> list[str]:
    """Return the command that runs `main(int(args[0]))` of a module of this package.

    The interpreter gets the flags of this one.
    """
    flags: list[str] = getattr(subprocess, "_args_from_interpreter_flags")()  # noqa: B009
    # -E and -I keep PYTHONPATH from being read.
    find = f"sys.path.append({_HOME!r}); " if sys.flags.ignore_environment else ""
    # What is imported stays: to look for garbage among it takes an eighth of the whole start.
    code = f"import gc, sys; gc.disable(); {find}from {module} import main; main(int(sys.argv[1]))"
    return [sys.executable, "-P", *flags, "-c", code, *args]


def environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the variables to execute it with."""
    path = [_HOME, *filter(None, [environ.get("PYTHONPATH")])]
    return {**environ, "PYTHONPATH": os.pathsep.join(path)}
