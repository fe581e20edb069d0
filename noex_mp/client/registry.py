"""`Registry`: servers under names, and more than one name for each.

```python
rooms = Registry("rooms")  # at the top of a module


class Room(GenServer):
    async def init(self) -> None:
        await rooms.register(f"lobby/{self.number}", metadata={"people": 0})


lobby = rooms.lookup("lobby/1", Room)  # a function call, in any process of the node
for key, ref, metadata in rooms.match("lobby/*"):
    ...
```

A key is claimed at the root, one claim after the other, and found in the process that looks for it
(see `local_names`).
"""

from __future__ import annotations

import asyncio
import difflib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from inspect import isawaitable
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, TypeVar, overload

from noex_mp.client import current, monitors
from noex_mp.client.supervisors import SupervisorRef, speaker
from noex_mp.core.gen_server import GenServer
from noex_mp.core.globs import compile_glob
from noex_mp.core.ref import Ref
from noex_mp.core.registrations import GLOBAL, GROUPS, IS_SUPERVISOR, Claim, Table
from noex_mp.errors import (
    CallError,
    ConfigError,
    MetadataError,
    NameTimedOutError,
    NoNodeError,
    NoServerError,
    NotRegisteredError,
    RegistryKeysError,
)
from noex_mp.wire.payload import pack_value, unpack_value

if TYPE_CHECKING:
    from noex_mp.client.blocking_registry import BlockingRegistry
    from noex_mp.client.client import Client
    from noex_mp.client.local_names import LocalNames

__all__ = ["Registration", "Registry", "registry", "whereis"]

S = TypeVar("S", bound=GenServer[Any, Any, Any])

# Each process of the node has a copy of all of it.
MAX_KEY: Final = 64 * 1024
MAX_METADATA: Final = 64 * 1024

# What the methods are called in groups.
_OF_GROUPS: Final = {"register": "join", "unregister": "leave"}

# Among so many names, at most, is one looked for that is like a wrong one.
_COMPARED: Final = 500


class Registration(NamedTuple):
    """That a server is registered under a key, as it was when somebody looked.

    Attributes:
        key: The key.
        ref: Who is registered.
        metadata: What was said with it; a copy. A `MetadataError` where this process cannot rebuild
            it.
    """

    key: str
    ref: Any
    metadata: Any


@dataclass(frozen=True, slots=True)
class Registry:
    """A registry of the current node: a handle by name, and a plain value.

    Make it at the top of a module; handles of the same name mean the same registry, in every
    process. It is there as soon as somebody registers, and as long as anybody is registered.

    Who registers is there as long as its incarnation: when a server ends, however it ends, its keys
    are free before anybody hears of it. After a restart it registers again, in its `init`. Only the
    name in a child's options is kept through restarts; it lives in `noex_mp.registry`.

    Attributes:
        name: What it is called. The empty name is that of the node's own, `noex_mp.registry`.
        keys: `"unique"`: one server for each key. `"duplicate"`: as many as register.

    Raises:
        ConfigError: That can be no name, or there are no such keys.

    Example:
        ```python
        rooms = Registry("rooms")
        listeners = Registry("listeners", keys="duplicate")
        ```
    """

    name: str
    keys: Literal["unique", "duplicate"] = "unique"

    def __post_init__(self) -> None:
        name = self.name
        is_text = isinstance(name, str)  # pyright: ignore[reportUnnecessaryIsInstance]
        if not is_text or (name.startswith("@") and name != GROUPS):
            raise ConfigError(f'expected a name like "rooms" for a registry, got {name!r:.60}')
        if self.keys not in ("unique", "duplicate"):
            raise ConfigError(
                f'expected the keys of registry {name!r} to be "unique" or "duplicate", '
                f"got {self.keys!r:.60}"
            )
        if not name and self.keys != "unique":
            raise ConfigError("the node's own registry has unique keys; give yours a name")

    @property
    def sync(self) -> BlockingRegistry:
        """What is awaited here, for a thread without an event loop: there it blocks.

        Example:
            ```python
            rooms.sync.register("lobby", ref)
            ```
        """
        from noex_mp.client.blocking_registry import BlockingRegistry

        return BlockingRegistry(self)

    # --- finding -----------------------------------------------------------------------

    @overload
    def whereis(self, key: str) -> Ref[Any] | SupervisorRef | None: ...
    @overload
    def whereis(self, key: str, server: type[S]) -> Ref[S] | None: ...
    def whereis(self, key: str, server: type[S] | None = None) -> Any:
        """Return who is registered under a key, or None; of several, the oldest.

        Args:
            key: The key.
            server: The class you expect; it types the result.

        Raises:
            RegistryKeysError: The registry has other keys than this handle.
            NoNodeError, NodeDownError: There is no node here, or it has stopped.
        """
        names = current.local_names()
        table = names.table(self.name)
        if table is None:
            return None
        if table.is_unique != (self.keys == "unique"):
            raise self._other_keys(table)
        claim = table.first(key)
        if claim is None:
            return None
        ref = claim.ref or names.ref_of(claim)
        return None if server is not None and ref.__class__ is not Ref else ref

    @overload
    def lookup(self, key: str) -> Ref[Any] | SupervisorRef: ...
    @overload
    def lookup(self, key: str, server: type[S]) -> Ref[S]: ...
    def lookup(self, key: str, server: type[S] | None = None) -> Any:
        """Return who is registered under a key.

        Args:
            key: The key.
            server: The class you expect; it types the result.

        Raises:
            NotRegisteredError: Nobody is; it names keys that look like it.
            ConfigError: The registry has duplicate keys: ask for `entries`.
            RegistryKeysError, NoNodeError, NodeDownError: As `whereis`.
        """
        if self.keys != "unique":
            raise ConfigError(
                f"registry {self.name!r} has duplicate keys, so there may be many under {key!r}\n"
                f"Write entries({key!r}), or whereis({key!r}) for the oldest."
            )
        find: Any = self.whereis
        found = find(key, server)
        if found is None:
            raise self._not_registered(key)
        return found

    def is_registered(self, key: str) -> bool:
        """Return whether anybody is registered under a key."""
        _, table = self._table()
        return table is not None and table.first(key) is not None

    def names(self) -> list[str]:
        """Return the keys in use, in the order of their claims."""
        _, table = self._table()
        return table.keys() if table is not None else []

    def count(self, key: str | None = None) -> int:
        """Return how many entries there are: in all, or under one key."""
        _, table = self._table()
        if table is None:
            return 0
        return len(table) if key is None else len(table.of(key))

    def entries(self, key: str) -> list[Registration]:
        """Return the entries under a key, the oldest first."""
        names, table = self._table()
        claims = table.of(key) if table is not None else []
        return _registrations(names, claims, self.name)

    def match(
        self, glob: str, predicate: Callable[[Registration], object] | None = None
    ) -> list[Registration]:
        """Return the entries whose keys fit a pattern.

        Args:
            glob: `*` stands for any run of characters but `/`, `**` for any run at all, `?` for one
                character. The whole key has to fit.
            predicate: Tells whether to take an entry that does. One that fails at metadata which
                this process cannot rebuild does not take it.

        Example:
            ```python
            rooms.match("lobby/*", lambda room: room.metadata["people"] > 0)
            ```
        """
        names, table = self._table()
        if table is None:
            return []
        # In C: there may be a hundred thousand keys.
        keys = filter(compile_glob(glob), table.keys())
        claims = [claim for key in keys for claim in table.of(key)]
        found = _registrations(names, claims, self.name)
        return found if predicate is None else [each for each in found if _takes(predicate, each)]

    def select(self, predicate: Callable[[Registration], object]) -> list[Registration]:
        """Return the entries that a function takes."""
        return self.match("**", predicate)

    def metadata(self, key: str, ref: Ref[Any] | SupervisorRef | None = None) -> Any:
        """Return a copy of what was said with an entry.

        Args:
            key: The key.
            ref: Whose entry; of several, by default, the oldest.

        Raises:
            NotRegisteredError: There is no such entry.
            MetadataError: This process cannot rebuild it: its class is gone, say.
        """
        return _metadata_of(*self._claim(key, ref), self.name)

    @overload
    async def await_name(
        self, key: str, *, timeout: float | None = 5.0
    ) -> Ref[Any] | SupervisorRef: ...
    @overload
    async def await_name(
        self, key: str, server: type[S], *, timeout: float | None = 5.0
    ) -> Ref[S]: ...
    async def await_name(
        self, key: str, server: type[S] | None = None, *, timeout: float | None = 5.0
    ) -> Any:
        """Return who is registered under a key, as soon as somebody is.

        Args:
            key: The key.
            server: The class you expect; it types the result.
            timeout: How long to wait, in seconds; None is for ever.

        Raises:
            NameTimedOutError: Nobody was, in that time.
            NodeDownError: The node has stopped.

        Example:
            ```python
            lobby = await rooms.await_name("lobby", Room)
            ```
        """
        client = _client()
        find: Any = self.whereis
        watch = client.key_watches.add(self.name, key)
        given_up = False

        def give_up() -> None:
            nonlocal given_up
            given_up = True
            watch.wake()

        timer = None if timeout is None else client.loop.call_later(timeout, give_up)
        try:
            while (found := find(key, server)) is None:
                if given_up:
                    near = self._not_registered(key).near
                    raise NameTimedOutError(key, self.name, near, timeout or 0.0)
                # The first news is that the key is watched, and we look again.
                await watch.change()
        finally:
            watch.close()
            if timer is not None:
                timer.cancel()
        return found

    # --- changes -----------------------------------------------------------------------

    # Plain functions that return futures, as operations are: a task for each name of a hundred
    # thousand costs as much as all the rest.

    def register(
        self, key: str, ref: Ref[Any] | SupervisorRef | None = None, metadata: Any = None
    ) -> asyncio.Future[None]:
        """Register a server under a key, until its incarnation ends.

        The node is asked when this is called; the future that it returns is done once every
        process of the node finds the key.

        Args:
            key: Any text. In the node's own registry it does not begin with `/`, as paths do.
            ref: Who; by default the server that runs this code.
            metadata: What `match` and `metadata` give back: any value that can be sent. Every
                process has a copy; keep it small (64 KiB at most).

        Raises:
            AlreadyRegisteredError: The key is taken; or that server has it already.
            RegistryKeysError: The registry has other keys than this handle.
            NoServerError: There is no such server, or it is just being restarted.
            NoNodeError: No `ref` was given, and this code runs in no server.
            UnencodableError: The metadata cannot be sent.
            ConfigError: The key can be none, or the metadata is too large.
        """
        self._check_key(key)
        client = _client()
        if ref is None:
            server = self._this_server("register", key)
            target: int | str = server.sid
            incarnation = server.incarnation
        else:
            target, incarnation = _target(ref, client.node), None
        packed = _pack(client, metadata)
        return client.request_soon(
            "register", self.name, self.keys == "unique", key, target, incarnation, packed
        )

    def unregister(
        self, key: str, ref: Ref[Any] | SupervisorRef | None = None
    ) -> asyncio.Future[None]:
        """Free a key. To free what nobody has is no error.

        As `register`, it asks when it is called, and returns a future.

        Args:
            key: The key.
            ref: Only if that one has it. By default, whoever has a unique key; of a duplicate one,
                the entry of the server that runs this code.

        Raises:
            ConfigError: It is the name in a child's options, which stays as long as the child.
            RegistryKeysError, NoNodeError: As `register`.
        """
        client = _client()
        target = self._target_or_own("unregister", key, ref, client.node)
        return client.request_soon("unregister", self.name, self.keys == "unique", key, target)

    async def update_metadata(
        self,
        key: str,
        change: Callable[[Any], Any] | Any,
        ref: Ref[Any] | SupervisorRef | None = None,
    ) -> Any:
        """Change what was said with an entry; return what it is now.

        Args:
            key: The key.
            change: A value; or a function that takes the old one and returns the new one. It is
                called again if somebody else was faster, so nobody's change is lost.
            ref: Whose entry, as in `unregister`.

        Raises:
            NotRegisteredError: There is no such entry.
            MetadataError: This process cannot rebuild the old one, for a function of it.
            UnencodableError: That cannot be sent.

        Example:
            ```python
            await rooms.update_metadata("lobby", lambda people: people + 1)
            ```
        """
        client = _client()
        target = self._target_or_own("update_metadata", key, ref, client.node)
        ask = client.request_soon
        head = ("update_metadata", self.name, self._is_unique, key)
        if not callable(change):
            await ask(*head, target, None, _pack(client, change))
            return change
        while True:
            names, claim = self._claim(key, ref if target is not None else None)
            new = change(_metadata_of(names, claim, self.name))
            if await ask(*head, claim.sid, claim.version, _pack(client, new)):
                return new

    async def dispatch(
        self, key: str, message: Any = None, *, using: Callable[[Ref[Any]], Any] | None = None
    ) -> int:
        """Send a message to all that are registered under a key; return how many took it.

        One that is dead, or has no room, takes nothing from the others.

        Args:
            key: The key. If nobody has it, that is no error.
            message: What their `handle_cast` gets.
            using: Instead: is called with each `Ref`. What it returns is awaited.

        Raises:
            UnencodableError: The message cannot be sent.

        Example:
            ```python
            await listeners.dispatch("weather", using=lambda ref: Listener.tell.nowait(ref, "rain"))
            ```
        """

        def cast(ref: Ref[Any]) -> Awaitable[None]:
            return ref.cast(message)

        send = using or cast
        sending = [_sent(send, ref) for ref in self.servers(key)]
        outcomes = await asyncio.gather(*sending, return_exceptions=True)
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                raise outcome
        return sum(outcome is True for outcome in outcomes)

    def servers(self, key: str) -> list[Ref[Any]]:
        """Return the servers that are registered under a key, without the supervisors."""
        names, table = self._table()
        claims = table.of(key) if table is not None else []
        return [names.ref_of(claim) for claim in claims if not claim.flags & IS_SUPERVISOR]

    # --- details -----------------------------------------------------------------------

    @property
    def _is_unique(self) -> bool:
        return self.keys == "unique"

    def _table(self) -> tuple[LocalNames, Table | None]:
        names = current.local_names()
        table = names.table(self.name)
        if table is not None and table.is_unique != self._is_unique:
            raise self._other_keys(table)
        return names, table

    def _claim(self, key: str, ref: Ref[Any] | SupervisorRef | None) -> tuple[LocalNames, Claim]:
        names, table = self._table()
        claims = table.of(key) if table is not None else []
        if ref is not None:
            claims = [claim for claim in claims if names.ref_of(claim) == ref]
        if not claims:
            raise self._not_registered(key)
        return names, claims[0]

    def _target_or_own(
        self, what: str, key: str, ref: Ref[Any] | SupervisorRef | None, node: str
    ) -> int | str | None:
        if ref is not None:
            return _target(ref, node)
        return None if self._is_unique else self._this_server(what, key).sid

    def _this_server(self, what: str, key: str) -> monitors.Server:
        server = monitors.current_server()
        if server is None:
            is_group = self.name == GROUPS
            what = _OF_GROUPS.get(what, what) if is_group else what
            raise NoNodeError(
                f"{what}() is without a Ref, and this code runs in no server\n"
                f"Say whom you mean: {what}({'' if is_group else f'{key!r:.60}, '}ref)."
            )
        return server

    def _check_key(self, key: object) -> None:
        if not isinstance(key, str):
            raise TypeError(f"expected text as a key, got {key!r:.60}")
        if len(key) > MAX_KEY:
            raise ConfigError(f"a key has at most {MAX_KEY} characters, and this one {len(key)}")
        if self.name == GLOBAL and (not key or key.startswith("/")):
            raise ConfigError(f'expected a name, as "visits", got {key!r:.60}: that is a path')

    def _other_keys(self, table: Table) -> RegistryKeysError:
        return RegistryKeysError(self.name, self.keys, "unique" if table.is_unique else "duplicate")

    def _not_registered(self, key: str) -> NotRegisteredError:
        names = self.names()
        if len(names) > _COMPARED:
            names = [name for name in names if name[:2] == key[:2]][:_COMPARED]
        return NotRegisteredError(key, self.name, tuple(difflib.get_close_matches(key, names, 2)))


#: The node's own registry, in which the names of children live.
registry: Final = Registry(GLOBAL)


def whereis(name: str, server: type[S]) -> Ref[S] | None:
    """Return the address of the server that has a name, or None.

    It is a function call, and no message: see `Registry`.

    Args:
        name: Its name; no path.
        server: The class you expect; it types the result.

    Raises:
        NoNodeError, NodeDownError: There is no node here, or it has stopped.

    Example:
        ```python
        visits = whereis("visits", Counter)
        ```
    """
    return registry.whereis(name, server)


async def _sent(send: Callable[[Ref[Any]], Any], ref: Ref[Any]) -> bool:
    try:
        sent = send(ref)
        if isawaitable(sent):
            await sent
    except CallError:
        # It is dead, or had no room for too long.
        return False
    return True


def _registrations(names: LocalNames, claims: list[Claim], registry: str) -> list[Registration]:
    ref_of = names.ref_of
    return [
        Registration(
            claim.key,
            claim.ref or ref_of(claim),
            _metadata_or_error(names, claim, registry) if claim.metadata else None,
        )
        for claim in claims
    ]


def _takes(predicate: Callable[[Registration], object], entry: Registration) -> object:
    try:
        return predicate(entry)
    except Exception:
        if isinstance(entry.metadata, MetadataError):
            return False
        raise


def _metadata_or_error(names: LocalNames, claim: Claim, registry: str) -> Any:
    # One entry that cannot be read must not hide all others.
    try:
        return _metadata_of(names, claim, registry)
    except MetadataError as error:
        return error


def _metadata_of(names: LocalNames, claim: Claim, registry: str) -> Any:
    if not claim.metadata:
        return None
    try:
        return unpack_value(claim.metadata, allow_pickle=names.allow_pickle)
    except Exception as error:
        raise MetadataError(claim.key, registry, f"{type(error).__name__}: {error}") from error


def _pack(client: Client, metadata: Any) -> bytes:
    if metadata is None:
        return b""
    packed = pack_value(client.encoder, "metadata", metadata)
    if len(packed) > MAX_METADATA:
        raise ConfigError(
            f"metadata has at most {MAX_METADATA} bytes, and this takes {len(packed)}\n"
            f"Every process has a copy: keep there what is looked for, and the rest in the server."
        )
    return packed


def _client() -> Client:
    return speaker.get() or current.client()


def _target(ref: object, node: str) -> int | str:
    if not isinstance(ref, Ref | SupervisorRef):
        raise TypeError(f"expected a Ref, got {ref!r:.60}\nThat is what spawn(...) gave you.")
    if ref.node not in ("", node):
        # Its number means another server here.
        raise NoServerError(f"{ref!r} in this node: it is one of node {ref.node}")
    return ref.sid or ref.name or ""
