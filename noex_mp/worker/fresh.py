"""A worker that is executed instead of forked: `start="exec"`, for code that cannot live with fork.

The zygote executes its interpreter, stays its parent, and reaps it. It gets the descriptor of a
file that says what the process is to be; the descriptors named there are inherited. From there on
everything is as in a forked worker (see `bootstrap`), but that nothing has been preloaded.
"""

from __future__ import annotations

import os
from typing import Any, NoReturn

from noex_mp.transport import fds, lifeline
from noex_mp.wire import zygote_packets as packets
from noex_mp.worker import preload
from noex_mp.worker.bootstrap import Birth, outlive_the_zygote, run


def main(fd: int) -> NoReturn:
    """Be the worker that the file `fd` describes."""
    with open(fd, "rb") as file:
        brief: dict[str, Any] = packets.unpack(file.read())
    os.setpgid(0, 0)
    outlive_the_zygote()
    # Before anything that takes time: the root may end meanwhile.
    lifeline.arm(brief["lifeline"])
    config = packets.ZygoteConfig(**brief["config"])
    preload.take_over(config)
    entry = preload.import_runtime(config.entry)
    fds.set_preloading(value=True)
    try:
        preload.import_script(config)
    finally:
        fds.set_preloading(value=False)
    run(
        Birth(
            entry=entry,
            fields=brief["fields"],
            control_fd=brief["control"],
            stdout_fd=1,
            stderr_fd=2,
            black_box_fd=brief["black_box"],
            names_fd=brief["names"],
            shared_fd=brief["shared"],
            lifeline_fd=brief["lifeline"],
        )
    )
