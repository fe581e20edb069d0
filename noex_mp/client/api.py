"""What a program does with servers besides calling them: spawn, stop, name."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import astuple
from typing import TYPE_CHECKING, Any, TypeGuard, TypeVar, get_args, overload

from typing_extensions import ParamSpec

from noex_mp.client import current
from noex_mp.core.gen_server import GenServer
from noex_mp.core.memory_sizes import in_bytes
from noex_mp.core.reasons import ExitReason, Shutdown
from noex_mp.core.ref import Ref
from noex_mp.core.specs import (
    ChildSpec,
    Entry,
    PartitionSupervisor,
    ServerPool,
    Spawnable,
    Supervisor,
    child,
    expanded,
)
from noex_mp.errors import BadChildSpecError, ConfigError
from noex_mp.wire.classes import goes_by_name, path_of

if TYPE_CHECKING:
    from noex_mp.client.client import Client
    from noex_mp.wire.codec import Encoder

__all__ = [
    "allowed_cpus",
    "check_stop",
    "entry_to_wire",
    "module_to_preload",
    "named",
    "servers_of",
    "servers_of_wire",
    "spawn",
    "spawn_on",
    "spec_of",
    "spec_to_wire",
    "stop",
    "stop_on",
]

S = TypeVar("S", bound=GenServer[Any, Any, Any])
P = ParamSpec("P")


@overload
async def spawn(server: Spawnable[S], /) -> Ref[S]: ...
@overload
async def spawn(server: Callable[P, S], /, *args: P.args, **kwargs: P.kwargs) -> Ref[S]: ...
async def spawn(server: Any, /, *args: Any, **kwargs: Any) -> Ref[Any]:
    """Start a server in a worker process of its own, and return its address.

    It runs under the current node's own supervisor, as a `transient` child unless its options
    say otherwise. Outside a node, the implicit one is started. Inside a handler, the server's
    own node starts it.

    Args:
        server: The class, followed by the constructor's arguments; or `child(...)`, with
            options; or a pool of servers, `Pool.of(...)`.

    Returns:
        The server's `Ref`, once its `init` has returned.

    Raises:
        InitFailedError: Its constructor or `init` raised (the error is the cause), or its
            worker died.
        InitTimedOutError: They took longer than `init_timeout`.
        AlreadyRegisteredError: Its name is taken.
        BadChildSpecError: The description is wrong.
        NotImportableError: A worker cannot import the class, and the node sends no code.
        PreloadError: The script that defines the class cannot be imported by workers.
        UnencodableError: An argument cannot be sent to a worker.

    Example:
        ```python
        counter = await spawn(Counter, start=10)
        visits = await spawn(child(Counter).options(name="visits"))
        ```
    """
    spec = spec_of(server, args, kwargs)
    client = await current.client_or_implicit(module_to_preload(spec))
    return await spawn_on(client, spec)


def module_to_preload(spec: ChildSpec[Any] | ServerPool[Any]) -> str | None:
    """Return the module that the implicit node imports ahead for its first server, if any."""
    first = next(servers_of(spec))
    # What is executed afresh is not preloaded: perhaps it cannot live with a fork.
    is_preloaded = first.start != "exec" and goes_by_name(first.server)
    return first.server.__module__ if is_preloaded else None


def spec_of(
    server: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> ChildSpec[Any] | ServerPool[Any]:
    """Return the checked spec of what `spawn` was given: a class and arguments, or a spec.

    Raises:
        BadChildSpecError: The description is wrong.
    """
    from noex_mp.supervision.validate import validate_child

    server = expanded(server)
    if not _is_spec(server):
        spec: ChildSpec[Any] | ServerPool[Any] = child(server, *args, **kwargs)
    elif args or kwargs:
        raise BadChildSpecError(
            "spawn takes a class and its arguments, or one child(...), got both\n"
            "Put the arguments into child(...)."
        )
    else:
        spec = server
    validate_child(spec, allowed_cpus())
    return spec


def _is_spec(server: object) -> TypeGuard[ChildSpec[Any] | ServerPool[Any]]:
    return isinstance(server, ChildSpec | ServerPool)


async def spawn_on(client: Client, spec: ChildSpec[S] | ServerPool[S]) -> Ref[S]:
    """Start a server, or a pool, on a client's node."""
    sid, label = await client.request("spawn", entry_to_wire(client.encoder, spec))
    return Ref(client.node, sid, label=label)


def spec_to_wire(encoder: Encoder, spec: ChildSpec[Any]) -> dict[str, Any]:
    """Return a child spec as plain values, its arguments as a payload.

    Raises:
        NotImportableError: The class has no name elsewhere, and pickle is switched off.
        UnencodableError: An argument cannot be sent.
    """
    # Loaded on demand, as the node is: a program may import us and start nothing.
    from noex_mp.wire.payload import pack_payload

    return {
        "kind": "server",
        "server": path_of(spec.server),
        "label": spec.label,
        "by_name": goes_by_name(spec.server),
        "payload": pack_payload(encoder, spec.server, spec.args, spec.kwargs),
        "id": spec.child_id,
        "name": spec.name,
        "restart": spec.restart,
        "shutdown": spec.shutdown,
        "significant": spec.significant,
        "backoff": astuple(spec.backoff) if spec.backoff else None,
        "init_timeout": spec.init_timeout,
        "hang_timeout": spec.hang_timeout,
        "on_oom": spec.on_oom,
        "placement": spec.placement,
        "process": _process_of(spec),
        "mailbox": (spec.max_messages, spec.max_bytes, spec.when_full),
    }


def entry_to_wire(encoder: Encoder, entry: Entry, id: str | None = None) -> dict[str, Any]:
    """Return an entry of a tree as plain values, with all that stands in it.

    Args:
        id: What it is called in any case.

    Raises:
        NotImportableError: A class has no name elsewhere, and pickle is switched off.
        UnencodableError: An argument cannot be sent.
    """
    if isinstance(entry, ChildSpec):
        return {**spec_to_wire(encoder, entry), "id": id or entry.child_id}
    children: list[dict[str, Any]] = []
    kind, template, max_children = "supervisor", None, None
    if isinstance(entry, Supervisor):
        children = [entry_to_wire(encoder, each) for each in entry.children]
    elif isinstance(entry, PartitionSupervisor):
        kind = "partition"
        child_wire = spec_to_wire(encoder, entry.child)
        children = [{**child_wire, "id": str(i)} for i in range(entry.partitions)]
    else:
        kind, max_children = "dynamic", entry.max_children
        spec = entry.template
        template = spec_to_wire(encoder, spec) if isinstance(spec, ChildSpec) else None
    return {
        "kind": kind,
        "label": type(entry).__name__,
        "id": id or entry.child_id,
        "name": entry.name,
        "restart": entry.restart,
        "shutdown": entry.shutdown,
        "significant": entry.significant,
        "backoff": astuple(entry.backoff) if entry.backoff else None,
        "strategy": getattr(entry, "strategy", "one_for_one"),
        "auto_shutdown": getattr(entry, "auto_shutdown", "never"),
        "max_restarts": entry.max_restarts,
        "max_seconds": entry.max_seconds,
        "max_failed_inits": entry.max_failed_inits,
        "max_ooms": entry.max_ooms,
        "max_hangs": entry.max_hangs,
        "children": children,
        "template": template,
        "max_children": max_children,
    }


def servers_of(entry: Entry) -> Iterator[ChildSpec[Any]]:
    """Yield the description of every server in an entry of a tree."""
    if isinstance(entry, ChildSpec):
        yield entry
    elif isinstance(entry, Supervisor):
        for each in entry.children:
            yield from servers_of(each)
    elif isinstance(entry, PartitionSupervisor):
        yield entry.child
    elif isinstance(entry.template, ChildSpec):
        yield entry.template


def servers_of_wire(entry: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield what `entry_to_wire` made of every server."""
    if entry["kind"] == "server":
        yield entry
        return
    for each in entry["children"]:
        yield from servers_of_wire(each)
    if entry["template"] is not None:
        yield entry["template"]


def allowed_cpus() -> frozenset[int] | None:
    """Return the CPUs that this process may run on; None where the system does not say."""
    return frozenset(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None


def _process_of(spec: ChildSpec[Any]) -> dict[str, Any] | None:
    """Return what a spec says of its process, and only that."""
    said: dict[str, Any] = {
        "start": None if spec.start == "fork" else spec.start,
        "env": dict(spec.env) if spec.env else None,
        "nice": spec.nice,
        "cpu_affinity": None if spec.cpu_affinity is None else sorted(spec.cpu_affinity),
        "memory_limit": in_bytes(spec.memory_limit),
    }
    return {name: value for name, value in said.items() if value is not None} or None


async def stop(
    ref: Ref[Any], reason: ExitReason | None = None, timeout: float | None = 5.0
) -> None:
    """End a server for good, and return once it has ended.

    Messages that were sent before are handled first. Then its `terminate` runs. A child of a
    supervisor is not restarted. Stopping a server that has ended already is no error.

    Args:
        reason: What `terminate` and the exit report are told; `Shutdown()` by default.
        timeout: How long the server may take, in seconds; then its process group gets
            SIGTERM, and SIGKILL after that. None waits without limit.

    Raises:
        NoServerError: It was given by name, and nobody has that name.
        ConfigError: A server waits for its own end; it should return `Stop()`. Or the timeout is
            no time.
        TypeError: That is no `Ref`, or no exit reason.
    """
    check_stop(ref, reason, timeout)
    client = current.client(ref.node or None)
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(client.drained(ref), timeout)
    await stop_on(client, ref, reason, timeout)


def check_stop(ref: object, reason: object, timeout: object) -> None:
    """See that this is what `stop` takes.

    Raises:
        ConfigError: The timeout is no time.
        TypeError: That is no `Ref`, or no exit reason.
    """
    if not isinstance(ref, Ref):
        name = ref if isinstance(ref, str) else "visits"
        raise TypeError(
            f"expected a Ref, got {ref!r:.60}\n"
            f'Pass what spawn has returned, or the name: named("{name}", YourServer).'
        )
    if reason is not None and not isinstance(reason, get_args(ExitReason)):
        raise TypeError(
            f'expected an exit reason, got {reason!r:.60}\nWrite Shutdown("why"), or leave it out.'
        )
    if timeout is not None and not (isinstance(timeout, int | float) and timeout >= 0):
        raise ConfigError(
            f"expected the timeout to be seconds from 0 on, or None, got {timeout!r:.60}"
        )


async def stop_on(
    client: Client, ref: Ref[Any], reason: ExitReason | None, timeout: float | None
) -> None:
    """End a server of a client's node for good."""
    await client.request(
        "stop", ref.sid or ref.name, reason or Shutdown(), timeout, client.serving()
    )


def named(name: str, server: type[S]) -> Ref[S]:
    """Return a `Ref` that means whoever has the name when it is called.

    Args:
        server: The class you expect; it types the calls.

    Example:
        ```python
        await Counter.increment(named("visits", Counter))
        ```
    """
    return Ref("", 0, name, label=server.__qualname__)
