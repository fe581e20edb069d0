"""Trees whose children start and end to order, and what they wrote down."""

from __future__ import annotations

from pathlib import Path

import pytest
from typing_extensions import Unpack

from noex_mp import ChildSpec, Ref, child, named, supervisor
from noex_mp.core.specs import ServerOptions
from tests.nodes.observed import Whistle, Whistles
from tests.servers.obedient import Obedient

__all__ = ["Scene", "at", "refs_of", "scene", "states", "until"]


class Scene:
    """A folder in which obedient children find their orders and keep their diary."""

    def __init__(self, folder: Path, whistles: Whistles) -> None:
        self._folder = folder
        self._whistles = whistles
        self._asking: dict[str, tuple[Whistle, Whistle]] = {}

    def child(
        self, name: str, /, *, last: str = "", **options: Unpack[ServerOptions]
    ) -> ChildSpec[Obedient]:
        """Return a child that is called so; `last` is what its `terminate` does."""
        spec = child(Obedient, name, str(self._folder), last=last).options(id=name, name=name)
        return spec.options(**options)

    def order(self, name: str, orders: str) -> None:
        """Say what the next starts of a child do: see `Obedient`."""
        (self._folder / f"{name}.orders").write_text(orders)
        if "?" in orders:
            self.let_ask(name)

    def let_ask(self, name: str) -> None:
        """Make the whistles of a child that asks what to do."""
        if name not in self._asking:
            asks, told = (self._whistles(f"{name}.{what}") for what in ("asks", "told"))
            self._asking[name] = (asks, told)

    async def asked(self, name: str) -> None:
        """Wait until a child asks what to do."""
        await self._asking[name][0].heard()

    def tell(self, name: str, order: str) -> None:
        """Answer it."""
        with open(self._asking[name][1].path, "wb", buffering=0) as told:
            told.write(order.encode())

    def told(self, *names: str) -> list[str]:
        """Return the diary: of all children, or of some."""
        diary = self._folder / "diary"
        lines = diary.read_text().split() if diary.exists() else []
        return [line for line in lines if not names or line[1:] in names]


@pytest.fixture
def scene(tmp_path: Path, whistles: Whistles) -> Scene:
    return Scene(tmp_path, whistles)


def at(name: str) -> Ref[Obedient]:
    """Return the address of a child, by its name."""
    return named(name, Obedient).within(10)


async def refs_of(names: str) -> list[Ref[Obedient]]:
    """Return the addresses of children, for each letter one."""
    return [await Obedient.me(at(name)) for name in names]


async def states(of: str = "/") -> dict[str, str]:
    """Return the states of a supervisor's children, by their ids, in their order."""
    return {each.id: each.state for each in await supervisor(of).which_children()}


async def until(name: str, state: str, of: str = "/") -> None:
    """Wait until a child is in a state."""
    while (await states(of)).get(name) != state:
        pass
