"""Trees as data: `child()` describes one server, `Supervisor` several and how to keep them up.

```python
tree = Supervisor(
    child(Orders, path="orders.db"),
    child(Counter, start=10).options(id="visits", name="visits", restart="transient"),
    Supervisor(child(Cache), child(Web, port=8080), strategy="rest_for_one", id="front"),
    DynamicSupervisor(child(Room), id="rooms"),
    strategy="one_for_all",
)
```

Specs only hold what they were given and start nothing; `supervision/validate.py` finds the
mistakes in them, all at once. `None` as a time limit means "no limit" (OTP's `infinity`).
"""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Collection
from dataclasses import MISSING, dataclass, field, fields, replace
from typing import (
    Any,
    Final,
    Generic,
    Literal,
    ParamSpec,
    Protocol,
    TypeAlias,
    TypedDict,
    TypeVar,
    Unpack,
)

__all__ = [
    "MAX_BYTES",
    "MAX_MESSAGES",
    "OPTIONS",
    "AutoShutdown",
    "Backoff",
    "ChildSpec",
    "DynamicSupervisor",
    "Entry",
    "Expands",
    "OnOom",
    "PartitionSupervisor",
    "Restart",
    "ServerOptions",
    "ServerPool",
    "ShutdownLimit",
    "Spawnable",
    "Start",
    "Strategy",
    "Supervisor",
    "Tree",
    "WhenFull",
    "child",
    "expanded",
]

S = TypeVar("S")
P = ParamSpec("P")

Restart: TypeAlias = Literal["permanent", "transient", "temporary"]
"""When a server comes back: always, after an abnormal exit, never."""

Strategy: TypeAlias = Literal["one_for_one", "one_for_all", "rest_for_one"]
"""Who is restarted with a child: nobody, every sibling, those that were started after it."""

AutoShutdown: TypeAlias = Literal["never", "any_significant", "all_significant"]
"""When a supervisor stops by itself: never, or when one, or the last, of its significant children
has ended and does not come back."""

ShutdownLimit: TypeAlias = float | Literal["brutal_kill"] | None
"""How long a server may take to stop: seconds, no time at all, or (None) as long as it likes."""

Start: TypeAlias = Literal["fork", "exec"]
"""How a worker process comes to be: a fork of the preloaded one, or a fresh interpreter."""

WhenFull: TypeAlias = Literal["wait", "reject", "drop_oldest", "drop_newest"]
"""What becomes of a message for which the mailbox has no room. See `ChildSpec`."""

OnOom: TypeAlias = Literal["restart", "escalate"]
"""What follows when a server has run out of memory: its restart, or the end of its supervisor."""

# OTP's defaults, in seconds.
_SHUTDOWN: Final = 5.0
_INIT_TIMEOUT: Final = 5.0

MAX_MESSAGES: Final = 10_000
"""The messages that a mailbox holds, unless the server says otherwise."""

MAX_BYTES: Final = 64 * 2**20
"""The bytes that a mailbox holds, unless the server says otherwise."""


@dataclass(frozen=True)
class Backoff:
    """How long a supervisor waits before it starts a child again.

    The first restart comes `first` seconds after the exit, the next after `factor` times as long,
    and so on, up to `max`. Without a backoff all of them come at once.

    ```python
    >>> [Backoff(jitter=0).delay(n) for n in (1, 2, 3, 20)]
    [0.1, 0.2, 0.4, 30.0]

    ```

    Attributes:
        first: The first delay, in seconds.
        factor: By how much each delay is longer than the one before it.
        max: The longest delay, in seconds.
        jitter: By which part of itself a delay is made longer or shorter, at random, so that
            servers that died together do not all come back at one moment: 0.2 is up to 20 %.
        reset_after: After an incarnation that has run so long, in seconds, the next delay is the
            first again.
    """

    first: float = 0.1
    factor: float = 2
    max: float = 30
    jitter: float = 0.2
    reset_after: float = 60

    def delay(self, nth: int, chance: float = 0.0) -> float:
        """Return how long to wait before the nth restart in a row, in seconds.

        Args:
            nth: 1 is the first.
            chance: From -1 to 1: which part of the jitter to take.
        """
        # 2 ** 1100 is more than a float holds; the longest delay is reached long before.
        grown = self.first * self.factor ** min(nth - 1, 256) if self.first else 0.0
        return min(grown, float(self.max)) * (1 + self.jitter * chance)


class ServerOptions(TypedDict, total=False):
    """What a class statement says about the children made of it; `child().options` overrides.

    Attributes:
        id: What the supervisor calls the server; None means the class's name.
        name: What the node calls the server.
        restart: When it comes back.
        shutdown: How long it may take to stop, in seconds; None is no limit.
        significant: Whether its end may end its supervisor; see `Supervisor.auto_shutdown`.
        backoff: How long to wait before it is started again.
        init_timeout: How long its start may take, in seconds; None is no limit.
        hang_timeout: How long one of its handlers may take, in seconds; None is no limit.
        memory_limit: How much private memory its process may have: bytes, or `"512MB"`.
        on_oom: What follows when it has run out of memory: its restart, or the end of its
            supervisor.
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

    id: str | None
    name: str | None
    restart: Restart | None
    shutdown: ShutdownLimit
    significant: bool
    backoff: Backoff | None
    init_timeout: float | None
    hang_timeout: float | None
    memory_limit: int | str | None
    on_oom: OnOom
    placement: str | None
    start: Start | None
    env: dict[str, str | None] | None
    nice: int | None
    cpu_affinity: Collection[int] | None
    max_messages: int
    max_bytes: int
    when_full: WhenFull


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
        significant: Whether its end may end its supervisor; see `Supervisor.auto_shutdown`. Only
            a child that may end for good can be: a transient or temporary one.
        backoff: How long to wait before it is started again; None means not at all.
        init_timeout: How long its start may take, in seconds; None means no limit.
        hang_timeout: How long one of its handlers may take, in seconds, also one that waits; then
            its process is killed, and the report says what it was doing. None means no limit: a
            busy server is never killed for being busy. `init` and `terminate` have `init_timeout`
            and `shutdown`.
        memory_limit: How much private memory its process may have: a number of bytes, or text such
            as `"512MB"` or `"1.5GiB"`. At 80 % it gets a `MemoryPressure`; at the limit its
            process is killed. None means no limit. For Linux.
        on_oom: What follows when it has run out of memory, its own limit or the machine's:
            `"restart"`, or `"escalate"`: its supervisor gives up at once, and the one above
            decides.
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
    significant: bool = False
    backoff: Backoff | None = None
    init_timeout: float | None = _INIT_TIMEOUT
    hang_timeout: float | None = None
    memory_limit: int | str | None = None
    on_oom: OnOom = "restart"
    placement: str | None = None
    start: Start | None = None
    env: dict[str, str | None] | None = None
    nice: int | None = None
    cpu_affinity: Collection[int] | None = None
    max_messages: int = MAX_MESSAGES
    max_bytes: int = MAX_BYTES
    when_full: WhenFull = "wait"
    # What it is called for people, where that is not its class: see `ServerPool`.
    label: str | None = None

    def options(self, **options: Unpack[ServerOptions]) -> ChildSpec[S]:
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


OPTIONS: Final = tuple(ServerOptions.__annotations__)
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


@dataclass(frozen=True, kw_only=True, repr=False)
class _SupervisorOptions:
    """What all kinds of supervisors have in common."""

    max_restarts: int | None = 3
    max_seconds: float = 5.0
    max_failed_inits: int | None = None
    max_ooms: int | None = None
    max_hangs: int | None = None
    id: str | None = None
    name: str | None = None
    restart: Restart = "permanent"
    shutdown: ShutdownLimit = None
    significant: bool = False
    backoff: Backoff | None = None

    @property
    def child_id(self) -> str:
        """What the supervisor above calls it: its `id`, or the name of its class."""
        return type(self).__name__ if self.id is None else self.id

    def _said(self) -> list[str]:
        usual = {each.name: each.default for each in fields(self)}
        return [
            f"{name}={getattr(self, name)!r}"
            for name, default in usual.items()
            if default is not MISSING and getattr(self, name) != default
        ]


@dataclass(frozen=True, init=False, repr=False)
class Supervisor(_SupervisorOptions):
    """Several servers and supervisors, described, and how to keep them up.

    Children start from left to right and stop from right to left. The supervisor gives up,
    and stops all of them, when they die more than `max_restarts` times in `max_seconds`; then the
    supervisor above decides, as over any child that has ended.

    Attributes:
        children: What to start, in this order.
        strategy: Who is restarted with a child that died: nobody (`"one_for_one"`), all
            (`"one_for_all"`), or those that were started after it (`"rest_for_one"`).
        auto_shutdown: When it stops by itself: `"never"`; when one of its significant children has
            ended for good (`"any_significant"`); or when all of them have (`"all_significant"`).
        max_restarts: How many restarts are allowed (None: any number) ...
        max_seconds: ... within how many seconds. The restart of a group counts once.
        max_failed_inits: How many restarts within `max_seconds` may fail in `init`; these do not
            count as restarts. None means as many as `max_restarts`.
        max_ooms: How many may follow a lack of memory (`OutOfMemory`), likewise.
        max_hangs: How many may follow a handler that hung (`Hung`), likewise.
        id: What the supervisor above calls it, and what it is called in paths such as
            `/front/web`; None means the name of its class.
        name: What the node calls it, unique there; None means it has no name.
        restart: When it comes back, if it is a child itself. A supervisor that gives up ends with
            `Shutdown`, as in OTP: a transient one does not come back after that.
        shutdown: How long it may take to stop, in seconds; what is left then is killed. None means
            as long as its children take.
        significant: As for a server.
        backoff: As for a server.
    """

    children: tuple[Entry, ...]
    strategy: Strategy
    auto_shutdown: AutoShutdown

    def __init__(
        self,
        *children: Entry | Expands[Any],
        strategy: Strategy = "one_for_one",
        auto_shutdown: AutoShutdown = "never",
        max_restarts: int | None = 3,
        max_seconds: float = 5.0,
        max_failed_inits: int | None = None,
        max_ooms: int | None = None,
        max_hangs: int | None = None,
        id: str | None = None,
        name: str | None = None,
        restart: Restart = "permanent",
        shutdown: ShutdownLimit = None,
        significant: bool = False,
        backoff: Backoff | None = None,
    ) -> None:
        # Written out because a dataclass cannot take `*children`; frozen, hence the detour.
        values = {**locals(), "children": tuple(expanded(each) for each in children)}
        for each in fields(self):
            object.__setattr__(self, each.name, values[each.name])

    def __repr__(self) -> str:
        said = [repr(each) for each in self.children]
        usual: dict[str, object] = {"strategy": "one_for_one", "auto_shutdown": "never"}
        said += [f"{k}={getattr(self, k)!r}" for k, v in usual.items() if getattr(self, k) != v]
        return f"Supervisor({', '.join(said + self._said())})"


@dataclass(frozen=True, repr=False)
class DynamicSupervisor(_SupervisorOptions):
    """Children that are started while the program runs: `supervisor("rooms").start_child(...)`.

    They have no order: each is restarted on its own, and all stop at once. What was started is
    forgotten when it has ended for good, and when the supervisor itself is restarted.

    Attributes:
        template: What `start_child` starts when it is given arguments instead of a spec, as
            `start_child("lobby")`: a class, or a `child(...)`, behind whose arguments they come.
            None means that it is always given a spec.
        max_children: How many there may be at a time; None means no limit.
    """

    template: ChildSpec[Any] | type[Any] | None = None
    max_children: int | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        # Its constructor's arguments come later, so `child` cannot check them.
        if isinstance(self.template, type):
            template = ChildSpec[Any](self.template, **_class_options(self.template))
            object.__setattr__(self, "template", template)

    def __repr__(self) -> str:
        said = [] if self.template is None else [repr(self.template)]
        said += [each for each in self._said() if not each.startswith("template=")]
        return f"DynamicSupervisor({', '.join(said)})"


@dataclass(frozen=True, repr=False)
class PartitionSupervisor(_SupervisorOptions):
    """The same server several times; each key belongs to one of them.

    `await supervisor("carts").partition("alice")` is the `Ref` of the one that has this key, always
    the same one. Their ids are `"0"`, `"1"` and so on.

    Attributes:
        child: The server.
        partitions: How many of it there are.
    """

    child: ChildSpec[Any]
    partitions: int = field(kw_only=True)

    def __repr__(self) -> str:
        said = [repr(self.child), f"partitions={self.partitions!r}", *self._said()]
        return f"PartitionSupervisor({', '.join(said)})"


@dataclass(frozen=True, init=False, repr=False)
class ServerPool(Supervisor, Generic[S]):
    """A supervisor whose last child has the address of all: what `Pool.of(...)` describes.

    `await spawn(pool)` gives the address of that child, as a `Ref[S]`, and `stop` of it ends the
    whole pool. For people the child is called as the servers are for which it stands.
    """


class Expands(Protocol[S]):
    """What stands in a tree for a supervisor with all that is in it, as `Pool(size=4)` does."""

    def as_supervisor(self) -> ServerPool[S]:
        """Return that supervisor."""
        ...


def expanded(entry: Entry | Expands[Any]) -> Entry:
    """Return what an entry stands for; itself in most cases, also where it is none at all."""
    # Whoever runs no type checker may have given anything, also the class of a pool.
    given: Any = entry
    is_class = isinstance(entry, type)
    expand: Any = getattr(given, "as_supervisor", None)
    found: Entry = given if expand is None or is_class else expand()
    return found


Tree: TypeAlias = Supervisor | DynamicSupervisor | PartitionSupervisor
"""What may be a node's tree."""

Entry: TypeAlias = ChildSpec[Any] | Tree
"""What may stand in a `Supervisor`."""

Spawnable: TypeAlias = ChildSpec[S] | ServerPool[S] | Expands[S]
"""What `spawn` takes besides a class: what has one address, a `Ref[S]`."""


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
