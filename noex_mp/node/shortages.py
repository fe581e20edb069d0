"""Limits of the process that a start has met, as errors that say what to do about them."""

from __future__ import annotations

import contextlib
import errno
import resource
from collections.abc import Generator
from typing import Final

from noex_mp.core.black_box import SLOT_SIZE
from noex_mp.errors import FileSizeLimitError, OutOfDescriptorsError
from noex_mp.transport import fds

__all__ = ["FDS_OF_A_NODE", "told"]

FDS_OF_A_NODE: Final = 40
"""How many descriptors a node takes, with its first server and what is kept back for restarts."""


@contextlib.contextmanager
def told(server: str, *, fds_needed: int | None = None, workers: int = 1) -> Generator[None]:
    """Raise an error of ours where a limit is met in here.

    Args:
        server: What does not start, for people.
        fds_needed: How many descriptors it takes; None leaves such an error as it is.
        workers: How many there are with the one that starts.

    Raises:
        OutOfDescriptorsError: Too few descriptors are free.
        FileSizeLimitError: A file would be too large.
    """
    try:
        yield
    except OSError as error:
        if error.errno == errno.EMFILE and fds_needed is not None:
            raise OutOfDescriptorsError(server, *fds.usage(), fds_needed) from error
        if error.errno == errno.EFBIG:
            limit = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
            raise FileSizeLimitError(server, limit, workers * SLOT_SIZE) from error
        raise
