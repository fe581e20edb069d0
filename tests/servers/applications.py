"""Applications whose functions do as they are told, and keep a diary with their servers."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from noex_mp import Application, Supervisor, child
from noex_mp.services.hooks import Hook
from tests.servers.counters import blow
from tests.servers.obedient import Obedient

__all__ = ["Told", "application", "diary", "prep_stop", "start", "stop", "tree"]


@dataclass(frozen=True)
class Told:
    """What the functions of an application do besides writing down that they run.

    Each may `raise`, `sleep` (block for ever), `wait` (the same in the event loop), be `exit`ed or
    `kill`ed. What begins with a slash is a fifo that it blows before it waits.
    """

    folder: str
    start: str = ""
    prep_stop: str = ""
    stop: str = ""
    last: str = ""


def diary(folder: Path) -> list[str]:
    """Return what has been written down."""
    path = folder / "diary"
    return path.read_text().split() if path.exists() else []


def note(told: Told, what: str) -> None:
    with open(Path(told.folder) / "diary", "a") as file:
        file.write(f"{what}\n")


@dataclass
class State:
    """What `start` returns."""

    told: Told
    os_pid: int


async def _do(order: str) -> None:
    match order:
        case "raise":
            raise ValueError("told to fail")
        case "sleep":
            time.sleep(60)  # noqa: ASYNC251 - that is the point
        case "wait":
            await asyncio.Event().wait()
        case "exit":
            os._exit(7)
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case _ if order:
            blow(order)
            await asyncio.Event().wait()
        case _:
            pass


async def start(told: Told) -> State:
    note(told, "start")
    await _do(told.start)
    return State(told, os.getpid())


async def prep_stop(state: State) -> None:
    assert state.os_pid == os.getpid()
    note(state.told, "prep_stop")
    await _do(state.told.prep_stop)


async def stop(state: State) -> None:
    assert state.os_pid == os.getpid()
    note(state.told, "stop")
    await _do(state.told.stop)


def tree(told: Told) -> Supervisor:
    servers = [child(Obedient, name, told.folder, last=told.last) for name in "ab"]
    return Supervisor(*(spec.options(id=spec.args[0], name=spec.args[0]) for spec in servers))


def application(
    told: Told,
    name: str = "shop",
    tree: Supervisor | Callable[[Told], Supervisor] = tree,
    start: Hook | None = start,
    **options: Any,
) -> Application[Told]:
    """Return an application with all three functions."""
    return Application(
        name, tree, config=told, start=start, prep_stop=prep_stop, stop=stop, **options
    )
