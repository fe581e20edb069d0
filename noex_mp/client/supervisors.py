"""`supervisor("front")`: what a program does with a supervisor while it runs.

```python
rooms = supervisor("rooms")
lobby = await rooms.start_child(child(Room, "lobby"))  # Ref[Room]
await rooms.terminate_child(lobby)
```

A supervisor lives in the root. Whatever is asked of it is asked there, and carried out whoever asks
for what at the same moment: where two want the same, one wins, and the other gets its typed error.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Literal, TypeGuard, TypeVar, overload

from noex_mp.client import current
from noex_mp.client.api import allowed_cpus, entry_to_wire
from noex_mp.client.client import Client
from noex_mp.core.gen_server import GenServer
from noex_mp.core.reasons import ExitReason, Shutdown
from noex_mp.core.ref import Ref
from noex_mp.core.specs import ChildSpec, Entry, Restart, Tree
from noex_mp.errors import BadChildSpecError
from noex_mp.wire.codec import Encoder

__all__ = [
    "ChildCounts",
    "ChildInfo",
    "SupervisorRef",
    "speaker",
    "start_supervisor",
    "start_supervisor_on",
    "supervisor",
    "supervisor_of",
]

S = TypeVar("S", bound=GenServer[Any, Any, Any])


@dataclass(frozen=True)
class ChildInfo:
    """One child of a supervisor, at one moment.

    Attributes:
        id: What the supervisor calls it.
        ref: Its address.
        kind: Whether it is a server or a supervisor.
        state: `running`, `starting`, `restarting`, `stopping`, or `stopped`: it has ended, and can
            be started again with `restart_child`.
        restart: When it comes back by itself.
    """

    id: str
    ref: Ref[Any] | SupervisorRef
    kind: Literal["server", "supervisor"]
    state: str
    restart: Restart


@dataclass(frozen=True)
class ChildCounts:
    """How many children a supervisor has, at one moment.

    Attributes:
        specs: Children in all, those that are stopped included.
        active: Those that run, or start, or stop; not those that wait for their restart.
        servers: Those that are servers.
        supervisors: Those that are supervisors.
    """

    specs: int
    active: int
    servers: int
    supervisors: int


@dataclass(frozen=True, slots=True)
class SupervisorRef:
    """The address of a supervisor: a small value, to be compared, hashed and sent.

    It stays good through restarts. One by name means whoever has it when something is asked.

    Attributes:
        node: The node that the supervisor belongs to; empty: the current one.
        sid: The supervisor's number in its node; 0 in one by name.
        name: The name, or the path of ids, in one by name; empty otherwise.
        label: What kind of supervisor it is, for people.
    """

    node: str
    sid: int
    name: str = ""
    label: str = field(default="Supervisor", compare=False)

    def __repr__(self) -> str:
        return f"SupervisorRef({self.name or self.sid!r})"

    # --- children ----------------------------------------------------------------------

    @overload
    async def start_child(self, child: ChildSpec[S], /) -> Ref[S]: ...
    @overload
    async def start_child(self, child: Tree, /) -> SupervisorRef: ...
    @overload
    async def start_child(self, /, *args: Any, **kwargs: Any) -> Ref[Any]: ...
    async def start_child(self, /, *args: Any, **kwargs: Any) -> Any:
        """Start a child; return its address once it is ready.

        One whose `init` returns `Ignore()` is kept, stopped, and its address returned too, unless
        it is temporary or its supervisor dynamic: then that is an `InitFailedError`.

        Args:
            args: A `child(...)`, or a supervisor. Of a `DynamicSupervisor` with a template:
                arguments of the server's constructor, which come behind those of the template.
            kwargs: Likewise, by name.

        Raises:
            BadChildSpecError: The description is wrong, or there is no template.
            DuplicateChildError: The supervisor has a child with this id.
            MaxChildrenError: It has as many as it may have.
            AlreadyRegisteredError: The name is taken.
            InitFailedError, InitTimedOutError: The child did not start.
            NoServerError: There is no such supervisor, or it is stopping or being started itself.
        """
        client = self._client()
        if len(args) == 1 and not kwargs and _is_entry(args[0]):
            wire, extra = _wire_of(client.encoder, args[0]), b""
        else:
            from noex_mp.wire.payload import pack_arguments

            wire, extra = None, pack_arguments(client.encoder, args, kwargs)
        return _ref_of(client, await client.request("start_child", self._where, wire, extra))

    async def start_children(self, children: Sequence[ChildSpec[S]]) -> list[Ref[S]]:
        """Start several children at once, none of which needs another; return their addresses.

        Raises:
            InitFailedError, InitTimedOutError: One did not start; others may have.
            DuplicateChildError, MaxChildrenError, NoServerError: As `start_child`.
        """
        client = self._client()
        wires = [_wire_of(client.encoder, each) for each in children]
        starting = [client.request("start_child", self._where, wire, b"") for wire in wires]
        errors: list[Exception] = []
        refs: list[Ref[S]] = []
        try:
            for start in starting:
                try:
                    refs.append(_ref_of(client, await start))
                except Exception as error:
                    errors.append(error)
        finally:
            for start in starting:
                # Nobody waits for it any more, if it is not done.
                start.cancel()
        if errors:
            raise errors[0]
        return refs

    async def terminate_child(self, child: str | Ref[Any] | SupervisorRef) -> None:
        """Stop a child for good; return once it has ended.

        Calls to it fail with `NoServerError` then. A `Supervisor` keeps its description, for
        `restart_child`; a `DynamicSupervisor` forgets it. One that has ended already is no error.

        Args:
            child: Its id, or its address.

        Raises:
            ChildNotFoundError: The supervisor has no such child.
            ConfigError: A server waits for its own end; it should return `Stop()`.
        """
        client = self._client()
        await client.request("terminate_child", self._where, _key_of(child), client.serving())

    async def restart_child(self, child: str | Ref[Any] | SupervisorRef) -> Ref[Any]:
        """Start a child again that has ended or was terminated: the same address is good again.

        That uses no restart budget.

        Raises:
            ChildNotFoundError: The supervisor has no such child.
            ChildStateError: It has not ended.
            AlreadyRegisteredError: Somebody else has its name by now.
            InitFailedError, InitTimedOutError: It did not start, and stays as it was.
            NoServerError: There is no such supervisor, or it is stopping or being started itself.
        """
        client = self._client()
        found = await client.request("restart_child", self._where, _key_of(child))
        ref: Ref[Any] = _ref_of(client, found)
        return ref

    async def delete_child(self, child: str | Ref[Any] | SupervisorRef) -> None:
        """Forget a child that has ended or was terminated.

        Raises:
            ChildNotFoundError: The supervisor has no such child.
            ChildStateError: It has not ended.
        """
        await self._client().request("delete_child", self._where, _key_of(child))

    async def which_children(self) -> list[ChildInfo]:
        """Return the children, in the order of their starts."""
        client = self._client()
        found = await client.request("which_children", self._where)
        return [
            ChildInfo(own, _ref_of(client, [sid, label, kind]), kind, state, restart)
            for own, sid, label, kind, state, restart in found
        ]

    async def count_children(self) -> ChildCounts:
        """Return how many children there are."""
        return ChildCounts(*await self._client().request("count_children", self._where))

    async def get_child(self, id: str) -> Ref[Any] | SupervisorRef | None:
        """Return the address of a child, whatever its state, or None if there is no such child."""
        client = self._client()
        found = await client.request("get_child", self._where, id)
        return None if found is None else _ref_of(client, found)

    async def partition(self, key: object) -> Ref[Any]:
        """Return the server of a `PartitionSupervisor` that a key belongs to; always the same.

        Args:
            key: Any value that can be sent. A whole number belongs to the one with its remainder.

        Raises:
            ConfigError: The supervisor has no partitions.
            UnencodableError: The key cannot be sent.
        """
        client = self._client()
        found = await client.request("partition", self._where, _number_of(client.encoder, key))
        ref: Ref[Any] = _ref_of(client, found)
        return ref

    # --- the supervisor itself ---------------------------------------------------------

    async def is_running(self) -> bool:
        """Return whether it is up; what it supervises may be about to be restarted."""
        running: bool = await self._client().request("is_running", self._where)
        return running

    async def state(self) -> str:
        """Return where it is: `running`, `starting`, `restarting`, `stopping` or `stopped`."""
        state: str = await self._client().request("supervisor_state", self._where)
        return state

    async def stop(self, reason: ExitReason | None = None, timeout: float | None = None) -> None:
        """Stop all its children in reverse order, and it, for good.

        Args:
            reason: What their `terminate` is told; `Shutdown()` by default.
            timeout: How long that may take, in seconds; then all of them are killed. None means as
                long as the children may take, each by its own limit.

        Raises:
            NoServerError: There is no such supervisor.
        """
        client = self._client()
        where, why = self._where, reason or Shutdown()
        await client.request("stop_supervisor", where, why, timeout, client.serving())

    @property
    def _where(self) -> int | str:
        return self.sid or self.name

    def _client(self) -> Client:
        return speaker.get() or current.client(self.node or None)


#: The client that speaks for this code where no event loop runs; see `blocking_supervisors`.
speaker: ContextVar[Client | None] = ContextVar("noex_mp_speaker", default=None)


async def start_supervisor(tree: Tree) -> SupervisorRef:
    """Start a supervisor, with all that stands in it, on the current node; return its address.

    It has no supervisor of yours above it: where it gives up, and is permanent, it is started again
    within a restart budget of its own, as what is spawned. The node stops it when it stops.

    Raises:
        BadChildSpecError: The description is wrong; the text lists every mistake.
        AlreadyRegisteredError: A name is taken.
        InitFailedError, InitTimedOutError: A child did not start; those before it were stopped.

    Example:
        ```python
        front = await start_supervisor(Supervisor(child(Cache), child(Web), name="front"))
        ```
    """
    client = speaker.get() or await current.client_or_implicit()
    return await start_supervisor_on(client, tree)


async def start_supervisor_on(client: Client, tree: Tree) -> SupervisorRef:
    """Start a supervisor on a client's node."""
    wire = _wire_of(client.encoder, tree)
    ref: SupervisorRef = _ref_of(client, await client.request("start_supervisor", wire))
    return ref


async def supervisor_of(ref: Ref[Any]) -> SupervisorRef:
    """Return the supervisor of a server.

    Raises:
        NoServerError: There is no such server.
    """
    client = current.client(ref.node or None)
    found: SupervisorRef = _ref_of(client, await client.request("supervisor_of", ref.sid))
    return found


def supervisor(name: str) -> SupervisorRef:
    """Return the address of a supervisor of the current node.

    Args:
        name: Its name; else the path of ids that leads to it, as `front/web` or `/front/web`; `/`
            is the topmost.

    Example:
        ```python
        room = await supervisor("rooms").start_child(child(Room, "lobby"))
        ```
    """
    return SupervisorRef("", 0, name)


def _is_entry(value: object) -> TypeGuard[Entry]:
    return isinstance(value, ChildSpec | Tree)


def _wire_of(encoder: Encoder, entry: Entry) -> dict[str, Any]:
    from noex_mp.supervision.validate import validate_child

    # Whether it may be significant is for the supervisor to say, which knows.
    validate_child(entry, allowed_cpus(), auto_shutdown="any_significant")
    return entry_to_wire(encoder, entry)


def _ref_of(client: Client, found: list[Any]) -> Any:
    sid, label, kind = found
    if kind == "supervisor":
        return SupervisorRef(client.node, sid, label=label)
    return Ref[Any](client.node, sid, label=label)


def _key_of(child: object) -> str | int:
    if isinstance(child, str):
        return child
    if isinstance(child, Ref | SupervisorRef):
        return child.sid or child.name or ""
    raise BadChildSpecError(
        f'expected the id of a child, or its Ref, got {child!r}\nWrite terminate_child("its id").'
    )


def _number_of(encoder: Encoder, key: object) -> int:
    """Return the number that says which partition a key belongs to; the same in every process."""
    if isinstance(key, int) and not isinstance(key, bool):
        return key
    try:
        return zlib.crc32(encoder.pack([key]))
    except Exception as error:
        raise encoder.explain_value("key", key, error) from None
