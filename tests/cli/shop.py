"""Applications for tests of the command line; they run them as `shop:shop`."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path

from noex_mp import Application, ExitReason, GenServer, Reply, Stop, Supervisor, call, child


@dataclass(frozen=True)
class ShopConfig:
    """What a shop may be told."""

    port: int = 8080
    diary: Path | None = None
    slow: float = 0.0
    gate: Path | None = None


def say(config: ShopConfig, what: str) -> None:
    print(what, flush=True)
    if config.diary:
        with config.diary.open("a") as file:
            file.write(f"{what}\n")


class Till(GenServer):
    def __init__(self, config: ShopConfig) -> None:
        self.config = config

    def init(self) -> None:
        say(self.config, f"till at {self.config.port}")

    def terminate(self, reason: ExitReason) -> None:
        say(self.config, "till closed")

    @call
    def finish(self) -> Reply[None]:
        return Reply(None, Stop())

    @call
    def crash(self) -> None:
        raise ValueError("out of change")


def tree(config: ShopConfig) -> Supervisor:
    return Supervisor(child(Till, config).options(name="till"), max_restarts=0, id="rooms")


def ending_tree(config: ShopConfig) -> Supervisor:
    till = child(Till, config).options(name="last", restart="transient", significant=True)
    return Supervisor(till, auto_shutdown="any_significant")


def open_doors(config: ShopConfig) -> ShopConfig:
    say(config, "doors open")
    if config.gate:
        # A fifo: until somebody writes to it.
        config.gate.read_text()
    return config


async def close_doors(config: ShopConfig) -> None:
    say(config, "doors close")
    await asyncio.sleep(config.slow)
    say(config, "doors closed")


def go_home(config: ShopConfig) -> None:
    say(config, "home")


def fail(config: ShopConfig) -> None:
    raise ValueError("the key is lost")


def no_tree(config: ShopConfig) -> Supervisor:
    raise ValueError("the key is lost")


db = Application("db", Supervisor(child(Till, ShopConfig(port=1)), id="tables"))
shop = Application(
    "shop",
    tree,
    config=ShopConfig,
    start=open_doors,
    prep_stop=close_doors,
    stop=go_home,
    depends_on=(db,),
    stop_timeout=4.0,
)
ending = Application("ending", ending_tree, config=ShopConfig)
treeless = Application("treeless", no_tree, config=ShopConfig)
closed = Application("closed", tree, config=ShopConfig, start=fail)
lonely = Application("lonely", tree, depends_on=("nobody",))
both = Supervisor(shop, ending)
