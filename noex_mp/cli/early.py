"""The first moments of the command: a signal is heard while everything else is still imported.

Python answers Ctrl-C there with a traceback, and for process 1 of a container the kernel drops
what it has no handler for. `noex_mp/__init__.py` calls this before it imports all else; a program
that merely uses noex-mp is left alone.
"""

from __future__ import annotations

import os
import signal
import sys

__all__ = ["is_the_command", "listen_from_the_start"]


def listen_from_the_start() -> None:
    """Let a signal end the command quietly while it is imported."""
    if sys.argv[1:2] == ["run"]:
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            if signal.getsignal(number) != signal.SIG_IGN:
                # Nothing has been started: stopped on request.
                signal.signal(number, lambda number, frame: os._exit(0))
    elif signal.getsignal(signal.SIGINT) == signal.default_int_handler:
        # Until `main` can answer it.
        signal.signal(signal.SIGINT, signal.SIG_DFL)


def is_the_command() -> bool:
    """Return whether this process is the command `noex-mp`, or `python -m noex_mp`."""
    program = sys.argv[0] if sys.argv else ""
    if program != "-m":
        return os.path.basename(program) == "noex-mp"
    # `python -m noex_mp`, whose name is not yet known to `sys.argv`.
    words = sys.orig_argv
    return "-m" in words and words[words.index("-m") + 1 :][:1] == ["noex_mp"]
