"""A server that keeps a list, and hands it out as it is."""

from __future__ import annotations

from noex_mp import GenServer, Ref, call

__all__ = ["Keeper"]


class Keeper(GenServer):
    """Keeps a list."""

    def __init__(self) -> None:
        self._kept: list[str] = []

    @call
    def keep(self, given: list[str]) -> None:
        """Keep this list, not a copy of it."""
        self._kept = given

    @call
    def given_so_far(self) -> list[str]:
        """Return the list that it keeps, not a copy of it."""
        return self._kept

    @call
    async def change(self, other: Ref[Keeper]) -> list[str]:
        """Change the list of another server, as far as this one gets hold of it."""
        taken = await Keeper.given_so_far(other)
        taken.append("changed")
        return taken
