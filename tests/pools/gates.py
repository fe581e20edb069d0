"""How a test meets a task in another process: a task waits at a gate, or leaves a mark."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from tests.pools import tasks

__all__ = ["LADDER", "Gate", "marks", "there"]

# What a task may do, and which rung stops it.
LADDER = [
    (tasks.look_at_token, "token"),
    (tasks.raise_by_token, "token"),
    (tasks.await_long, "cancel"),
    (tasks.block_the_loop, "exception"),
    (tasks.sleep_long, "exception"),
    (tasks.keep_the_gil, "kill"),
    (tasks.hold_on, "kill"),
]


class Gate:
    """What `tasks.wait_for` waits for.

    Attributes:
        arguments: What it is called with.
    """

    def __init__(self, folder: Path) -> None:
        self._begun, self._gate = folder / "begun", folder / "gate"
        os.mkfifo(self._begun)
        os.mkfifo(self._gate)
        self.arguments = (str(self._begun), str(self._gate))

    def wait_for_it(self) -> None:
        """Return once the task has begun."""
        assert self._begun.read_text() == "x"

    async def begun(self) -> None:
        """Return once the task has begun."""
        await asyncio.to_thread(self.wait_for_it)

    async def open(self) -> None:
        """Let the task end."""
        await asyncio.to_thread(self._gate.write_text, "go")


async def there(path: Path) -> None:
    """Return once a file is there."""
    while not path.exists():  # noqa: ASYNC110, ASYNC240 - another process makes it
        await asyncio.sleep(0.001)


def marks(folder: Path) -> list[str]:
    """Return the names of the marks that tasks have left."""
    return sorted(path.name for path in folder.glob("mark*"))
