"""A root to be killed: starts workers, says who runs, and waits.

`python -m tests.faults.root_program '{"workers": [code, ...], "preload": [...]}'` prints one line
of JSON: the zygote's os pid and, per worker, its own and whatever the worker said. A worker says
how many values it is going to say, then the values.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from typing import Any

from tests.processes.harness import Root, running_root


async def _main(order: dict[str, Any]) -> None:
    async with running_root(order.get("preload", ())) as root:
        if order.get("user_fork"):
            _fork_as_a_user_would()
        _say({"zygote": root.zygote.os_pid, "workers": await _start(root, order["workers"])})
        await root.died.wait()
        _say({"died": True})
        await asyncio.Event().wait()


async def _start(root: Root, codes: list[str]) -> list[int]:
    os_pids: list[int] = []
    for code in codes:
        worker = await root.fork(code)
        os_pids += [worker.os_pid, *await worker.hear()]
    return os_pids


def _fork_as_a_user_would() -> None:
    """Leave a process behind that would hold a copy of every descriptor, and outlives us."""
    os_pid = os.fork()
    if os_pid == 0:
        os.closerange(0, 3)
        # Only the reader of this pipe's other end lets it go.
        os.read(int(os.environ["HOLD"]), 1)
        os._exit(0)


def _say(value: dict[str, Any]) -> None:
    print(json.dumps(value), flush=True)


if __name__ == "__main__":
    asyncio.run(_main(json.loads(sys.argv[1])))
