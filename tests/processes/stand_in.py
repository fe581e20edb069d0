"""A worker's entry for tests below the host: it runs the code that came with the request."""

from __future__ import annotations

import json
import socket
from typing import Any

from noex_mp.worker.bootstrap import Boot


def main(boot: Boot) -> None:
    control = socket.socket(fileno=boot.control_fd)
    control.setblocking(True)

    def say(value: Any) -> None:
        control.sendall(json.dumps(value).encode() + b"\n")

    exec(boot.fields["code"], {"boot": boot, "control": control, "say": say})
