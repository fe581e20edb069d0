"""Trees as data: `child()` describes one server, `Supervisor` several and how to keep them up.

```python
tree = Supervisor(
    child(Orders, path="orders.db"),
    child(Counter, start=10).options(id="visits", name="visits", restart="transient"),
    max_restarts=3,
    max_seconds=5.0,
)
```

Specs only hold what they were given and start nothing; `supervision/validate.py` finds the
mistakes in them, all at once. `None` as a time limit means "no limit" (OTP's `infinity`).
"""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace
from typing import (
    Any,
    Final,
    Generic,
    Literal,
    ParamSpec,
    TypeAlias,
    TypedDict,
    TypeVar,
    Unpack,
)

__all__ = [
    "MAX_BYTES",
    "MAX_MESSAGES",
    "OPTIONS",
    "ChildOptions",
    "ChildSpec",
    "Restart",
    "ServerOptions",
    "ShutdownLimit",
    "Start",
    "Strategy",
    "Supervisor",
    "WhenFull",
    "child",
]

S = TypeVar("S")
P = ParamSpec("P")

Restart: TypeAlias = Literal["permanent", "transient", "temporary"]
"""When a server comes back: always, after an abnormal exit, never."""

Strategy: TypeAlias = Literal["one_for_one", "one_for_all", "rest_for_one"]
"""Who is restarted with a child: nobody, every sibling, those that were started after it."""

ShutdownLimit: TypeAlias = float | Literal["brutal_kill"] | None
"""How long a server may take to stop: seconds, no time at all, or (None) as long as it likes."""

Start: TypeAlias = Literal["fork", "exec"]
"""How a worker process comes to be: a fork of the preloaded one, or a fresh interpreter."""

WhenFull: TypeAlias = Literal["wait", "reject", "drop_oldest", "drop_newest"]
"""What becomes of a message for which the mailbox has no room. See `ChildSpec`."""

# OTP's defaults, in seconds.
_SHUTDOWN: Final = 5.0
_INIT_TIMEOUT: Final = 5.0

MAX_MESSAGES: Final = 10_000
"""The messages that a mailbox holds, unless the server says otherwise."""

MAX_BYTES: Final = 64 * 2**20
"""The bytes that a mailbox holds, unless the server says otherwise."""


class ServerOptions(TypedDict, total=False):
    """What a class statement says about the children made of it; `child().options` overrides.

    Attributes:
        name: What the node calls the server.
        restart: When it comes back.
        shutdown: How long it may take to stop, in seconds; None is no limit.
        init_timeout: How long its start may take, in seconds; None is no limit.
        placement: The group of servers with which it shares a worker process; None means that it
            has one of its own.
        start: `"fork"`, or `"exec"` for code that cannot live with a fork.
        env: Environment variables of its process, on top of the node's; None removes one.
        nice: The nice value of its process.
        cpu_affinity: The CPUs that its process may run on.
        max_messages: How many messages its mailbox holds that have not begun.
        max_bytes: How many bytes these may have together.
        when_full: What becomes of a message for which it has no room.
    """

    name: str | None
    restart: Restart | None
    shutdown: ShutdownLimit
    init_timeout: float | None
    placement: str | None
    start: Start | None
    env: dict[str, str | None] | None
    nice: int | None
    cpu_affinity: Collection[int] | None
    max_messages: int
    max_bytes: int
    when_full: WhenFull


class ChildOptions(ServerOptions, total=False):
    """What `ChildSpec.options` takes; see the attributes of `ChildSpec`."""

    id: str | None


@dataclass(frozen=True, repr=False)
class ChildSpec(Generic[S]):
    """One server, described: its class, its constructor's arguments, its options.

    Write `child(Counter, start=10).options(name="visits")`, which lets your type checker see
    the arguments, rather than calling this class.

    Attributes:
        server: The server's class.
        args: The constructor's positional arguments.
        kwargs: The constructor's keyword arguments.
        id: What the supervisor calls it, unique there; None means the class's name.
        name: What the node calls it, unique there; None means it has no name.
        restart: When it comes back; None means not said: permanent in a tree, transient
            after `spawn`.
        shutdown: How long it may take to stop, in seconds; None means no limit,
            `"brutal_kill"` no time at all.
        init_timeout: How long its start may take, in seconds; None means no limit.
        placement: The group of servers with which it shares a worker process, in its node; None
            means that it has one of its own.
        start: How its process comes to be: `"fork"` of a process that has loaded the application,
            in milliseconds, or `"exec"` of a fresh interpreter, for code that cannot live with a
            fork. None means not said: fork.
        env: Environment variables of its process, on top of the node's; None as a value removes
            one.
        nice: The nice value of its process, from -20 (needs a privilege) to 19; None leaves the
            node's.
        cpu_affinity: The CPUs that its process may run on; None leaves the node's.
        max_messages: How many messages its mailbox holds that have not begun; its senders share
            them.
        max_bytes: How many bytes these may have together.
        when_full: What becomes of a message for which the mailbox has no room. `"wait"`: it waits
            at its sender. `"reject"`: it raises `MailboxFullError` there. `"drop_newest"`: a
            cast is dropped, and a call raises. `"drop_oldest"`: it is taken, and the oldest one
            in the mailbox is dropped (if that is a call, its caller gets the error).
    """

    server: type[S]
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict[str, Any])
    id: str | None = None
    name: str | None = None
    restart: Restart | None = None
    shutdown: ShutdownLimit = _SHUTDOWN
    init_timeout: float | None = _INIT_TIMEOUT
    placement: str | None = None
    start: Start | None = None
    env: dict[str, str | None] | None = None
    nice: int | None = None
    cpu_affinity: Collection[int] | None = None
    max_messages: int = MAX_MESSAGES
    max_bytes: int = MAX_BYTES
    when_full: WhenFull = "wait"

    def options(self, **options: Unpack[ChildOptions]) -> ChildSpec[S]:
        """Return a copy with other options; what is not mentioned stays as it is.

        Raises:
            TypeError: There is no such option.
        """
        unknown = [key for key in options if key not in OPTIONS]
        if unknown:
            raise TypeError(
                f"child has no option {', '.join(unknown)}; there are: {', '.join(OPTIONS)}\n"
                f"Arguments of the server's constructor belong into child(...)."
            )
        return replace(self, **options)

    @property
    def child_id(self) -> str:
        """What the supervisor calls it: its `id`, or the name of its class."""
        return self.server.__name__ if self.id is None else self.id

    def __repr__(self) -> str:
        call = [_class_name(self.server), *map(_short, self.args)]
        call += [f"{key}={_short(value)}" for key, value in self.kwargs.items()]
        usual = child(self.server)
        said = [
            f"{key}={_shown(key, getattr(self, key))}"
            for key in OPTIONS
            if getattr(self, key) != getattr(usual, key)
        ]
        tail = f".options({', '.join(said)})" if said else ""
        return f"child({', '.join(call)}){tail}"


OPTIONS: Final = ("id", *ServerOptions.__annotations__)
"""What `ChildSpec.options` takes."""


def child(server: Callable[P, S], /, *args: P.args, **kwargs: P.kwargs) -> ChildSpec[S]:
    """Describe one server of a tree: its class, and what its constructor will be given.

    Options are set on the result, so that they never mix with the constructor's arguments.
    Where you set none, those of the class hold: `class A(GenServer, restart="transient")`.

    Args:
        server: The server's class, a `GenServer`.
        args: Passed to its constructor, in the worker process, at every start.
        kwargs: Likewise.
    """
    # A callable only in the signature: that is how a checker sees the constructor's arguments.
    # Anything else than a class is accepted here and refused, with a remedy, by `validate`.
    cls: Any = server
    return ChildSpec[S](cls, args, kwargs, **_class_options(cls))


def _class_options(server: object) -> dict[str, Any]:
    given: dict[str, Any] = getattr(server, "__child_options__", {})
    return {key: given[key] for key in OPTIONS if key in given}


@dataclass(frozen=True, init=False, repr=False)
class Supervisor:
    """Several servers, described, and how to keep them up.

    Children start from left to right and stop from right to left. The supervisor gives up,
    and stops all of them, when they die more than `max_restarts` times in `max_seconds`.

    Attributes:
        children: What to start, in this order.
        strategy: Who is restarted with a child that died; only `"one_for_one"` for now.
        max_restarts: How many restarts are allowed ...
        max_seconds: ... within how many seconds.
        id: What it is called in paths such as `/root/visits`.
    """

    children: tuple[ChildSpec[Any], ...]
    strategy: Strategy
    max_restarts: int
    max_seconds: float
    id: str

    def __init__(
        self,
        *children: ChildSpec[Any],
        strategy: Strategy = "one_for_one",
        max_restarts: int = 3,
        max_seconds: float = 5.0,
        id: str = "root",
    ) -> None:
        # Written out because a dataclass cannot take `*children`; frozen, hence the detour.
        values = (children, strategy, max_restarts, max_seconds, id)
        for name, value in zip(_SUPERVISOR_FIELDS, values, strict=True):
            object.__setattr__(self, name, value)

    def __repr__(self) -> str:
        usual = Supervisor()
        said = [repr(each) for each in self.children]
        said += [
            f"{name}={getattr(self, name)!r}"
            for name in _SUPERVISOR_FIELDS[1:]
            if getattr(self, name) != getattr(usual, name)
        ]
        return f"Supervisor({', '.join(said)})"


_SUPERVISOR_FIELDS: Final = ("children", "strategy", "max_restarts", "max_seconds", "id")


# Arguments may be as big as a data set, and specs end up in log lines.
_reprs = reprlib.Repr()
_reprs.maxstring = _reprs.maxother = _reprs.maxlong = 80
_short = _reprs.repr


def _shown(option: str, value: Any) -> str:
    # The values of environment variables are where people keep their secrets.
    if option == "env" and hasattr(value, "keys"):
        return f"{{{', '.join(f'{key!r}: ...' for key in value)}}}"
    return _short(value)


def _class_name(server: object) -> str:
    return server.__name__ if isinstance(server, type) else _short(server)
