"""Who wants to hear of changes under which key of a registry: `await_name`, and watched groups.

What has changed is not said: whoever hears that something has looks at its copy of the registries.
"""

from __future__ import annotations

from noex_mp.node.connection import Connection
from noex_mp.wire.envelopes import CHANGED

__all__ = ["KeyWatches"]


class KeyWatches:
    """The watched keys of a node, each with who watches it; each watch has a number there."""

    def __init__(self) -> None:
        self._of: dict[tuple[str, str], dict[Connection, set[int]]] = {}
        self._by: dict[Connection, dict[int, tuple[str, str]]] = {}

    def add(self, connection: Connection, number: int, registry: str, key: str) -> None:
        """Watch a key; the first news says that it is watched from now on."""
        watched = registry, key
        self._of.setdefault(watched, {}).setdefault(connection, set()).add(number)
        self._by.setdefault(connection, {})[number] = watched
        connection.post([CHANGED, [number]])

    def remove(self, connection: Connection, number: int) -> None:
        """Watch no more."""
        watched = self._by.get(connection, {}).pop(number, None)
        if watched is None:
            return
        watchers = self._of[watched]
        watchers[connection].discard(number)
        if not watchers[connection]:
            del watchers[connection]
        if not watchers:
            del self._of[watched]

    def forget(self, connection: Connection) -> None:
        """Note that a process is gone."""
        for number in list(self._by.get(connection, ())):
            self.remove(connection, number)
        self._by.pop(connection, None)

    def changed(self, registry: str, key: str) -> None:
        """Tell all that watch a key that something has changed under it."""
        if self._of:
            for connection, numbers in self._of.get((registry, key), {}).items():
                connection.post([CHANGED, list(numbers)])
