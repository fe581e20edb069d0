"""`Group`: servers that belong together, as OTP's `pg`.

```python
players = Group("players")  # at the top of a module


class Player(GenServer):
    async def init(self) -> None:
        await players.join()


for player in players.members(Player):
    await Player.tell(player, "the game begins")
```

A group is a key of a registry with duplicate keys, which all groups share.
"""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, Self, TypeVar, final, overload

from noex_mp.client import current
from noex_mp.client.registry import Registry
from noex_mp.core.gen_server import GenServer
from noex_mp.core.ref import Ref
from noex_mp.core.registrations import GROUPS, Claim
from noex_mp.errors import ConfigError

if TYPE_CHECKING:
    from noex_mp.client.blocking_registry import BlockingGroup
    from noex_mp.client.client import Client

__all__ = ["Group", "GroupChange", "GroupWatch", "watch_on"]

S = TypeVar("S", bound=GenServer[Any, Any, Any])

_groups: Final = Registry(GROUPS, keys="duplicate")


class GroupChange(NamedTuple):
    """That a server is a member of a group from now on, or is none any more.

    Attributes:
        kind: `"joined"` or `"left"`.
        ref: Who.
    """

    kind: Literal["joined", "left"]
    ref: Ref[Any]


@dataclass(frozen=True, slots=True)
class Group:
    """A group of servers of the current node: a handle by name, and a plain value.

    It is there as soon as somebody joins, and as long as it has members. A server is a member as
    long as its incarnation: it joins in its `init`, and again after a restart.

    Attributes:
        name: What it is called.

    Raises:
        ConfigError: That can be no name.
    """

    name: str

    def __post_init__(self) -> None:
        if not isinstance(self.name, str):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ConfigError(f'expected a name like "players" for a group, got {self.name!r:.60}')

    @property
    def sync(self) -> BlockingGroup:
        """What is awaited here, for a thread without an event loop: there it blocks."""
        from noex_mp.client.blocking_registry import BlockingGroup

        return BlockingGroup(self)

    def join(self, ref: Ref[Any] | None = None) -> asyncio.Future[None]:
        """Let a server be a member, until its incarnation ends. To join twice is no error.

        The node is asked when this is called; the future that it returns is done once every
        process of the node finds the server among the members.

        Args:
            ref: Who; by default the server that runs this code.

        Raises:
            NoServerError: There is no such server, or it is just being restarted.
            NoNodeError: No `ref` was given, and this code runs in no server.
        """
        return _groups.register(self.name, ref)

    def leave(self, ref: Ref[Any] | None = None) -> asyncio.Future[None]:
        """Let a server be no member any more. To leave twice is no error.

        As `join`, it asks when it is called, and returns a future.

        Args:
            ref: Who; by default the server that runs this code.

        Raises:
            NoNodeError: No `ref` was given, and this code runs in no server.
        """
        return _groups.unregister(self.name, ref)

    @overload
    def members(self) -> list[Ref[Any]]: ...
    @overload
    def members(self, server: type[S]) -> list[Ref[S]]: ...
    def members(self, server: type[S] | None = None) -> Any:
        """Return the members, the oldest first: a function call, and no message.

        Args:
            server: The class you expect; it types the result.

        Raises:
            NoNodeError, NodeDownError: There is no node here, or it has stopped.
        """
        return _groups.servers(self.name)

    def watch(self) -> GroupWatch:
        """Yield the members there are, as joined, and then every change.

        It ends with `close`, or with the object itself. Whoever is slow gets what is different from
        what he knows: a member that has joined and left meanwhile is not told.

        Raises:
            NoNodeError: There is no node here, or no event loop runs in this thread.
            NodeDownError: The node has stopped; also while iterating.

        Example:
            ```python
            async for change in players.watch():
                print(change.kind, change.ref)
            ```
        """
        return watch_on(current.client(), self)


def watch_on(client: Client, group: Group) -> GroupWatch:
    """Watch a group of a client's node."""
    return GroupWatch(client, group)


@final
class GroupWatch:
    """The changes of one group, as they come; see `Group.watch`. It belongs to one task."""

    def __init__(self, client: Client, group: Group) -> None:
        self._client = client
        self._group = group
        self._watch = client.key_watches.add(GROUPS, group.name)
        # By version: who has left and joined again is another member.
        self._known: dict[int, Claim] = {}
        self._waiting: deque[GroupChange] = deque()
        self._is_closed = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> GroupChange:
        while not self._waiting:
            if self._is_closed:
                raise StopAsyncIteration
            await self._watch.change()
            self._look()
        return self._waiting.popleft()

    def _look(self) -> None:
        names = current.local_names(self._client.node)
        table = names.table(GROUPS)
        claims = table.of(self._group.name) if table is not None else []
        now = {claim.version: claim for claim in claims}
        left = [claim for version, claim in self._known.items() if version not in now]
        joined = [claim for version, claim in now.items() if version not in self._known]
        self._waiting.extend(GroupChange("left", names.ref_of(claim)) for claim in left)
        self._waiting.extend(GroupChange("joined", names.ref_of(claim)) for claim in joined)
        self._known = now

    def close(self) -> None:
        """Watch no more; whoever iterates comes to the end."""
        self._is_closed = True
        self._watch.close()
        self._watch.wake()

    def __del__(self) -> None:
        # Perhaps in another thread, or when nothing runs any more.
        if not getattr(self, "_is_closed", True):
            with suppress(Exception):
                self._client.loop.call_soon_threadsafe(self._watch.close)
