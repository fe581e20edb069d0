"""The variables by which numerical libraries learn how many threads to start."""

from __future__ import annotations

from typing import Final

__all__ = ["THREAD_VARIABLES"]

# Each library reads its variable once, when it is loaded.
THREAD_VARIABLES: Final = (
    "OPENBLAS_NUM_THREADS",
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "BLIS_NUM_THREADS",
)
