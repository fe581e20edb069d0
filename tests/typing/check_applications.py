"""What mypy and pyright must say about applications. Read, never run.

An ignore that a checker does not need is an error, so each one below proves a complaint.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import assert_type

from noex_mp import (
    Application,
    ExitReport,
    Health,
    Node,
    Supervisor,
    child,
    start_application,
    sync,
)
from tests.typing.servers import Counter


@dataclass(frozen=True)
class Config:
    """The options of the application."""

    start: int = 0


def tree(config: Config) -> Supervisor:
    """Return the tree."""
    return Supervisor(child(Counter, config.start))


def no_tree(config: Config) -> int:
    """Return something else."""
    return config.start


shop = Application("shop", tree, config=Config)
plain = Application("plain", Supervisor(child(Counter)), depends_on=(shop, "db"))


async def check_applications(node: Node) -> None:
    """Start one, look at it, stop it."""
    running = await start_application(shop)
    assert_type(running.config, Config)
    assert_type(await running.wait(), ExitReport | None)
    assert_type(shop.configured(file="shop.toml"), Application[Config])
    assert_type(await node.health(), Health)
    if await running.status() == "runing":  # type: ignore[comparison-overlap]  # pyright: ignore[reportUnnecessaryComparison]
        return
    shop.configured(7)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Application("shop", no_tree, config=Config)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Application("shop", tree, restart="always")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def check_applications_in_a_thread() -> None:
    """The same without an event loop."""
    running = sync.start_application(shop)
    assert_type(running.config, Config)
    assert_type(running.wait(), ExitReport | None)
    assert_type(sync.start_supervisor(Supervisor(child(Counter))), sync.BlockingSupervisor)
