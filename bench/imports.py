"""How long `import noex_mp` takes in a fresh interpreter. Imports nothing of the runtime itself."""

from __future__ import annotations

import statistics
import subprocess
import sys

from bench.floor import Numbers

__all__ = ["import_cold"]

_CODE = "from time import perf_counter as t; s = t(); import noex_mp; print((t() - s) * 1e3)"


def import_cold() -> Numbers:
    """Return `ms`: the import alone, without the interpreter's own start."""
    command = [sys.executable, "-c", _CODE]
    took = [
        float(subprocess.run(command, check=True, capture_output=True).stdout) for _ in range(5)
    ]
    return {"ms": statistics.median(took)}
