"""What is imported ahead for workers: whether it may be, and that no node starts there."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import FrameType

from noex_mp.errors import PreloadError
from noex_mp.transport import fds
from noex_mp.wire.classes import MAIN, MAIN_IN_WORKERS

__all__ = ["has_main_guard", "refuse_while_preloading"]


def has_main_guard() -> bool:
    """Return whether the program's script can be run again without doing all that it does."""
    try:
        source = Path(sys.modules[MAIN].__file__ or "").read_text(encoding="utf-8")
    except (AttributeError, OSError, ValueError):
        return False
    return re.search(r"^if\b.*\b__name__\b", source, re.MULTILINE) is not None


def refuse_while_preloading() -> None:
    """Refuse to start a node in a process that only imports what workers are to have.

    Raises:
        PreloadError: Says which line starts it, and where to put that.
    """
    if not fds.preloading():
        return
    frame: FrameType | None = sys._getframe()  # pyright: ignore[reportPrivateUsage]
    while frame is not None and frame.f_code.co_name != "<module>":
        frame = frame.f_back
    if frame is None or frame.f_globals.get("__name__") == MAIN_IN_WORKERS:
        raise PreloadError(
            "your script starts a node, and does so again when a worker process imports it\n"
            'Put what it does under: if __name__ == "__main__":'
        )
    raise PreloadError(
        f"{frame.f_code.co_filename}, line {frame.f_lineno}, starts a node while the module is "
        f"imported, and worker processes import it too\n"
        f"Move that into a function, and call it in your script under: "
        f'if __name__ == "__main__":'
    )
